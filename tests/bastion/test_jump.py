"""`ssh -J bastion account@target`: a connection within a connection, its windows, its end, and who may open one."""

import asyncio
import functools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from struct import pack
from typing import Any

import asyncssh
import pytest

from bastion.ssh.door import MAX_FORWARDS
from bastion.ssh.jump import WINDOW, InnerDoor, Tunnel
from bastion.ssh.pace import READ
from policy.messages import Authorize, EndSession, HostCertificate, OpenChannel
from tests.bastion.aio import asynchronous, quiet, until
from tests.bastion.site import GCM, NO_SUCH, Site, key
from tests.bastion.ssh import ssh
from tests.bastion.targets import Target


@asynccontextmanager
async def world(tmp_path: Path, handler: Any = None, **options: Any) -> AsyncIterator[tuple[Site, Target]]:
    async with Target(handler, **options) as target, Site(tmp_path) as site:
        site.target_port = target.port
        yield site, target


async def jump(
    site: Site, outer: asyncssh.SSHClientConnection, target: str = "web1", **options: Any
) -> asyncssh.SSHClientConnection:
    """A stock client within a stock client's connection."""
    return await asyncssh.connect(
        target, 22, username="root", tunnel=outer, known_hosts=([], [key("host-ca").convert_to_public()], []),
        client_keys=None, config=None, agent_path=None, encryption_algs=GCM, compression_algs=["none"], **options,
    )  # fmt: skip


def tunnels(site: Site) -> list[Tunnel]:
    return [door.packets.transport for door in site.gateway.doors if isinstance(door, InnerDoor)]


