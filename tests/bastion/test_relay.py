"""A granted session from its first byte to its end: recorded, then passed on; ended for whatever reason, and said why.

Targets are stock asyncssh servers in the loop of the test where they must misbehave, a real sshd elsewhere; people
are the real ssh where it matters what they see.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from struct import pack
from typing import Any

import asyncssh
import msgspec
import pytest
from asyncssh.packet import String

from bastion.ssh import door as door_module
from bastion.ssh import relay as relay_module
from policy.messages import (
    Allowed,
    Authorize,
    Credential,
    EndSession,
    OpenChannel,
    Refused,
    Report,
    SessionEnded,
    SessionStarted,
)
from policy.model import ChannelKind
from recorder.model import Exit, ForwardNote, Kind, Start
from tests.bastion.aio import asynchronous, quiet, until
from tests.bastion.site import Site, key
from tests.bastion.ssh import VIA, finish, ssh, start
from tests.bastion.targets import Target, shell
from tests.support.sshd import Sshd

DENIED = Refused(code=77, cause="not allowed here", hint="ask for it: ssh bastion request web1", ref="A-7")


@asynccontextmanager
async def world(tmp_path: Path, handler: Any = None, **settings: Any) -> AsyncIterator[tuple[Site, Target]]:
    async with Target(handler) as target, Site(tmp_path, **settings) as site:
        site.target_port = target.port
        yield site, target


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    home = tmp_path_factory.mktemp("sshd")
    home.mkdir(exist_ok=True)
    (home / "host_key").write_bytes(key("target").export_private_key())
    (home / "host_key").chmod(0o600)
    (home / "host_key.pub").write_bytes(key("target").export_public_key())
    (home / "client_key").write_bytes(key("vault").export_private_key())
    (home / "client_key.pub").write_bytes(key("vault").export_public_key())
    (home / "authorized_keys").write_bytes(key("vault").export_public_key())
    server = Sshd(home)
    server.start()
    yield server
    server.stop()


def starts(site: Site) -> list[Start]:
    return [msgspec.msgpack.decode(note, type=Start) for note in site.tape.notes(Kind.START)]


def exits(site: Site) -> list[Exit]:
    return [msgspec.msgpack.decode(note, type=Exit) for note in site.tape.notes(Kind.EXIT)]


def forwards(site: Site) -> list[ForwardNote]:
    return [msgspec.msgpack.decode(note, type=ForwardNote) for note in site.tape.notes(Kind.FORWARD)]


# --- recorded, then passed on ---------------------------------------------------------------------------


@asynchronous
async def test_nothing_runs_before_its_start_is_written(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        client = await site.client()
        await until("the session is up", lambda: site.relay)
        site.recorder.hold = True
        running = asyncio.ensure_future(client.run("exit 5"))
        await until("the start is recorded", lambda: starts(site))
        await quiet()
        assert target.commands == []
        site.recorder.release()
        assert (await running).exit_status == 5
        assert target.commands == ["exit 5"]
        client.abort()


@asynchronous
async def test_no_output_is_shown_before_it_is_written(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        client = await site.client()
        process = await client.create_process("cat", encoding=None)
        process.stdin.write(b"one")
        assert await process.stdout.readexactly(3) == b"one"
        site.recorder.hold = True
        site.relay.record(Kind.MARKER, b"hold")  # whatever comes now waits
        process.stdin.write(b"two")
        await until("the input is recorded", lambda: b"two" in site.tape.of(Kind.INPUT, Kind.SEALED_INPUT))
        await quiet()
        assert b"two" not in site.tape.of(Kind.OUTPUT), "not even the target has seen it"
        site.tape.acknowledge()
        await until("the output is recorded", lambda: b"two" in site.tape.of(Kind.OUTPUT))
        reading = asyncio.ensure_future(process.stdout.readexactly(3))
        await quiet()
        assert not reading.done()
        site.tape.acknowledge()
        assert await reading == b"two"
        client.abort()


@asynchronous
async def test_the_exit_status_waits_as_well(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        client = await site.client()
        await until("the session is up", lambda: site.relay)
        process = await client.create_process("wait", encoding=None)
        assert await process.stdout.readexactly(6) == b"ready\n"
        site.recorder.hold = True
        process.stdin.write_eof()
        await until("the exit is recorded", lambda: exits(site))
        await quiet()
        assert process.exit_status is None
        site.recorder.release()
        await process.wait()
        assert process.exit_status == 0
        assert exits(site) == [Exit(status=0)]
        client.abort()


@pytest.mark.parametrize("via", VIA)
@asynchronous
async def test_a_command_by_the_real_client_to_a_real_sshd(via: str, sshd: Sshd, tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.target_port = sshd.port
        said = await ssh(site, "echo out; echo err >&2; cat; exit 7", given=b"typed", via=via,
                         env={"LC_STORY": "yes"}, options=("-o", "SendEnv=LC_STORY"))  # fmt: skip
        assert (said.code, said.output, said.error) == (7, b"out\ntyped", "err\n")
        await until("the recording is closed", lambda: site.tape.end)
        assert starts(site) == [Start(kind="exec", command=b"echo out; echo err >&2; cat; exit 7",
                                      env={"LC_STORY": b"yes"})]  # fmt: skip
        assert site.tape.of(Kind.OUTPUT) == b"out\ntyped"
        assert site.tape.of(Kind.STDERR) == b"err\n"
        assert exits(site) == [Exit(status=7)]
        assert site.tape.end is not None
        assert site.tape.end.reason == "closed"
        assert site.tape.open is not None
        assert site.tape.open.private["person"] == "alice"
        assert site.tape.open.private["via"] == via
        assert [type(message) for message in site.told] == [SessionEnded]
        assert site.asked_for(SessionStarted)[0].recording == f"{site.tape.open.session}.rec"
        assert site.tape.late == []


@pytest.mark.parametrize("via", VIA)
@asynchronous
async def test_bulk_both_ways_by_the_real_client(via: str, sshd: Sshd, tmp_path: Path) -> None:
    data = random.Random(3).randbytes(6_000_000)
    async with Site(tmp_path) as site:
        site.target_port = sshd.port
        said = await ssh(site, "cat", given=data, via=via, options=("-o", "RekeyLimit=1M"))
        assert said.code == 0
        assert hashlib.sha256(said.output).digest() == hashlib.sha256(data).digest()
        sent, received = site.told_of(SessionEnded)[0].bytes_in, site.told_of(SessionEnded)[0].bytes_out
        assert sent == received == len(data)


@asynchronous
async def test_a_terminal_with_its_sizes(sshd: Sshd, tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.target_port = sshd.port
        async with await site.client() as client:
            process = await client.create_process("stty size; read x; stty size; echo $TERM", term_type="vt220",
                                                  term_size=(91, 17))  # fmt: skip
            assert (await process.stdout.readline()).strip() == "17 91"
            process.change_terminal_size(101, 23)
            process.stdin.write("\n")
            said = await process.stdout.read()
            assert "23 101" in said
            assert "vt220" in said
        await until("the recording is closed", lambda: site.tape.end)
        assert (starts(site)[0].term, starts(site)[0].columns, starts(site)[0].rows) == (b"vt220", 91, 17)
        assert site.tape.notes(Kind.RESIZE) == [b"101x23"]


@asynchronous
async def test_a_signal_is_relayed_and_recorded(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        async with await site.client() as client:
            result = await client.run("signal")
            assert result.exit_signal is not None
            assert result.exit_signal[:3] == ("TERM", True, "told to")
            assert exits(site) == [Exit(signal="TERM", core=True, message=b"told to")]


@asynchronous
async def test_input_ends_and_output_goes_on(sshd: Sshd, tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.target_port = sshd.port
        said = await ssh(site, "cat >/dev/null; echo done; sleep 0.2; echo really", given=b"all of it")
        assert (said.code, said.output) == (0, b"done\nreally\n")


@asynchronous
async def test_sftp_is_recorded_as_operations(sshd: Sshd, tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.target_port = sshd.port
        async with await site.client() as client, client.start_sftp_client() as files:
            async with files.open(str(tmp_path / "made"), "wb") as made:
                await made.write(b"content" * 1000)
        await until("the recording is closed", lambda: site.tape.end)
        assert (tmp_path / "made").read_bytes() == b"content" * 1000
        assert b"made" in site.tape.of(Kind.SFTP)
        assert hashlib.sha256(b"content" * 1000).digest() in site.tape.of(Kind.SFTP)
        assert site.tape.of(Kind.INPUT, Kind.CONTENT_IN) == b""


@asynchronous
async def test_content_is_kept_where_a_rule_demands_it(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        site.grant_changes["keep_content"] = True
        async with await site.client() as client:
            reader, writer = await client.open_connection("db", 5432, encoding=None)
            writer.write(b"select")
            assert await reader.readexactly(6) == b"select"
            assert site.tape.of(Kind.CONTENT_IN) == b"select"
            assert site.tape.of(Kind.CONTENT_OUT) == b"select"


# --- what policyd denies --------------------------------------------------------------------------------


@pytest.mark.parametrize("via", VIA)
@pytest.mark.parametrize("terminal", [False, True])
@asynchronous
async def test_a_denied_command_says_why_in_two_lines(via: str, terminal: bool, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        site.answers[OpenChannel] = lambda request: DENIED
        said = await ssh(site, "id", via=via, options=("-tt",) if terminal else ())
        assert said.code == 77
        assert said.lines == ["bastion: not allowed here", "bastion: ask for it: ssh bastion request web1  [A-7]"]
        assert target.commands == []
        await until("the recording is closed", lambda: site.tape.end)
        assert [(note.what, note.kind, note.detail, note.ref) for note in site.access()[1:]] == [
            ("denied", "exec", b"id", "A-7")
        ]


@asynchronous
async def test_a_login_that_is_denied_says_why_and_opens_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        site.answers[Authorize] = lambda request: DENIED
        said = await ssh(site, "id")
        assert said.code == 77
        assert said.lines == ["bastion: not allowed here", "bastion: ask for it: ssh bastion request web1  [A-7]"]
        assert target.connections == []
        assert site.recorder.tapes == []
        assert site.asked_for(Credential) == []


@asynchronous
async def test_a_slow_denial_before_and_a_fast_one_after_the_terminal(tmp_path: Path) -> None:
    """However policyd and the target race, the client hears that its start succeeded and then why it did not."""
    gate = asyncio.Event()

    async def slow(request: OpenChannel) -> Refused:
        await gate.wait()
        return DENIED

    async with world(tmp_path) as (site, _):
        site.answers[OpenChannel] = slow
        process = await start(site, "id", options=("-tt",))
        await until("policyd is asked", lambda: site.asked_for(OpenChannel))
        gate.set()
        said = await finish(process)
        assert (said.code, len(said.lines)) == (77, 2)


OPENS = {ChannelKind.AGENT: b"auth-agent@openssh.com", ChannelKind.X11: b"x11"}
ASKS = {
    ChannelKind.AGENT: (b"auth-agent-req@openssh.com", b""),
    ChannelKind.X11: (b"x11-req", b"\0" + pack(">I", 18) + b"MIT-MAGIC-COOKIE-1" + pack(">I", 4) + b"00ff" + bytes(4)),
}


@pytest.mark.parametrize("kind", OPENS)
@pytest.mark.parametrize("allowed", [True, False])
@asynchronous
async def test_agent_and_x11_come_back_only_if_allowed(
    kind: ChannelKind, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = asyncssh.channel.SSHClientChannel._make_request

    async def asked_first(self: Any, request: bytes, *args: Any) -> bool:
        if request == b"exec":
            assert await real(self, ASKS[kind][0], ASKS[kind][1]) in (True, False)
        return bool(await real(self, request, *args))

    monkeypatch.setattr(asyncssh.channel.SSHClientChannel, "_make_request", asked_first)
    async with world(tmp_path) as (site, target):
        site.answers[OpenChannel] = lambda request: DENIED if request.kind == kind.value and not allowed else None
        client = await site.client()
        heard: list[bytes] = []

        def has_none(*_: Any) -> Any:
            heard.append(b"open")
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the client itself has none")

        client._process_auth_agent_at_openssh_dot_com_open = has_none  # type: ignore[assignment]
        client._process_x11_open = has_none  # type: ignore[assignment]
        process = await client.create_process("wait")
        await process.stdout.readexactly(6)
        (answer,) = await opened_by(target, OPENS[kind])
        assert (b"the client itself has none" in answer) is allowed
        assert (b"not asked for" in answer) is not allowed
        assert heard == ([b"open"] if allowed else [])
        assert [request.kind for request in site.asked_for(OpenChannel)] == [kind.value, "exec"]
        client.abort()


async def opened_by(target: Target, kind: bytes) -> list[bytes]:
    """The target opens a channel; the refusals that it gets."""
    there = target.connections[-1]
    answers: list[bytes] = []
    real = there.process_packet

    def heard(message: int, seq: int, packet: Any) -> Any:
        if message != 92:
            assert message != 91, "confirmed"
            return real(message, seq, packet)
        answers.append(packet.get_remaining_payload())
        packet.get_bytes(len(packet.get_remaining_payload()))
        return True

    there.process_packet = heard  # type: ignore[method-assign]
    one = pack(">I", 1) + b"h" + pack(">I", 22)
    rest = {b"x11": one, b"auth-agent@openssh.com": b""}.get(kind, one * 2)
    there.send_packet(90, pack(">I", len(kind)) + kind + pack(">III", 77, 1 << 20, 32768) + rest)
    await until("it is answered", lambda: answers)
    assert answers[0][:4] == pack(">I", 77)
    return answers


# --- how it can end -------------------------------------------------------------------------------------


async def waiting(site: Site, via: str = "direct") -> Any:
    """The real client with a command that runs until something ends it."""
    process = await start(site, "wait", via=via)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readexactly(6), 30) == b"ready\n"
    return process


async def ended(site: Site, process: Any) -> tuple[Any, Any]:
    said = await finish(process)
    await until("the recording is closed", lambda: site.tape.closed)
    assert site.tape.late == []
    return said, site.tape.end


@pytest.mark.parametrize("via", VIA)
@asynchronous
async def test_a_kill_ends_both_legs_and_says_who_and_why(via: str, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        process = await waiting(site, via)
        grant = site.relay.grant
        site.doors[-1].pushed(EndSession(session=grant.session, by="carol", reason="wrong machine"))
        said, end = await ended(site, process)
        assert said.code == 143
        assert said.lines[0] == "bastion: session ended: carol: wrong machine"
        assert len(said.lines) == 2
        assert (end.reason, end.by, end.text) == ("killed", "carol", "carol: wrong machine")
        await until("the target's leg is closed", target.connections[-1].is_closed)
        assert site.told_of(SessionEnded)[0].by == "carol"


@asynchronous
async def test_a_killed_session_opens_nothing_more_in_its_last_second(tmp_path: Path) -> None:
    """Attack: a multiplexed second session or forward in the time that the client has to leave by itself."""
    gate = asyncio.Event()

    async def slow(request: OpenChannel) -> Allowed:
        if request.kind != "exec" or request.detail != "wait":
            await gate.wait()
        return Allowed()

    async with world(tmp_path) as (site, target):
        site.answers[OpenChannel] = slow
        client = await site.client()
        process = await client.create_process("wait")
        await process.stdout.readexactly(6)
        pending = asyncio.ensure_future(client.open_connection("db", 5432))
        later = asyncio.ensure_future(client.run("exit 0"))
        await until("policyd is asked about both", lambda: len(site.asked_for(OpenChannel)) == 3)
        site.doors[-1].pushed(EndSession(session="", by="carol", reason="stop"))
        gate.set()
        with pytest.raises(asyncssh.ChannelOpenError, match="session ended: carol: stop"):
            await pending
        result = await later
        assert result.exit_status != 0
        assert target.commands == ["wait"]
        third = await asyncio.gather(client.run("exit 0"), return_exceptions=True)
        assert getattr(third[0], "exit_status", 1) != 0
        assert target.commands == ["wait"]
        client.abort()


@pytest.mark.parametrize("limit", ["expires_in", "idle"])
@pytest.mark.parametrize("via", VIA)
@asynchronous
async def test_a_limit_that_is_reached_ends_it(limit: str, via: str, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        site.grant_changes[limit] = 1.0
        process = await waiting(site, via)
        said, end = await ended(site, process)
        assert said.code == 143
        assert len(said.lines) == 2
        assert end.reason == {"expires_in": "expired", "idle": "idle"}[limit]
        assert ("time granted" if limit == "expires_in" else "nothing was typed") in said.lines[0]


@asynchronous
async def test_bytes_that_pass_are_no_idleness(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        site.grant_changes["idle"] = 1000.0
        async with await site.client() as client:
            process = await client.create_process("cat", encoding=None)
            session = site.relay.session
            real = session._clock
            ahead = 0.0
            session._clock = lambda: real() + int(ahead * 1e9)
            for _ in range(3):
                ahead += 900
                process.stdin.write(b"x")
                await process.stdout.readexactly(1)
                site.relay.tick()
            assert not site.relay.over
            ahead += 1001
            site.relay.tick()
            assert site.relay.over == "idle"


@pytest.mark.parametrize("via", VIA)
@asynchronous
async def test_a_lost_recorder_ends_it_at_once(via: str, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        process = await waiting(site, via)
        site.tape.hang_up()
        said = await finish(process)
        assert said.code == 76
        assert said.lines[0] == "bastion: session ended: the recording failed: recorderd is gone"
        assert len(said.lines) == 2
        await until("the target's leg is closed", target.connections[-1].is_closed)
        assert site.told_of(Report)[0].event == "recorder-lost"
        assert [message.reason for message in site.told_of(SessionEnded)] == ["the recording failed: recorderd is gone"]


@asynchronous
async def test_a_stalled_recorder_ends_it_even_when_the_command_is_long_done(tmp_path: Path) -> None:
    """The target has closed, its last words wait for a recorder that is stopped: the person must hear of it."""
    async with world(tmp_path, stall=0.3) as (site, _):
        process = await waiting(site)
        site.recorder.hold = True
        assert process.stdin is not None
        process.stdin.write_eof()
        said = await finish(process)
        assert said.code == 76
        assert "has not answered" in said.lines[0]


@asynchronous
async def test_a_recorder_that_refuses_means_no_session(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        site.recorder.refuse = "less than 512 MiB are free"
        said = await ssh(site, "id")
        assert said.code == 76
        assert "less than 512 MiB are free" in said.lines[0]
        assert len(said.lines) == 2
        assert target.connections == []
        assert site.asked_for(Credential) == [], "no credential leaves the vault for it"


@pytest.mark.parametrize("via", ["direct", "jump"])
@asynchronous
async def test_a_fault_of_ours_while_dialling_is_said_and_leaves_nothing_open(via: str, tmp_path: Path) -> None:
    """Here a pinned key that is none, which policyd never sends. A client that hears nothing waits for ever."""
    async with world(tmp_path) as (site, target):
        site.grant_changes["host_keys"] = [b"no key at all"]
        said = await ssh(site, "id", via=via)
        assert said.code == 69
        assert said.lines == [
            "bastion: internal error of the bastion", "bastion: tell the people who run it",
        ]  # fmt: skip
        assert target.connections == []
        await until("policyd knows of its end", lambda: site.told_of(SessionEnded))


@pytest.mark.parametrize("via", ["direct", "jump"])
@asynchronous
async def test_no_certificate_store_of_the_home_folder_is_looked_for(
    via: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: whoever may write to ~/.ssh/crt would be any target; asyncssh trusts what lies there by itself."""
    (tmp_path / "home/.ssh/crt").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    async with world(tmp_path) as (site, _):
        process = await waiting(site, via)
        relays = [door.relay for door in site.gateway.doors if door.relay is not None]
        assert relays
        for relay in relays:
            for leg in (relay.target, relay.door):
                assert leg is not None
                assert not leg._x509_trusted_certs
                assert not leg._x509_trusted_cert_paths
        process.kill()


