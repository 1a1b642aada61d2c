"""recorderd or policyd is killed, stands still, has no disk: people are told, nothing passes unseen, it comes back."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from policy.messages import SessionKill
from tests.support.attempts import connected
from tests.support.chaos import (
    DISK,
    KEPT,
    STALL,
    FaultSite,
    Load,
    ended_tape,
    find_tape,
    frozen,
    holds,
    patience,
    tape_of,
    verdicts,
)
from tests.support.net import LOOPBACK, tail, wait_until
from tests.support.sshd import SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

MIB = 1024 * 1024
TALKING = ("-o", "LogLevel=INFO")  # as people have it; what a server says before login is shown from there on
NO_POLICY = [
    "bastion: the bastion's policy service does not answer",
    "bastion: try again in a moment; if it stays so, tell the people who run this bastion",
]


@pytest.fixture
def site(fault_site: FaultSite) -> Iterator[FaultSite]:
    yield fault_site
    assert fault_site.go("echo alive").out == b"alive\n", "the bastion does not work any more"


# --- recorderd ----------------------------------------------------------------------------------------


def test_recorderd_killed_ends_sessions_with_words_and_nothing_unrecorded(site: FaultSite, load: Load) -> None:
    since = site.newest()
    streams = [load.counting("rk-cmd"), load.counting("rk-tty", "-tt")]
    for stream in streams:
        stream.flows(5000)
    with site.without("recorder"):
        for stream in streams:
            assert stream.wait() == 76
            assert "bastion: session ended: the recording failed: " in stream.err
        refused = site.go("id")
        assert (refused.code, refused.out) == (76, b"")
        assert "bastion: recorderd is not there: " in refused.err
        assert "bastion: start it again: systemctl restart bastion-recorderd" in refused.err
        wait_until("the end of all sessions", lambda: not site.sessions(), patience(10))
    for stream in streams:
        tape = tape_of(site, stream.name)
        holds(tape, stream.received, stream.name)
        assert verdicts(site, tape.session)[tape.session] in ("truncated", "open", "recovered")
    mine = {tape_of(site, stream.name).session for stream in streams}

    def all_reported() -> bool:
        return mine < {row["session"] for row in site.events("recorder-lost", since)}

    wait_until("reports of both, and of the refused login", all_reported, patience(10))
    assert "recorder-lost" in tail(site.log, 400)


def test_recorderd_standing_still_stops_all_and_then_ends_all(site: FaultSite, load: Load) -> None:
    """A disk that hangs looks like this. Until it is given up nothing passes; nobody new is let in meanwhile."""
    stream = load.counting("rs", "-tt").flows(5000)
    began = time.monotonic()
    with frozen(site.pid("recorder")):
        wait_until("nothing coming any more", lambda: _stands_still(stream), patience(20))
        stopped = stream.size
        ended = stream.process.poll() is not None
        assert not ended or time.monotonic() - began > STALL - 1, "given up too soon"
        refused = site.go("id", timeout=patience(40))
        assert (refused.code, refused.out) == (76, b"")
        assert "bastion: recorderd did not answer within 5 seconds" in refused.err
        assert "bastion: start it again: systemctl restart bastion-recorderd" in refused.err
        assert refused.seconds < patience(8)
        assert stream.wait(60) == 76
        assert time.monotonic() - began > STALL - 1, "given up too soon"
        assert f"the recording failed: recorderd has not answered for {STALL} seconds" in stream.err
        assert stream.size == stopped, "bytes passed that nobody has recorded"
        received = stream.received
    site.recovers()
    holds(ended_tape(site, "rs"), received, "rs")


def _stands_still(stream: object, seconds: float = 1.0) -> bool:
    size = stream.size  # type: ignore[attr-defined]
    time.sleep(seconds)  # what does not come can only be waited for
    return bool(stream.size == size)  # type: ignore[attr-defined]


def test_a_full_disk_ends_sessions_in_order_and_refuses_new_ones_until_there_is_room(
    site: FaultSite, load: Load
) -> None:
    if not site.on_small_disk:
        pytest.skip("needs root: the recordings' disk is a small tmpfs")
    filler = site.home / "disk/filler"
    stream = load.counting("df").flows(5000)
    try:
        _fill(filler, leave=8 * MIB)
        wait_until("the low-water mark", lambda: site.go("id").code == 76, patience(10))
        refused = site.go("id")
        assert refused.out == b""
        assert "bastion: the recording cannot start: too little space is left for recordings" in refused.err
        assert stream.process.poll() is None, "a session that runs may go on until the disk is full"
        _fill(filler, leave=0)
        assert stream.wait(40) == 76
        assert "session ended: the recording failed: " in stream.err
        assert "the disk is full" in stream.err or "no space left" in stream.err
        received = stream.received
        tape = ended_tape(site, "df")
        holds(tape, received, "df")
        assert tape.ended is not None
        assert tape.ended.reason == "failed"
        assert verdicts(site, tape.session) == {tape.session: "ok"}, "its end was written into the space held back"
    finally:
        filler.unlink(missing_ok=True)
        site.recovers()


def _fill(filler: Path, leave: int) -> None:
    """Take what is free on a disk, until `leave` bytes are."""
    with filler.open("ab") as file:
        for _ in range(DISK * 2):
            state = os.statvfs(filler)
            free = state.f_bavail * state.f_frsize - leave
            if free <= 0:
                return
            try:
                file.write(bytes(min(free, MIB)))
                file.flush()
            except OSError:
                return


# --- policyd ------------------------------------------------------------------------------------------


def test_policyd_killed_ends_sessions_with_words_and_lets_nobody_in(site: FaultSite, load: Load) -> None:
    streams = [load.counting("pk-cmd"), load.counting("pk-tty", "-tt")]
    for stream in streams:
        stream.flows(5000)
    with site.without("policy"):
        for stream in streams:
            assert stream.wait() == 69
            assert "bastion: session ended: the bastion's policy service is gone" in stream.err
        refused = site.go("id", options=TALKING)
        assert (refused.code, refused.out) == (255, b"")
        assert refused.seconds < patience(10)
        assert refused.err.splitlines()[:2] == NO_POLICY
    for stream in streams:
        tape = ended_tape(site, stream.name)
        assert tape.ended is not None
        assert tape.ended.reason == "policy-lost"
        holds(tape, stream.received, stream.name)
        assert verdicts(site, tape.session) == {tape.session: "ok"}
        mine = [row for row in site.audit() if row["session"] == tape.session and row["event"] == "session-end"]
        assert [row["why"] for row in mine] == ["interrupted"]
    assert site.bastion("audit", "verify").returncode == 0


@pytest.mark.parametrize("entry", ["direct", "jump"])
def test_policyd_standing_still_lets_nobody_in_and_says_so(site: FaultSite, load: Load, entry: str) -> None:
    """Default deny: who is not answered is not let in, and is told so before they give up by themselves."""
    stream = load.counting("ps").flows(5000)
    with frozen(site.pid("policy")):
        refused = site.go("id", entry=entry, options=TALKING, timeout=patience(60))
        assert refused.code == 255
        assert refused.out == b""
        assert 4 < refused.seconds < patience(8)
        if entry == "direct":
            assert refused.err.splitlines()[:2] == NO_POLICY
        else:  # the outer ssh of `-J` has the level of ssh_config, and shows the reason of the disconnect
            assert "the bastion's policy service does not answer" in refused.err
        stream.flows(1000)
        assert stream.process.poll() is None, "a session that was granted goes on for as long as it was granted"
    site.recovers()
    stream.flows(1000)


def test_policyd_standing_still_opens_no_channel_in_a_session_that_goes_on(site: FaultSite, load: Load) -> None:
    """Each channel is asked about: unanswered it is refused, in words, and what was granted before is untouched."""
    path = load.folder / "mux"
    first = load.counting("mux", "-M", "-S", str(path)).flows(1000)
    wait_until("the control socket", path.exists)
    with frozen(site.pid("policy")):
        refused = site.go("id", options=("-S", str(path)), timeout=patience(60))
        assert (refused.code, refused.out) == (69, b"")
        assert refused.err.splitlines()[:2] == NO_POLICY
        assert refused.seconds < patience(8)
        first.flows(1000)
    wait_until("an answer", lambda: site.go("echo in", options=("-S", str(path))).out == b"in\n", patience(10))
    first.flows(1000)


def test_a_session_ends_at_its_time_though_policyd_stands_still(site: FaultSite, load: Load) -> None:
    """The gateway keeps the limits of what it was granted by itself."""
    stream = load.counting("alone", to="short").flows(100)
    with frozen(site.pid("policy")):
        assert stream.wait() == 143
        assert "the time granted for this session is over" in stream.err
    site.recovers()


# --- limits, and operators ----------------------------------------------------------------------------


def test_the_granted_time_ends_a_session_with_words(site: FaultSite, load: Load) -> None:
    since, began = site.newest(), time.monotonic()
    streams = [load.counting("short-cmd", to="short"), load.counting("short-tty", "-tt", to="short")]
    for stream in streams:
        assert stream.wait() == 143
        assert 4 <= time.monotonic() - began < patience(8)
        assert "bastion: session ended: " in stream.err
        assert "expired" in stream.err or "the time granted for this session is over" in stream.err
    for stream in streams:
        tape = ended_tape(site, stream.name)
        assert tape.ended is not None
        assert tape.ended.reason == "expired"
        assert tape.session in [row["session"] for row in site.events("session-expired", since)]
        assert verdicts(site, tape.session) == {tape.session: "ok"}


def test_a_session_in_which_nothing_passes_is_ended_and_one_that_is_used_is_not(site: FaultSite, load: Load) -> None:
    idle, used = load.command("idle", "cat", "-tt", to="idle", stdin=subprocess.PIPE), load.counting("used", to="idle")
    assert idle.wait() == 143
    assert "bastion: session ended: nothing was typed for too long" in idle.err
    assert used.process.poll() is None
    used.flows(100)
    tape = ended_tape(site, "idle")
    assert tape.ended is not None
    assert tape.ended.reason == "idle"
    assert any(
        row["session"] == tape.session and row["why"].startswith("nothing") for row in site.events("session-end")
    )


def test_a_kill_by_an_operator_closes_both_legs_and_says_by_whom(site: FaultSite, load: Load) -> None:
    streams = [
        load.counting("killed-cmd"),
        load.counting("killed-tty", "-tt"),
        load.counting("killed-jump", entry="jump"),
    ]
    for stream in streams:
        stream.flows(1000)
    sessions = {stream.name: tape_of(site, stream.name).session for stream in streams}
    wait_until("these sessions alone", lambda: set(sessions.values()) == {row["session"] for row in site.sessions()})
    for stream in streams:
        done = site.bastion("sessions", "kill", sessions[stream.name], "--reason", "lunch \x1b]0;is over\x07")
        assert sessions[stream.name] in done.stdout
        assert stream.wait() == 143
        assert "bastion: session ended: an operator: lunch " in stream.err
        assert "\x1b]0" not in stream.err, "a reason is text from outside as well"
        wait_until("the end on the target", lambda name=stream.name: not _runs_on_target(name), patience(10))  # type: ignore[misc]
    site.alone()
    for stream in streams:
        tape = ended_tape(site, stream.name)
        assert tape.ended is not None
        assert (tape.ended.reason, tape.ended.by.split()[0]) == ("killed", "operator")
        holds(tape, stream.received, stream.name)
        assert verdicts(site, tape.session) == {tape.session: "ok"}


@pytest.mark.parametrize("entry", ["direct", "jump"])
def test_a_killed_session_opens_no_further_channel(site: FaultSite, entry: str) -> None:
    """[S12] Attack: the connection of a killed session lives on for a moment, and asks for one more channel."""

    async def play() -> tuple[str, list[asyncssh.SSHCompletedProcess]]:
        async with connected(site, entry) as connection:
            channels = [await connection.create_process(f": s12-{n}; echo here; exec sleep 60") for n in "ab"]
            for channel in channels:
                assert await channel.stdout.readline() == "here\n"
            (session,) = [row["session"] for row in site.sessions()]
            site.ask(SessionKill(session=session, reason="enough"))
            ended = [await connection.run("echo after the kill")]
            with pytest.raises(asyncssh.ChannelOpenError, match="session ended"):
                await connection.open_connection(LOOPBACK, site.target.port)
            ended += [await channel.wait() for channel in channels]
            await asyncio.wait_for(connection.wait_closed(), patience(10))
            return session, ended

    site.alone()
    since = site.newest()
    session, ended = asyncio.run(play())
    for one in ended:
        assert one.exit_status == 143
        assert "bastion: session ended: an operator: enough" in str(one.stderr)
    assert ended[0].stdout == ""
    for name in ("s12-a", "s12-b"):
        wait_until("the end on the target", lambda name=name: not _runs_on_target(name), patience(10))  # type: ignore[misc]
    site.alone()
    kinds = [row["event"] for row in site.audit() if int(row["seq"]) > since and row["session"] == session]
    killed = next(at for at, kind in enumerate(kinds) if "kill" in kind)
    assert "channel-open" in kinds[:killed]
    assert "channel-open" not in kinds[killed:]
    tape = find_tape(site, "s12", lambda tape: tape.session == session)
    wait_until("the end of its recording", lambda: verdicts(site, session) == {session: "ok"}, patience(10))
    assert b"after the kill" not in b"".join(tape.commands)


def _runs_on_target(name: str) -> bool:
    """Clients have it in their command line, too; the target's shell has it as its only argument."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:2] == [b"-c"] and words[2:3] and words[2].startswith(f": {name};".encode()):
            return True
    return False


def test_a_killed_gateway_worker_comes_back_and_its_sessions_are_whole(site: FaultSite, load: Load) -> None:
    stream = load.counting("gw", to=KEPT).flows(5000)
    site.kill("bastion.ssh")
    assert stream.wait() == 255
    site.recovers()
    tape = ended_tape(site, "gw")
    assert tape.ended is not None
    assert tape.ended.reason == "interrupted"
    holds(tape, stream.received, "gw")
    assert verdicts(site, tape.session) == {tape.session: "ok"}
