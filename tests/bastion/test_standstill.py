"""A session that stands still: nothing passes, nothing is lost, nobody is kept in the dark, and it can still end."""

import asyncio
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from bastion.ssh import hold
from bastion.ssh.channels import CLOSE, DATA, EOF, WINDOW_ADJUST, End, Flow
from bastion.ssh.hold import Hold
from policy.messages import EndSession, Freeze, OpenChannel, Thaw, Warn
from tests.bastion.aio import asynchronous, quiet, until
from tests.bastion.leg import PaperLeg, PaperOwner
from tests.bastion.site import Site
from tests.bastion.ssh import VIA, finish, start
from tests.bastion.targets import Target
from tests.bastion.test_relay import ended, waiting, world

KINDS = ("shell", "exec", "sftp")


def push(site: Site, message: type, **more: str) -> None:
    site.doors[-1].pushed(message(session=site.relay.grant.session, **more))


def freeze(site: Site) -> None:
    push(site, Freeze, reason="nobody looks on")


def thaw(site: Site) -> None:
    push(site, Thaw)


# --- one end --------------------------------------------------------------------------------------------------


class Journal:
    """Everything is written at once."""

    ticket = acknowledged = 0

    def record(self, kind: int, channel: int, data: bytes) -> None:
        raise AssertionError("nothing to record")

    def wait(self, flow: Flow) -> None:
        raise AssertionError("nothing to wait for")


def linked() -> tuple[End, PaperOwner, PaperLeg]:
    """An open end whose data goes to another leg."""
    leg, other, owner = PaperLeg(), PaperLeg(), PaperOwner()
    end, to = End(leg, owner), End(other, owner)
    for one in (end, to):
        one.remote, one.max_packet, one.granted = 7, 32768, 1 << 20
    end.link(Flow(to, Journal(), 1, lambda _: ()))
    return end, owner, other


def test_what_comes_is_kept_in_order_and_goes_on_in_order():
    end, owner, other = linked()
    counted: list[int] = []
    held = Hold(end, counted.append)
    assert end.data(memoryview(b"one"))
    end.message(WINDOW_ADJUST, (5).to_bytes(4))
    assert end.data(memoryview(b"two"))
    end.message(EOF, b"")
    assert (other.sent, owner.heard) == ([], [])
    held.lift()
    assert other.take() == [(DATA, b"\0\0\0\3one"), (WINDOW_ADJUST, (5).to_bytes(4)), (DATA, b"\0\0\0\3two")]
    assert owner.heard == [("message", (EOF, b""))]
    assert sum(counted) == 0
    assert end.hold is None
    assert not end.data(memoryview(b"three")), "the short way again"


def test_a_close_is_kept_and_releases_the_number_then():
    end, owner, _ = linked()
    held = Hold(end, lambda _: None)
    end.message(CLOSE, b"")
    assert owner.heard == []
    held.lift()
    assert owner.heard == [("message", (CLOSE, b""))]
    end.send(CLOSE)
    assert end.number < 0


def test_who_is_gone_is_gone_at_once():
    end, owner, _ = linked()
    Hold(end, lambda _: None)
    end.process_connection_close(None)
    assert owner.heard[0] == ("lost", None)


def test_a_flow_linked_meanwhile_waits_too():
    end, _, other = linked()
    held = Hold(end, lambda _: None)
    assert end.flow is held
    end.link(Flow(held.flow.to, Journal(), 1, lambda _: ()))
    end.data(memoryview(b"x"))
    assert other.sent == []
    held.lift()
    assert other.data() == b"x"


@pytest.mark.parametrize(("room", "left"), [(3, b""), (10, b""), (11, (1).to_bytes(4)), (100, (90).to_bytes(4))])
def test_what_was_said_aside_is_paid_for_by_the_next_window(room: int, left: bytes):
    end, _, other = linked()
    flow = end.flow
    flow.debt = 10
    end.message(WINDOW_ADJUST, room.to_bytes(4))
    assert other.take() == ([(WINDOW_ADJUST, left)] if left else [])
    assert flow.debt == max(0, 10 - room)