@asynchronous
async def test_no_recorder_means_no_session(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        (site.recorder.run / "recorderd.sock").unlink()
        said = await ssh(site, "id")
        assert (said.code, len(said.lines)) == (76, 2)
        assert target.connections == []


@pytest.mark.parametrize("via", VIA)
@asynchronous
async def test_a_target_that_is_gone_mid_stream(via: str, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        process = await waiting(site, via)
        target.connections[-1].abort()
        said, end = await ended(site, process)
        assert said.code == 69
        assert said.lines[0].startswith("bastion: session ended: target `web1` is gone")
        assert len(said.lines) == 2
        assert end.reason == "target-lost"


@pytest.mark.parametrize("via", VIA)
@asynchronous
async def test_a_client_that_drops_its_connection_after_the_last_channel_has_left_well(
    via: str, tmp_path: Path
) -> None:
    async with world(tmp_path) as (site, _):
        said = await ssh(site, "exit", "3", via=via)
        assert said.code == 3
        client = await site.client()
        await client.run("exit 0")
        client.abort()
        await until("both recordings are closed", lambda: [tape.closed for tape in site.recorder.tapes] == [True] * 2)
        assert [tape.end.reason for tape in site.recorder.tapes if tape.end] == ["closed", "closed"]


@asynchronous
async def test_what_a_target_says_in_leaving_is_neutral(tmp_path: Path) -> None:
    """Attack: the reason of a disconnect is the target's own text, and goes to terminals and lists."""
    async with world(tmp_path) as (site, target):
        process = await waiting(site)
        target.connections[-1]._send_disconnect(2, "\x1b]52;c;ZXZpbA==\x07bye\u202e", "")
        said, end = await ended(site, process)
        assert "bye" in said.error
        for text in (said.error, end.text, site.told_of(SessionEnded)[0].reason):
            assert not set(text) & set("\x1b\x07\u202e"), repr(text)


@asynchronous
async def test_policyd_lost_ends_it(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        process = await waiting(site)
        site.doors[-1].policy_lost()
        said, end = await ended(site, process)
        assert said.code == 69
        assert end.reason == "policy-lost"


@asynchronous
async def test_a_person_who_leaves_ends_it(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        process = await waiting(site)
        process.kill()
        await process.wait()
        await until("the recording is closed", lambda: site.tape.closed)
        assert site.tape.end is not None
        assert site.tape.end.reason == "client-lost"
        await until("the target's leg is closed", target.connections[-1].is_closed)
        assert site.tape.late == []


@asynchronous
async def test_a_person_who_leaves_while_the_target_talks_has_nothing_recorded_behind_the_end(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        site.recorder.answer_end = False
        client = await site.client()
        process = await client.create_process("flood 100000", encoding=None)
        await process.stdout.readexactly(1 << 20)
        client.close()
        await until("the recording ends", lambda: site.tape.end)
        await until("the target's leg is closed", target.connections[-1].is_closed)
        await quiet()
        assert site.tape.late == []


@asynchronous
async def test_an_end_while_the_target_is_still_being_dialled(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def never(request: Credential) -> None:
        await gate.wait()

    async with world(tmp_path) as (site, target):
        site.answers[Credential] = never
        process = await start(site, "id")
        await until("it is being dialled", lambda: site.asked_for(Credential))
        await until("its channel is open", lambda: site.doors[-1]._sessions)
        await quiet()
        site.doors[-1].pushed(EndSession(session="", by="carol", reason="not now"))
        said = await finish(process, seconds=10)
        assert said.code == 143
        assert said.lines[0] == "bastion: session ended: carol: not now"
        await until("the recording is closed", lambda: site.tape.closed)
        assert site.tape.end is not None
        assert site.tape.end.reason == "killed"
        assert len(site.told_of(SessionEnded)) == 1
        gate.set()
        await quiet()
        assert all(connection.is_closed() for connection in target.connections)


@asynchronous
async def test_a_recorder_lost_while_the_target_is_still_being_dialled(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def never(request: Credential) -> None:
        await gate.wait()

    async with world(tmp_path) as (site, _):
        site.answers[Credential] = never
        process = await start(site, "id")
        await until("it is being dialled", lambda: site.asked_for(Credential))
        site.tape.hang_up()
        said = await finish(process, seconds=10)
        assert said.code == 76
        assert len(site.told_of(SessionEnded)) == 1
        gate.set()


@asynchronous
async def test_policyd_that_takes_the_session_back_while_it_begins(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        site.answers[SessionStarted] = lambda request: Refused(code=77, cause="this session was revoked", hint="ask")
        said = await ssh(site, "id")
        assert said.code == 77
        assert said.lines[0] == "bastion: this session was revoked"
        assert target.commands == []
        await until("no connection is left behind", lambda: all(one.is_closed() for one in target.connections))


# --- channels -------------------------------------------------------------------------------------------


@asynchronous
async def test_channels_have_a_limit_and_places_come_back(tmp_path: Path) -> None:
    async with world(tmp_path, channels=4) as (site, _):
        async with await site.client() as client:
            running = [await client.create_process("wait") for _ in range(4)]
            with pytest.raises(asyncssh.ChannelOpenError, match="too many sessions"):
                await client.create_process("wait")
            for process in running:
                process.stdin.write_eof()
                await process.wait()
            for _ in range(10):
                assert (await client.run("exit 0")).exit_status == 0
            await until("every number is given back", lambda: not site.door._channels)
            assert not site.relay.channels


@asynchronous
async def test_no_more_sessions_means_none(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        async with await site.client() as client:
            process = await client.create_process("wait")
            client.send_packet(80, pack(">I", 28) + b"no-more-sessions@openssh.com\0")
            await until("it is understood", lambda: site.door._no_more_sessions)
            with pytest.raises(asyncssh.ChannelOpenError):
                await client.create_process("wait")
            process.stdin.write_eof()
            await process.wait()
            assert process.exit_status == 0


@asynchronous
async def test_forwards_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "MAX_FORWARDS", 5)
    async with world(tmp_path) as (site, _):
        async with await site.client() as client:
            writers = [(await client.open_connection("db", 5432))[1] for _ in range(5)]
            with pytest.raises(asyncssh.ChannelOpenError, match="too many"):
                await client.open_connection("db", 5432)
            for writer in writers:
                writer.close()
                await writer.wait_closed()
            await until("they are gone", lambda: not site.relay.channels)
            await client.open_connection("db", 5432)


@asynchronous
async def test_a_forward_is_recorded_at_both_ends_and_asked_about(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        async with await site.client() as client:
            reader, writer = await client.open_connection("db.example", 5432, encoding=None)
            writer.write(b"x" * 100_000)
            writer.write_eof()
            assert await reader.read() == b"x" * 100_000
            writer.close()
            await until("it is closed", lambda: len(forwards(site)) == 2)
            assert site.asked_for(OpenChannel)[0].kind == "forward-local"
            assert site.asked_for(OpenChannel)[0].detail == "db.example:5432"
            assert ("allowed", "forward-local") in [(one.what, one.kind) for one in site.access()]
            begun, over = forwards(site)
            assert (begun.state, over.state) == ("open", "close")
            assert begun.destination == b"db.example:5432"
            assert (over.sent, over.received) == (100_000, 100_000)


@asynchronous
async def test_a_denied_forward_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        site.answers[OpenChannel] = lambda request: DENIED
        async with await site.client() as client:
            with pytest.raises(asyncssh.ChannelOpenError, match="not allowed here") as caught:
                await client.open_connection("db", 5432)
            assert caught.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
            assert [note.what for note in site.access()] == ["granted", "denied"]


@pytest.mark.parametrize("kind", [b"forwarded-tcpip", b"auth-agent@openssh.com", b"x11", b"session", b"direct-tcpip",
                                  b"forwarded-streamlocal@openssh.com", b"tun@openssh.com", b""])  # fmt: skip
@asynchronous
async def test_what_a_target_opens_unasked_is_refused(kind: bytes, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        async with await site.client() as client:
            process = await client.create_process("wait")
            await process.stdout.readexactly(6)
            assert await opened_by(target, kind)
            process.stdin.write_eof()
            await process.wait()
            assert process.exit_status == 0, "the session goes on"


@asynchronous
async def test_remote_forwards_come_back_only_when_asked_for_and_allowed(sshd: Sshd, tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        site.target_port = sshd.port
        async with await site.client() as client:
            arrived: list[bytes] = []

            async def taken(reader: Any, writer: Any) -> None:
                arrived.append(await reader.read(5))
                writer.write(b"world")
                writer.write_eof()

            listener = await client.start_server(lambda host, port: taken, "127.0.0.1", 0, encoding=None)
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.get_port())
            writer.write(b"hello")
            assert await reader.read() == b"world"
            assert arrived == [b"hello"]
            writer.close()
            assert site.asked_for(OpenChannel)[0].kind == "forward-remote"
            await until("it is recorded", lambda: len(forwards(site)) == 2)
            assert forwards(site)[0].kind == "forward-remote"
            listener.close()
            await listener.wait_closed()
            await until("it is cancelled", lambda: not site.relay.remote_forwards)


@asynchronous
async def test_a_denied_remote_forward_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        site.answers[OpenChannel] = lambda request: DENIED
        async with await site.client() as client:
            with pytest.raises(asyncssh.ChannelListenError):
                await client.start_server(lambda host, port: shell, "127.0.0.1", 0)
            assert not site.relay.remote_forwards


@asynchronous
async def test_an_unknown_channel_and_an_unknown_global_request_are_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        async with await site.client() as client:
            channel = asyncssh.channel.SSHTCPChannel(client, client._loop, None, "strict", 1 << 20, 32768)
            with pytest.raises(asyncssh.ChannelOpenError, match="unknown channel type"):
                await channel._open(b"tun@openssh.com", pack(">II", 1, 0))
            answer, _ = await client._make_global_request(b"what@example.org", b"rest")
            assert answer == 82
            answer, _ = await client._make_global_request(b"keepalive@openssh.com")
            assert answer == 81


@asynchronous
async def test_a_target_asks_for_nothing_but_exits(tmp_path: Path) -> None:
    """A channel request from the target is a way to say something to the client that no recording has."""
    async with world(tmp_path) as (site, target):
        answers: list[bool] = []

        async def ask(process: Any) -> None:
            answers.append(await process.channel._make_request(b"what", String(b"unrecorded")))
            process.exit(0)

        target.handler = ask
        async with await site.client() as client:
            process = await client.create_process("x")
            heard: list[bool] = []
            process.channel._process_what_request = lambda packet: bool(heard.append(True)) or True
            await process.wait()
            assert answers == [False]
            assert heard == []


# --- people and targets that break the rules ------------------------------------------------------------


@asynchronous
async def test_a_target_that_sends_before_it_confirms_is_left(tmp_path: Path) -> None:
    """Attack: a flood for a channel that nobody has linked yet."""
    async with world(tmp_path) as (site, target):
        client = await site.client()
        await until("the session is up", lambda: site.relay)
        there = target.connections[-1]
        there._process_channel_open = None  # type: ignore[assignment]
        real = there.process_packet

        def flood(kind: int, seq: int, packet: Any) -> Any:
            if kind != 90:
                return real(kind, seq, packet)
            packet.get_string()
            number = packet.get_uint32()
            packet.get_bytes(len(packet.get_remaining_payload()))
            for _ in range(10):
                there.send_packet(94, pack(">II", number, 1000) + b"x" * 1000)
            return True

        there.process_packet = flood  # type: ignore[method-assign]
        result = await client.run("id")
        assert result.exit_status == 69
        assert "broke the protocol" in str(result.stderr)
        await until("the recording is closed", lambda: site.tape.end)
        assert site.tape.end is not None
        assert site.tape.end.reason == "target-lost"
        assert site.tape.of(Kind.OUTPUT) == b""
        client.abort()


@asynchronous
async def test_a_target_that_answers_what_nobody_asked_is_left(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        client = await site.client()
        process = await client.create_process("wait")
        await process.stdout.readexactly(6)
        channel = next(iter(target.connections[-1]._channels.values()))
        channel.send_packet(99)
        await process.wait()
        assert process.exit_status == 69
        assert site.relay.over == "target-lost"
        client.abort()


@asynchronous
async def test_a_person_who_floods_a_channel_that_waits_is_cut(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(request: OpenChannel) -> Allowed:
        await gate.wait()
        return Allowed()

    async with world(tmp_path) as (site, target):
        site.answers[OpenChannel] = slow
        client = await site.client()
        running = asyncio.ensure_future(client.run("id"))
        await until("policyd is asked", lambda: site.asked_for(OpenChannel))
        channel = next(iter(client._channels.values()))
        for _ in range(400):
            client.send_packet(94, pack(">II", channel._send_chan, 4096) + bytes(4096))
        await until("it is cut", lambda: site.doors[-1].is_closed())
        assert target.commands == []
        await asyncio.gather(running, return_exceptions=True)
        gate.set()


@asynchronous
async def test_a_person_may_send_as_much_as_the_window_says_before_the_command_runs(tmp_path: Path) -> None:
    """Early data is kept in order however long policyd takes, and no more of it is invited than is kept."""
    gate = asyncio.Event()

    async def slow(request: OpenChannel) -> Allowed:
        await gate.wait()
        return Allowed()

    async with world(tmp_path) as (site, _):
        site.answers[OpenChannel] = slow
        client = await site.client()
        running = asyncio.ensure_future(client.create_process("cat", encoding=None))
        await until("policyd is asked", lambda: site.asked_for(OpenChannel))
        channel = next(iter(client._channels.values()))
        await quiet()
        assert channel._send_window == 0
        gate.set()
        process = await running
        await until("the window opens", lambda: channel._send_window)
        process.stdin.write(b"y" * 3_000_000)
        process.stdin.write_eof()
        assert await process.stdout.read() == b"y" * 3_000_000
        client.abort()


@asynchronous
async def test_a_window_that_the_person_opens_while_the_target_confirms_is_not_lost(tmp_path: Path) -> None:
    """PuTTY opens with no window and adjusts at once; the target must hear of it whenever it is asked."""
    async with world(tmp_path) as (site, target):
        client = await site.client()
        await until("the session is up", lambda: site.relay)
        there = target.connections[-1]
        real = there.process_packet
        held: list[tuple[int, int, Any]] = []

        def hold(kind: int, seq: int, packet: Any) -> Any:
            if kind == 90:
                held.append((kind, seq, asyncssh.packet.SSHPacket(packet.get_remaining_payload())))
                packet.get_bytes(len(packet.get_remaining_payload()))
                return True
            return real(kind, seq, packet)

        there.process_packet = hold  # type: ignore[method-assign]
        running = asyncio.ensure_future(client.run("flood 3", encoding=None, window=10))
        await until("the target is asked to open", lambda: held)
        channel = next(iter(client._channels.values()))
        channel._recv_window = 1 << 20
        channel.send_packet(93, pack(">I", (1 << 20) - 10))
        await quiet()
        real(*held[0])
        result = await asyncio.wait_for(running, 30)
        assert isinstance(result.stdout, bytes)
        assert len(result.stdout) == 3 * 32768
        client.abort()


@asynchronous
async def test_a_window_that_overflows_ends_the_connection(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(request: Authorize) -> None:
        await gate.wait()

    async with world(tmp_path) as (site, _):
        site.answers[Authorize] = slow
        client = await site.client()
        running = asyncio.ensure_future(client.run("id"))
        await until("the channel is open", lambda: client._channels and next(
            iter(client._channels.values()))._send_chan is not None)  # fmt: skip
        channel = next(iter(client._channels.values()))
        for _ in range(3):
            channel.send_packet(93, pack(">I", 0xFFFFFFFF))
        await until("it is cut", lambda: site.doors[-1].is_closed())
        gate.set()
        await asyncio.gather(running, return_exceptions=True)


@asynchronous
async def test_a_channel_closed_while_it_waits_is_closed_and_its_place_comes_back(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(request: Authorize) -> None:
        await gate.wait()

    async with world(tmp_path) as (site, target):
        site.answers[Authorize] = slow
        client = await site.client()
        running = asyncio.ensure_future(client.run("exit 0"))
        await until("it is asked for", lambda: site.asked_for(Authorize))
        await until("the channel is open", lambda: client._channels and next(
            iter(client._channels.values()))._send_chan is not None)  # fmt: skip
        next(iter(client._channels.values())).close()
        await until("its place is free", lambda: not site.doors[-1]._sessions)
        assert not site.doors[-1]._channels
        gate.set()
        await asyncio.gather(running, return_exceptions=True)
        assert (await client.run("exit 4")).exit_status == 4, "the connection goes on"
        assert target.commands == ["exit 4"]
        client.abort()


@pytest.mark.parametrize("body", [b"", b"\0\0", b"\0\0\0\x04exe", b"\0\0\0\x04exec", b"\0\0\0\x04exec\1\0\0\0\xff"])
@asynchronous
async def test_a_request_that_is_none_ends_the_connection(body: bytes, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        client = await site.client()
        process = await client.create_process("wait")
        await process.stdout.readexactly(6)
        second = asyncio.ensure_future(client.create_session(asyncssh.SSHClientSession, "exit 0"))
        await asyncio.gather(second, return_exceptions=True)
        number = process.channel._send_chan
        client.send_packet(98, pack(">I", number) + body)
        if body == b"\0\0\0\x04exec\1\0\0\0\xff":
            await until("it is refused or cut", lambda: True)
        else:
            await until("it is cut", lambda: site.doors[-1].is_closed())
        assert target.commands == ["wait", "exit 0"]
        client.abort()


@asynchronous
async def test_a_slow_recorder_stops_both_legs_and_nothing_is_lost(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        client = await site.client()
        process = await client.create_process("flood 200", encoding=None)
        await process.stdout.readexactly(32768)
        site.recorder.hold = True
        # Past the part that is kept whole nothing needs the recorder; within it everything does.
        await quiet()
        site.recorder.release()
        rest = await process.stdout.read()
        assert len(rest) == 199 * 32768
        client.abort()


@asynchronous
async def test_a_recorder_that_owes_too_much_stops_the_reading(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        site.grant_changes["keep_content"] = True
        client = await site.client()
        await until("the session is up", lambda: site.relay)
        process = await client.create_process("flood 400", encoding=None, window=1 << 30)
        await process.stdout.readexactly(32768)
        site.recorder.hold = True
        await until("the reading stops", lambda: site.relay.target.packets._paused)
        assert site.door.packets._paused
        await quiet()
        assert site.relay.session.owed < 4 << 20
        site.recorder.release()
        rest = await process.stdout.readexactly(399 * 32768)
        assert rest == bytes(range(256)) * 128 * 399
        await until("the reading goes on", lambda: not site.door.packets._paused)
        client.abort()


def test_every_reason_that_the_person_hears_of_has_an_exit_code() -> None:
    from recorder.model import END_REASONS

    silent = {"closed", "client-lost", "interrupted"}
    assert set(relay_module.EXIT_OF) == END_REASONS - silent
