"""The machine's clock is set back and forth by a day: limits, codes, certificates and recordings bear it.

libfaketime gives the bastion's processes another wall clock and leaves them the monotonic one, as settimeofday(2) does.
"""

import asyncio
import glob
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import asyncssh
import pyotp
import pytest

from policy import messages as m
from tests.support.chaos import KEPT, SHORT, FaultSite, Load, ended_tape, holds, patience, tape_of, tapes, verdicts
from tests.support.net import LOOPBACK, tail, wait_until
from tests.support.sshd import SSHD

LIBRARY: Final = next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), "")
DAY: Final = 86_400
STEP: Final = 30  # seconds of a one-time password

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
    pytest.mark.skipif(not LIBRARY, reason="needs libfaketime"),
]


@dataclass
class ClockSite(FaultSite):
    """Its clock goes as `set_clock` says: seconds ahead of ours, or behind."""

    ahead: float = 0.0

    @property
    def _offset(self) -> Path:
        return self.home / "clock"

    def start(self) -> "ClockSite":
        self.set_clock(0)
        self.environment = {
            "LD_PRELOAD": LIBRARY, "FAKETIME_TIMESTAMP_FILE": str(self._offset), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1",
            # Its fix for glibc from 2.30 on lets each wait for Python's lock end at once: threads spin, whoever has the
            # lock starves, and policyd takes minutes for a login.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }  # fmt: skip
        super().start()
        return self

    def set_clock(self, ahead: float) -> None:
        """In force in all processes when it returns."""
        self.ahead = ahead
        new = self._offset.with_suffix(".new")
        new.write_text(f"{ahead:+.1f}")
        new.replace(self._offset)

    def now(self) -> float:
        """The bastion's wall clock."""
        return time.time() + self.ahead


@pytest.fixture(scope="module")
def clock_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClockSite]:
    made = ClockSite(
        tmp_path_factory.mktemp("clock"),
        {"policy": ["lock_after = 100", "source_failures = 1000", "recheck_seconds = 1"]},
    )
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def site(clock_site: ClockSite) -> Iterator[ClockSite]:
    yield clock_site
    clock_site.set_clock(0)
    assert clock_site.go("echo alive").out == b"alive\n", tail(clock_site.log, 8)


def test_sessions_live_by_the_monotonic_clock_and_recordings_stay_in_order(site: ClockSite, load: Load) -> None:
    """A day back would make a limit of 4 s one of a day, a day ahead would end everybody at once."""
    stream = load.counting("clock", to=KEPT).flows(1000)
    for ahead in (-DAY, DAY):
        began = time.monotonic()
        short = load.counting(f"short{ahead}", to=SHORT)
        wait_until("its first words", lambda short=short: short.size or short.process.poll() is not None, patience(20))  # type: ignore[misc]
        site.set_clock(ahead)
        if time.monotonic() - began < 3:
            assert short.process.poll() is None
        assert short.wait() == 143
        assert 4 <= time.monotonic() - began < patience(15)
        assert "the time granted for this session is over" in short.err or "expired" in short.err
        stream.flows(1000)
    site.set_clock(0)
    stream.flows(1000)
    stream.process.terminate()
    stream.wait()
    ended_tape(site, "clock")
    for tape in tapes(site):
        times = [event.ms for event in tape.events]
        assert times == sorted(times), "time in a recording never runs backwards"
        assert times[-1] < 600_000, "and does not jump"
    holds(tape_of(site, "clock"), stream.received, "clock")
    assert site.bastion("audit", "verify").returncode == 0
    wait_until("every recording whole", lambda: set(verdicts(site).values()) == {"ok"}, patience(15))


def test_what_an_hour_forbids_ends_with_nobody_changing_anything(site: ClockSite, load: Load) -> None:
    """Attack: to come in before the hours are over, and to stay."""
    stream = load.counting("hours", to=KEPT).flows(1000)
    hour = (datetime.now(UTC) + timedelta(hours=3)).hour
    hours = f"{hour:02}:00-{(hour + 2) % 24:02}:00"
    forbid = f'\n[[rule]]\nname = "later"\neffect = "forbid"\nwhen = {{ hours = "{hours}" }}\n'
    try:
        site.set_rules(site.rules + forbid)
        stream.flows(1000)
        assert stream.process.poll() is None, "these are not the hours"
        site.set_clock(3 * 3600 + 60)
        assert stream.process.wait(patience(20)) == 143
        assert "no longer allowed" in stream.err
    finally:
        site.set_clock(0)
        site.set_rules(site.rules)


