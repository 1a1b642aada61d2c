"""The bastion is stopped and reloaded while people work: each is told, every recording has its end."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import asyncssh
import pytest

from tests.support.chaos import KEPT, FaultSite, Load, frozen, holds, is_running, patience, tapes, verdicts
from tests.support.net import LOOPBACK, wait_until
from tests.support.rawssh import DISCONNECT, USERAUTH_SUCCESS, Raw, disconnect_reason
from tests.support.sshd import SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

PEOPLE: Final = 50
AT_ONCE: Final = 8  # under the limit of connections from one source that have not logged in
STOP_SECONDS: Final = 15.0
"""TimeoutStopSec of policyd's unit, the shortest: later than that systemd kills."""


@pytest.fixture
def site(fault_site: FaultSite) -> Iterator[FaultSite]:
    yield fault_site
    assert fault_site.go("echo alive").out == b"alive\n", "the bastion does not work any more"


def test_fifty_people_are_told_when_the_bastion_goes_down(site: FaultSite, load: Load) -> None:
    ways = [("direct", ()), ("direct", ("-tt",)), ("jump", ()), ("jump", ("-tt",))]
    for first in range(0, PEOPLE, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, PEOPLE))
        begun = [
            load.command(f"p{number}", "echo here; cat", *options, entry=entry, stdin=subprocess.PIPE)
            for number in numbers
            for entry, options in [ways[number % len(ways)]]
        ]
        for stream in begun:
            wait_until(f"{stream.name}: {stream.err}", lambda stream=stream: stream.size, patience(20))  # type: ignore[misc]
    busy = [load.counting("busy"), load.counting("busy-tty", "-tt")]
    for stream in busy:
        stream.flows(5000)
    wait_until("these sessions alone", lambda: len(site.sessions()) == PEOPLE + len(busy))
    assert site.process is not None
    children = [pid for role in ("recorder", "policy", "bastion.ssh") for pid in site.pids(role)]
    idle = socket.create_connection((LOOPBACK, site.port), source_address=("127.0.0.9", 0))
    with idle:
        began = time.monotonic()
        site.process.send_signal(signal.SIGTERM)
        wait_until("the end of the listener", lambda: not _listens(site), patience(10))
        assert site.process.poll() is None, "nobody new comes in while those who are there are told"
        assert site.process.wait(patience(STOP_SECONDS)) == 0
        took = time.monotonic() - began
    site.process = None
    assert not any(map(is_running, children))
    assert took < patience(STOP_SECONDS), f"{took:.1f} s"
    print(f"{PEOPLE + len(busy)} sessions ended in {took:.1f} s")
    for stream in load.streams:
        assert stream.wait() == 143, stream.err
        assert "bastion: session ended: the bastion is going down" in stream.err, stream.name
        assert "bastion: log in again in a moment" in stream.err, stream.name
    site.start_bastion()
    mine = {name: tape for name in (stream.name for stream in load.streams) for tape in _all(site, name)}
    assert len(mine) == PEOPLE + len(busy)
    for tape in mine.values():
        assert tape.ended is not None
        assert tape.ended.reason == "shutdown"
    for stream in busy:
        holds(mine[stream.name], stream.received, stream.name)
    found = verdicts(site)
    assert {found[tape.session] for tape in mine.values()} == {"ok"}
    ends = {row["session"]: row["why"] for row in site.audit() if row["event"] == "session-end"}
    assert all("going down" in ends[tape.session] for tape in mine.values()), "and the trail says why, for each"
    assert site.bastion("audit", "verify").returncode == 0


def _listens(site: FaultSite) -> bool:
    try:
        socket.create_connection((LOOPBACK, site.port), timeout=5, source_address=("127.0.0.9", 0)).close()
    except OSError:
        return False
    return True


def _all(site: FaultSite, name: str) -> list:  # type: ignore[type-arg]
    key = id(site), site.log.stat().st_size
    if key not in _read:
        _read.clear()
        _read[key] = tapes(site)
    return [tape for tape in _read[key] if any(f": {name};".encode() in command for command in tape.commands)]


_read: dict[tuple[int, int], list] = {}  # type: ignore[type-arg]


def test_a_login_that_is_finished_while_the_bastion_goes_down_opens_no_session(site: FaultSite, load: Load) -> None:
    """They were let in before; what they would begin now, nobody would end in order."""
    held = load.command("holds", "echo here; exec sleep 60", stdin=subprocess.PIPE)
    wait_until("a session", lambda: held.size, patience(20))
    key = asyncssh.read_private_key(site.key("alice"))
    worker, since = site.pid("bastion.ssh"), len(tapes(site))

    async def late() -> str:
        raw = await (await Raw.connect(site.port)).begin()
        # Its recorder stands still, so that the worker has still something to wait for when the login comes.
        with frozen(site.pid("recorder")):
            os.kill(worker, signal.SIGTERM)
            wait_until("its end in sight", lambda: not _listens(site), patience(10))
            raw.prove(site.login(), key)
            assert (await raw.hear())[0] == USERAUTH_SUCCESS
            kind, payload = await raw.hear(patience(10))
            return disconnect_reason(payload) if kind == DISCONNECT else ""

    assert "going down" in asyncio.run(late())
    site.recovers()
    assert len(tapes(site)) <= since + 1, "the one that `recovers` made"


def test_a_reload_leaves_sessions_alone(site: FaultSite, load: Load) -> None:
    streams = [load.counting("hup", to=KEPT), load.counting("hup-jump", entry="jump")]
    for stream in streams:
        stream.flows(1000)
    before = {role: site.pid(role) for role in ("recorder", "policy", "bastion.ssh")}
    text = site.config.read_text()
    try:
        site.reconfigure(text.replace("[ssh]", "[ssh]\nkeepalive = 29.0", 1))
        for stream in streams:
            stream.flows(1000)
        kept = site.log.read_text().count('"configuration kept"')
        site.config.write_text(text + "\n[[[")
        os.kill(site.supervisor, signal.SIGHUP)
        wait_until("what is wrong with it", lambda: site.log.read_text().count('"configuration kept"') > kept)
        for pid in before.values():
            os.kill(pid, signal.SIGHUP)  # as systemd would, past the supervisor: each of them reads it by itself
        for stream in streams:
            stream.flows(1000)
    finally:
        site.reconfigure(text)
    assert before == {role: site.pid(role) for role in before}
    for stream in streams:
        stream.flows(1000)
        assert stream.process.poll() is None