@asynchronous
async def test_the_inner_connection_is_a_session_of_the_outer_person(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        async with await site.client("bob") as outer, await jump(site, outer) as inner:
            assert (await inner.run("exit 9")).exit_status == 9
            assert site.tape.open is not None
            assert site.tape.open.private["person"] == "alice", "whatever name came with the connection"
            (request,) = site.asked_for(Authorize)
            assert (request.account, request.target, request.via) == ("root", "web1", "jump")
            assert site.asked_for(OpenChannel)[0].kind == "exec", "the tunnel itself is no forward"
        await until("the recording is closed", lambda: site.tape.end)
        assert site.tape.end is not None
        assert site.tape.end.reason == "closed"


@asynchronous
async def test_an_unknown_target_looks_as_one_without_access(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        said = await ssh(site, "id", via="jump", target="root@nowhere")
        assert said.code == 255
        assert "bastion: you have no access to that" in said.error
        assert target.connections == []
        assert site.asked_for(Authorize) == []
        assert site.recorder.tapes == []


@asynchronous
async def test_every_connection_asks_for_its_certificate(tmp_path: Path) -> None:
    """A certificate that was made for somebody is no leave for somebody else."""
    async with world(tmp_path) as (site, _):
        async with await site.client("bob") as outer, await jump(site, outer) as inner:
            await inner.run("exit 0")
        site.answers[HostCertificate] = lambda request: NO_SUCH
        async with await site.client("bob") as outer:
            with pytest.raises(asyncssh.ChannelOpenError):
                await jump(site, outer)
        assert len(site.asked_for(HostCertificate)) == 2


@asynchronous
async def test_a_connection_with_a_target_may_go_on_to_places_that_we_do_not_know(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        async with await site.client("root@web1") as client:
            reader, writer = await client.open_connection("nowhere", 22, encoding=None)
            writer.write(b"through the target")
            assert await reader.readexactly(18) == b"through the target"
            assert site.asked_for(OpenChannel)[0].kind == "forward-local"
            assert site.asked_for(OpenChannel)[0].detail == "nowhere:22"


@asynchronous
async def test_no_target_no_forward(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        async with await site.client("bob") as client:
            with pytest.raises(asyncssh.ChannelOpenError, match="no target is named"):
                await client.open_connection("db", 5432)
        assert target.connections == []


@asynchronous
async def test_two_sessions_within_one_connection_end_apart(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        async with await site.client("bob") as outer:
            one, two = await jump(site, outer), await jump(site, outer)
            first, second = await one.create_process("wait"), await two.create_process("wait")
            await first.stdout.readexactly(6)
            await second.stdout.readexactly(6)
            site.doors[-1].pushed(EndSession(session=f"{1:032x}", by="carol", reason="that one"))
            await first.wait()
            assert first.exit_status == 143
            second.stdin.write_eof()
            await second.wait()
            assert second.exit_status == 0
            two.abort()


@asynchronous
async def test_the_outer_connection_takes_the_inner_ones_with_it(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        outer = await site.client("bob")
        for _ in range(2):
            inner = await jump(site, outer)
            process = await inner.create_process("wait")
            await process.stdout.readexactly(6)
        outer.abort()
        await until("both recordings are closed", lambda: all(tape.closed for tape in site.recorder.tapes))
        assert len(site.recorder.tapes) == 2
        await until("the target is left", lambda: all(one.is_closed() for one in target.connections))
        await until("no door is left", lambda: not site.gateway.doors)


@pytest.mark.parametrize("size", [64, 100, 4096])
@asynchronous
async def test_small_packets_of_the_tunnel(size: int, tmp_path: Path) -> None:
    """The outer client takes so many bytes at a time: inner packets arrive in pieces, and leave in pieces."""
    data = random.Random(size).randbytes(200_000)
    async with world(tmp_path) as (site, _):
        async with await site.client("bob") as outer:
            outer.create_connection = functools.partial(outer.create_connection, max_pktsize=size)  # type: ignore[method-assign]
            async with await jump(site, outer) as inner:
                result = await inner.run("cat", input=data, encoding=None)
                assert result.stdout == data


@asynchronous
async def test_a_person_who_does_not_read_the_outer_socket(tmp_path: Path) -> None:
    """Attack: a tunnel with a window of 2 GiB, a channel with one of 2 GiB within it, and nobody who reads."""
    async with world(tmp_path) as (site, _):
        outer = await site.client("bob")
        outer.create_connection = functools.partial(outer.create_connection, window=(1 << 31) - 1)  # type: ignore[method-assign]
        inner = await jump(site, outer)
        process = await inner.create_process("flood 1500", encoding=None, window=(1 << 31) - 1)
        await process.stdout.readexactly(32768)
        assert outer._transport is not None
        outer._transport.pause_reading()
        (tunnel,) = tunnels(site)
        door, before, same = site.doors[-1], -1, 0
        while same < 20:
            await asyncio.sleep(0.01)
            kept = len(tunnel._buffer) + door.packets.transport.get_write_buffer_size() + door.packets._used
            kept += site.relay.target.packets.transport.get_write_buffer_size()
            assert kept < 4 << 20
            moved = site.relay.passed()[1]
            before, same = moved, same + 1 if moved == before else 0
        assert before < 1500 * 32768
        assert site.relay.target.packets._paused
        outer._transport.resume_reading()
        rest = await process.stdout.readexactly(1499 * 32768)
        assert rest == bytes(range(256)) * 128 * 1499
        outer.abort()


@asynchronous
async def test_a_target_that_does_not_read_stops_the_tunnel_and_loses_nothing(tmp_path: Path) -> None:
    """More waits in the tunnel than one read takes: it is handed on piece by piece when the target reads again."""
    gate, received = asyncio.Event(), bytearray()

    async def slow(process: Any) -> None:
        process.stdout.write(b"go")
        await gate.wait()
        while data := await process.stdin.read(1 << 20):
            received.extend(data)
        process.exit(0)

    async with world(tmp_path, slow, window=1 << 30) as (site, target):
        outer = await site.client("bob")
        inner = await jump(site, outer)
        process = await inner.create_process("upload", encoding=None)
        assert await process.stdout.readexactly(2) == b"go"
        there = target.connections[-1]._transport
        assert there is not None
        there.pause_reading()  # type: ignore[attr-defined]
        data = random.Random(5).randbytes(24 << 20)
        process.stdin.write(data)
        process.stdin.write_eof()
        (tunnel,) = tunnels(site)
        await until("the inner connection is read no more", lambda: site.door.packets._paused)
        # How much of its window the client had left when reading stopped, chance says; more than one read, in any case.
        await until("the tunnel is full", lambda: sum(map(len, tunnel._waiting)) > READ)
        await quiet()
        assert sum(map(len, tunnel._waiting)) <= WINDOW
        there.resume_reading()  # type: ignore[attr-defined]
        gate.set()
        await process.wait()
        assert received == data
        outer.abort()


@asynchronous
async def test_a_client_that_ignores_the_window_of_the_tunnel_is_cut(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        outer = await site.client("bob")
        inner = await jump(site, outer)
        await inner.run("exit 0")
        (tunnel,) = tunnels(site)
        site.door.packets.pause("the test")
        for _ in range(WINDOW // 32768 + 2):
            outer.send_packet(94, pack(">II", tunnel._end.number, 32768) + bytes(32768))
        await until("the tunnel is closed", lambda: tunnel._closing)
        assert sum(map(len, tunnel._waiting)) <= WINDOW + 32768
        await until("the recording is closed", lambda: site.tape.closed)
        outer.abort()


@asynchronous
async def test_the_last_packets_before_the_tunnel_closes_are_read(tmp_path: Path) -> None:
    """ssh leaves with everything in one write: the inner goodbye, the end of the tunnel, the outer goodbye."""
    async with world(tmp_path) as (site, _):
        outer = await site.client("bob")
        inner = await jump(site, outer)
        await inner.run("exit 0")
        inner.close()
        outer.close()
        await until("the recording is closed", lambda: site.tape.closed)
        assert site.tape.end is not None
        assert site.tape.end.reason == "closed", "it was a goodbye, no lost connection"


@pytest.mark.parametrize("first", [b"GET / HTTP/1.0\r\n\r\n", b"SSH-1.5-x\r\n", b"\0" * 70000])
@asynchronous
async def test_a_tunnel_that_brings_no_ssh_is_closed(first: bytes, tmp_path: Path) -> None:
    async with world(tmp_path) as (site, target):
        async with await site.client("bob") as outer:
            reader, writer = await outer.open_connection("web1", 22, encoding=None)
            assert (await reader.readline()).startswith(b"SSH-2.0-")
            writer.write(first)
            assert await asyncio.wait_for(reader.read(), 30) is not None
            assert target.connections == []
            assert not outer.is_closed()


@asynchronous
async def test_tunnels_have_a_limit(tmp_path: Path) -> None:
    async with world(tmp_path) as (site, _):
        async with await site.client("bob") as outer:
            limit = MAX_FORWARDS + site.gateway.settings.ssh.channels
            for _ in range(limit):
                await outer.open_connection("web1", 22)
            with pytest.raises(asyncssh.ChannelOpenError, match="too many"):
                await outer.open_connection("web1", 22)
