"""What goes wrong on the way to a target, and on the far side of it: clear words, an audit event, a log line."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from policy.messages import AccountAdd
from tests.e2e.conftest import DIAL
from tests.support.chaos import FaultSite, Load, ended_tape, holds, memory, patience, verdicts
from tests.support.net import LOOPBACK, wait_until
from tests.support.sshd import SSHD, keygen
from tests.support.toxic import At, Flooder, Link, Silent

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]


@pytest.fixture
def site(fault_site: FaultSite) -> Iterator[FaultSite]:
    yield fault_site
    assert fault_site.go("echo alive").out == b"alive\n", "the bastion does not work any more"


# --- names that lead nowhere --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "why"),
    [("root@nowhere", "no-target"), ("nobody-of-ours@web1", "no-account")],
    ids=["target", "account"],
)
def test_an_unknown_name_is_refused_with_an_id_that_leads_to_the_reason(site: FaultSite, login: str, why: str) -> None:
    """The person learns no more than that they may not; the audit trail has the reason, under the id they were told."""
    since = site.newest()
    done = site.ssh("direct", "id", options=("-l", login))
    err, (account, target) = done.stderr.decode(), login.split("@")
    assert (done.returncode, done.stdout) == (77, b"")
    assert f"bastion: `{account}` on `{target}` is not allowed or does not exist\n" in err
    assert "bastion: list what you may use: ssh bastion ls" in err
    ref = err.rpartition("[")[2].partition("]")[0]
    event = site.event("access-refused", since)
    assert (event["ref"], event["who"], event["what"]) == (ref, "alice", login)
    assert event["why"].startswith(why) or why == "no-account"
    wait_until("its line", lambda: any(
        ref in line and "access-refused" in line for line in site.log.read_text().splitlines()))  # fmt: skip


def test_what_exists_and_is_not_allowed_looks_like_what_does_not_exist(site: FaultSite) -> None:
    site.add_target("vault9", site.target, env="nobody")
    account = site.target.account
    said = []
    for target in ("vault9", "nowhere"):
        done = site.ssh("direct", "id", options=("-l", f"{account}@{target}"))
        words = done.stderr.decode().replace(target, "TARGET")
        said.append((done.returncode, words.partition("[")[0]))
    assert said[0] == said[1]


def test_an_unknown_target_behind_jump_is_refused_as_well(site: FaultSite, tmp_path: Path) -> None:
    """In the words of the channel: there is no session yet to which an exit code would belong."""
    config = tmp_path / "talkative"
    config.write_text(site.ssh_config.read_text().replace("LogLevel ERROR", "LogLevel INFO"))
    since = site.newest()
    words = ["ssh", "-F", str(config), "-o", "HostName=nowhere", "jump", "id"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience(30))
    assert (done.returncode, done.stdout) == (255, "")
    assert "open failed: administratively prohibited: bastion: " in done.stderr
    assert "no access to this account on this target" in done.stderr
    assert site.event("access-refused", since)["why"] == "no such target"


def test_an_unknown_key_is_refused_in_words_of_ssh_and_can_be_found_by_its_print(
    site: FaultSite, tmp_path: Path
) -> None:
    key, config = site.key("stranger"), tmp_path / "stranger"
    config.write_text(site.ssh_config.read_text().replace(str(site.key("alice")), str(key)))
    words = ["ssh", "-F", str(config), "direct", "id"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience(30))
    assert (done.returncode, done.stdout) == (255, "")
    assert "Permission denied" in done.stderr
    shown = _fingerprint(key.with_suffix(".pub"))

    def lines() -> list[str]:
        """Support is asked `why am I not let in`, and has the print of the key to look for."""
        return [line for line in site.log.read_text().splitlines() if shown in line and "login-failed" in line]

    wait_until("a line about it", lines)
    assert all("key is not known" in line and LOOPBACK in line for line in lines())


# --- a target that is not what it was -----------------------------------------------------------------


def test_a_wrong_host_key_shows_both_fingerprints_and_sends_no_credential(site: FaultSite, tmp_path: Path) -> None:
    other = keygen(tmp_path / "other").with_suffix(".pub")
    with Link((LOOPBACK, site.target.port)) as link:
        site.add_target("moved", At(site.target, link.address, pinned=other))
        seen, since = site.target.log().count("Accepted"), site.newest()
        said = site.go("id", to="moved")
    pinned, shown = (_fingerprint(path) for path in (other, site.target.host_key))
    assert said.code == 69
    assert said.out == b""
    assert f"target `moved` shows host key {shown}, pinned is {pinned}" in said.err
    assert f"bastion target hostkey moved --accept {shown}" in said.err
    event = site.event("host-key-mismatch", since)
    assert (event["who"], event["what"]) == ("alice", f"{site.target.account}@moved")
    assert pinned in event["detail"]
    assert shown in event["detail"]
    assert site.target.log().count("Accepted") == seen, "the credential went to a machine that is not the target"


def _fingerprint(public: Path) -> str:
    done = subprocess.run(["ssh-keygen", "-lf", str(public)], check=True, capture_output=True, text=True)
    return done.stdout.split()[1]


def test_a_credential_that_the_target_refuses_is_nobody_elses_fault(site: FaultSite, tmp_path: Path) -> None:
    since = site.newest()
    secret = keygen(tmp_path / "old").read_text()
    site.add_target("changed", site.target)
    site.ask(AccountAdd(account="olaf", target="changed", private_key=secret))
    done = site.ssh("direct", "id", options=("-l", "olaf@changed"))
    assert done.returncode == 69
    assert b"`changed` refused our credential for `olaf`" in done.stderr
    assert site.event("login-failed-at-target", since)["who"] == "alice"


# --- a target that is not there -----------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["direct", "jump"])
def test_a_target_that_is_down_is_said_at_once(site: FaultSite, entry: str) -> None:
    link = Link((LOOPBACK, site.target.port))
    name = f"down-{entry}"
    site.add_target(name, At(site.target, link.address))
    link.refuse()
    since = site.newest()
    if entry == "direct":
        said = site.go("id", to=name)
        assert said.code == 69
    else:
        said = site.go("id", entry="jump", options=("-o", f"HostName={name}"))
        assert said.code in (69, 255)
    assert f"target `{name}` cannot be reached: connection refused" in said.err
    assert said.out == b""
    assert said.seconds < patience(10)
    event = site.event("target-unreachable", since)
    assert link.address in event["detail"]


def test_a_target_that_does_not_answer_is_given_up(site: FaultSite, load: Load) -> None:
    """Attack: a target that holds a dial for ever. Silent: it takes the connection; stuck: it stops mid-handshake."""
    since = site.newest()
    with Silent() as silent, Link((LOOPBACK, site.target.port)) as link:
        link.hang()
        site.add_target("silent", At(site.target, silent.address))
        site.add_target("stuck", At(site.target, link.address))
        began = time.monotonic()
        streams = [load.command(name, "id", to=name) for name in ("silent", "stuck")]
        for stream in streams:
            assert stream.wait() == 69
            assert f"`{stream.name}` cannot be reached: it did not answer within {DIAL:g} seconds" in stream.err
            assert stream.received == b""
            assert DIAL <= time.monotonic() - began < patience(DIAL + 5)
    wait_until("both events", lambda: len(site.events("target-unreachable", since)) == 2)


# --- a target that goes in between --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "finish"])
def test_a_target_that_hangs_up_mid_stream(site: FaultSite, load: Load, how: str) -> None:
    target = f"gone-{how}"
    with Link((LOOPBACK, site.target.port)) as link:
        site.add_target(target, At(site.target, link.address), env="kept")
        streams = [load.counting(f"{target}-cmd", to=target), load.counting(f"{target}-tty", "-tt", to=target)]
        for stream in streams:
            stream.flows(2000)
        getattr(link, how)()
        for stream in streams:
            assert stream.wait() == 69
            assert f"bastion: session ended: target `{target}` is gone" in stream.err
    for stream in streams:
        tape = ended_tape(site, stream.name)
        assert tape.ended is not None
        assert tape.ended.reason == "target-lost"
        holds(tape, stream.received, stream.name)
        assert verdicts(site, tape.session) == {tape.session: "ok"}
        assert any(f"target `{target}` is gone" in row["why"] for row in site.audit() if row["session"] == tape.session)


def test_a_target_that_freezes_is_noticed(site: FaultSite, load: Load) -> None:
    """No power, no network: no packet says so. Three questions without an answer do."""
    text = site.config.read_text()
    with Link((LOOPBACK, site.target.port)) as link:
        site.add_target("frozen", At(site.target, link.address), env="kept")
        try:
            site.reconfigure(text.replace("[ssh]\n", "[ssh]\nkeepalive = 1.0\n", 1))
            stream = load.counting("frozen", to="frozen").flows(1000)
            link.hang()
            assert stream.wait(15) == 69
            assert "bastion: session ended: target `frozen` is gone" in stream.err
        finally:
            site.reconfigure(text)
    tape = ended_tape(site, "frozen")
    assert tape.ended is not None
    assert tape.ended.reason == "target-lost"


def test_a_target_that_floods_before_it_confirms_a_channel_is_left(site: FaultSite, tmp_path: Path) -> None:
    """Attack: data for a channel that was never confirmed, without end. Nobody may hold it, nobody may see it."""
    worker = site.pid("bastion.ssh")
    with Flooder(tmp_path / "flooder") as flooder:
        site.add_target("flooder", flooder, env="kept")
        before = memory(worker)
        done = site.ssh("direct", "id", options=("-l", "root@flooder"))
        grown = memory(worker) - before
    assert done.returncode == 69
    assert done.stdout == b""
    assert b"target `flooder` broke the protocol" in done.stderr
    assert grown < 4 * 1024 * 1024, f"{grown / 1e6:.1f} MB more"
    assert site.pid("bastion.ssh") == worker
    wait_until("the audit event", lambda: "broke the protocol" in str(site.audit()), patience(10))