# --- a session from its start ---------------------------------------------------------------------------------


async def begun(client: asyncssh.SSHClientConnection, kind: str) -> Any:
    if kind == "sftp":
        return await client.start_sftp_client()
    return await client.create_process("exit 0" if kind == "exec" else None, encoding=None)


@pytest.mark.parametrize("kind", KINDS)
@asynchronous
async def test_nothing_starts_before_somebody_looks_on(kind: str, tmp_path: Path) -> None:
    async with Target(sftp_factory=True) as target, Site(tmp_path) as site:
        site.target_port, site.grant_changes = target.port, {"watched": True}
        async with await site.client() as client:
            starting = asyncio.ensure_future(begun(client, kind))
            await until("it is frozen", lambda: site.relay is not None and site.relay.session.frozen)
            await quiet()
            assert not starting.done()
            assert site.asked_for(OpenChannel) == []
            assert target.commands == []
            assert [note.what for note in site.access()] == ["granted", "frozen"]
            thaw(site)
            await starting
            await until("it runs", lambda: target.commands or kind == "sftp")
            assert [note.what for note in site.access()][:4] == ["granted", "frozen", "thawed", "allowed"]


@pytest.mark.parametrize("via", VIA)
@asynchronous
async def test_a_person_is_told_why_they_wait(via: str, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        site.grant_changes = {"watched": True}
        process = await start(site, "exit 7", via=via)
        said = b""
        while b"somebody looks on" not in said:
            said += await asyncio.wait_for(process.stderr.read(4096), 30)
        thaw(site)
        end = await finish(process)
        assert end.code == 7
        assert b"bastion: nothing passes: it begins as soon as somebody looks on\n" in said
        assert end.lines == ["bastion: somebody looks on: it goes on"]


@asynchronous
async def test_a_forward_waits_as_well(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        site.grant_changes = {"watched": True}
        async with await site.client() as client:
            opening = asyncio.ensure_future(client.open_connection("db", 5432))
            await until("it is frozen", lambda: site.relay is not None and site.relay.session.frozen)
            await quiet()
            assert not opening.done()
            thaw(site)
            reader, writer = await opening
            writer.write(b"x")
            assert await reader.read(1) == b"x"


@asynchronous
async def test_what_policyd_allowed_while_it_froze_waits(tmp_path: Path) -> None:
    """Attack: the freeze comes between the question and the answer."""
    gate = asyncio.Event()

    async def slow(_: OpenChannel) -> None:
        await gate.wait()

    async with world(tmp_path) as (site, target):
        site.answers[OpenChannel] = slow
        async with await site.client() as client:
            running = asyncio.ensure_future(client.run("exit 0"))
            await until("policyd is asked", lambda: site.asked_for(OpenChannel))
            freeze(site)
            gate.set()
            await quiet()
            assert target.commands == []
            thaw(site)
            assert (await running).exit_status == 0


# --- in the middle ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", ["vt220", None])
@asynchronous
async def test_nothing_passes_in_either_direction_and_nothing_is_lost(terminal: str | None, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        async with await site.client() as client:
            process = await client.create_process("cat", term_type=terminal, encoding=None)
            process.stdin.write(b"before\n")
            assert await process.stdout.readexactly(7) == b"before\n"
            freeze(site)
            process.stdin.write(b"meanwhile\n")
            process.stdin.write_eof()
            await quiet()
            reading = asyncio.ensure_future(process.stdout.read())
            await quiet()
            assert not reading.done()
            thaw(site)
            assert await reading == b"meanwhile\n"
            said = await process.stderr.read()
            assert b"bastion: nothing passes: nobody looks on" in said
            assert b"bastion: somebody looks on: it goes on" in said
        assert [note.what for note in site.access() if note.what in ("frozen", "thawed")] == ["frozen", "thawed"]
        assert target.commands == ["cat"]


@asynchronous
async def test_bulk_stops_and_comes_whole(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        async with await site.client() as client:
            process = await client.create_process("flood 600", encoding=None)
            first = await process.stdout.readexactly(1 << 20)
            freeze(site)
            await quiet(50)
            passed = site.relay.passed()
            await quiet(50)
            assert site.relay.passed() == passed
            thaw(site)
            rest = await process.stdout.read()
            assert first + rest == bytes(range(256)) * 128 * 600


@asynchronous
async def test_keepalives_are_answered_meanwhile(tmp_path: Path) -> None:
    """Else every client with ServerAliveInterval would leave before anybody comes to look."""
    async with world(tmp_path) as (site, _):
        process = await start(site, "wait", options=("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2"))
        assert await asyncio.wait_for(process.stdout.readexactly(6), 30) == b"ready\n"
        freeze(site)
        await asyncio.sleep(4)  # longer than the client is patient
        assert process.returncode is None
        thaw(site)
        said = await finish(process, b"")
        assert said.code == 0


@asynchronous
async def test_more_than_anybody_sends_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: windows of 2 GiB, to have a frozen session fill our memory."""
    monkeypatch.setattr(hold, "MOST", 64 * 1024)
    async with world(tmp_path) as (site, _):
        async with await site.client() as client:
            process = await client.create_process("flood 600", encoding=None, window=1 << 30)
            await process.stdout.readexactly(1 << 16)
            freeze(site)
            await until("the target is not read", lambda: site.relay.target.packets._paused)
            assert site.relay.standstill._kept[False] < 64 * 1024 + (1 << 20)
            thaw(site)
            assert len(await process.stdout.read()) == 32768 * 600 - (1 << 16)
            await until("it is read again", lambda: not site.relay.target.packets._paused)


# --- the end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("via", VIA)
@asynchronous
async def test_a_frozen_session_can_be_killed(via: str, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        process = await waiting(site, via)
        freeze(site)
        push(site, EndSession, by="carol", reason="odd")
        said, end = await ended(site, process)
        assert said.code == 143
        assert end.reason == "killed"
        await until("the target's leg is closed", target.connections[-1].is_closed)


@pytest.mark.parametrize("limit", ["expires_in", "idle"])
@asynchronous
async def test_limits_go_on(limit: str, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        site.grant_changes = {limit: 1.5, "watched": True}
        process = await start(site, "wait")
        said = await finish(process)
        assert said.code == 143
        await until("the recording is closed", lambda: site.tape.closed)
        assert site.tape.end.reason == {"expires_in": "expired", "idle": "idle"}[limit]


@asynchronous
async def test_who_leaves_a_frozen_session_is_noticed(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        process = await waiting(site)
        freeze(site)
        process.terminate()
        await until("the recording is closed", lambda: site.tape.closed)
        await until("the target's leg is closed", target.connections[-1].is_closed)


@asynchronous
async def test_a_target_that_leaves_a_frozen_session_is_noticed(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        process = await waiting(site)
        freeze(site)
        target.connections[-1].abort()
        said, end = await ended(site, process)
        assert said.code == 69
        assert end.reason == "target-lost"


# --- warnings ------------------------------------------------------------------------------------------------------


@asynchronous
async def test_a_warning_is_a_line_on_terminals_and_nothing_in_pipes(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        async with await site.client() as client:
            shown = await client.create_process("cat", term_type="vt220", encoding=None)
            piped = await client.create_process("cat", encoding=None)
            for process in (shown, piped):
                process.stdin.write(b"x")
                await process.stdout.readexactly(1)
            push(site, Warn, text="it ends\x1b[2J soon")
            for process in (shown, piped):
                process.stdin.write_eof()
            said = [await process.stderr.read() for process in (shown, piped)]
        assert said[0].startswith(b"\r\nbastion: it ends")
        assert b"\x1b" not in said[0]
        assert said[1] == b""
        assert [note.reason for note in site.access() if note.what == "warned"] == ["it ends\x1b[2J soon"]