LEAVE: Final = """
[[rule]]
name    = "with leave"
who     = { roles = ["engineer"] }
where   = { labels = { env = "leave" } }
as      = ["*"]
allow   = ["exec"]
require = { approval = { by = ["lead"], count = 1 } }
"""


def test_leave_ends_when_the_clock_says_so_and_does_not_come_back(site: ClockSite, load: Load) -> None:
    """Attack: to set the clock back, and to use once more what is over. Ahead is no less an end."""
    site.add_target("leave", site.target, "leave")
    account = site.target.account
    try:
        site.set_rules(site.rules + LEAVE)
        site.ask(m.GrantAdd(person="alice", account=account, target="leave", seconds=3600, reason="clocks"))
        stream = load.counting("leave", to="leave").flows(1000)
        site.set_clock(7200)
        assert stream.process.wait(patience(20)) == 143
        assert site.go("echo in", to="leave").out == b""
        for ahead in (0, -DAY):
            site.set_clock(ahead)
            assert site.go("echo in", to="leave").out == b"", "what was over is over"
        site.ask(m.GrantAdd(person="alice", account=account, target="leave", seconds=3600, reason="a new one"))
        assert site.go("echo in", to="leave").out == b"in\n"
        site.set_clock(0)
        assert site.go("echo in", to="leave").out == b"", "given a day ago, for an hour"
    finally:
        site.set_clock(0)
        site.set_rules(site.rules)


def test_a_code_is_worth_nothing_twice_whatever_the_clock_says(site: ClockSite) -> None:
    """Attack: a code that was read over a shoulder becomes valid again when the clock is set back."""
    totp = pyotp.TOTP(site.seeds["bob"])
    now = site.now()
    used, earlier = totp.at(int(now)), totp.at(int(now) - DAY)
    assert code_works(site, used)
    assert not code_works(site, used)
    site.set_clock(-STEP)
    assert not code_works(site, used), "one step back it would be in the window"
    site.set_clock(-DAY)
    assert not code_works(site, earlier), "older than what was used: nobody can tell it from a replay"
    site.set_clock(10 * STEP)
    assert code_works(site, totp.at(int(site.now())))
    site.set_clock(0)
    assert not code_works(site, totp.at(int(site.now()))), "steps that were used up ahead of time stay used"


def code_works(site: ClockSite, code: str) -> bool:
    """bob's key and this code."""

    async def log_in() -> bool:
        class Bob(asyncssh.SSHClient):
            def kbdint_auth_requested(self) -> str:
                return ""

            def kbdint_challenge_received(self, name: str, instructions: str, lang: str, prompts: object) -> list[str]:
                return [code] if prompts else []

        try:
            async with asyncssh.connect(
                LOOPBACK, site.port, username="bob", client_factory=Bob, known_hosts=None, config=None,
                client_keys=[str(site.key("bob"))], agent_path=None, preferred_auth="publickey,keyboard-interactive",
            ) as connection:  # fmt: skip
                return "bob" in str((await connection.run("whoami")).stdout)
        except (asyncssh.Error, OSError):
            return False

    async def in_time() -> bool:
        async with asyncio.timeout(patience(30)):
            return await log_in()

    return asyncio.run(in_time())


def test_certificates_hold_when_the_clock_says_so_and_no_longer(site: ClockSite) -> None:
    """Both kinds: a person's, which we judge, and ours, which target and client judge by clocks of their own."""
    key = site.certificate("dave")
    mine = ("-i", str(key), "-o", f"CertificateFile={key}-cert.pub", "-l", f"dave@{site.login()}")
    assert site.ssh("direct", "echo in", options=mine).stdout == b"in\n"
    assert site.go("echo in", entry="jump").out == b"in\n"
    for ahead in (DAY, -DAY):
        site.set_clock(ahead)
        assert site.ssh("direct", "echo in", options=mine).returncode == 255, "not yet, or no longer"
        assert site.go("echo in").out == b"in\n", "who has a plain key is not locked out"
        said = site.go("echo in", entry="jump")
        assert (said.code, said.out) == (255, b""), "a client does not believe a certificate of another day"
        assert "ertificate" in said.err
    site.set_clock(0)
    assert site.ssh("direct", "echo in", options=mine).stdout == b"in\n"
    assert site.go("echo in", entry="jump").out == b"in\n", "a certificate of the wrong day is not shown again"
