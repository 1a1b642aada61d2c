"""Contract with asyncssh 2.24.1: the packets that go below it, on both sides, against its own client and server.

These tests hold the fast path (AES-GCM, opened by `PacketTransport`) against asyncssh's own (any other cipher), and
against peers that break packets, never read, or exchange keys in the middle of everything.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import MSG_IGNORE

from bastion.ssh import renewals, transport, upstream
from bastion.ssh.burst import burst
from bastion.ssh.channels import CLOSE, DATA, EOF, REQUEST, WINDOW_ADJUST
from bastion.ssh.connections import ClientConnection, ServerConnection, _Warnings
from bastion.ssh.gcm import TAG, Gcm
from bastion.ssh.pace import READ
from bastion.ssh.transport import HIGH_WATER, MAX_PACKET, PacketTransport
from recorder.model import Kind
from tests.bastion.aio import asynchronous, quiet, until
from tests.bastion.site import GCM, Site
from tests.bastion.targets import Target

CTR = ["aes256-ctr"]
CHACHA = ["chacha20-poly1305@openssh.com"]

PRIVATE = [
    "_auth_complete", "_auth_final", "_channels", "_cleanup", "_decompressor", "_deferred_packets",
    "_finish_recv_packet", "_force_close", "_inpbuf", "_keepalive_count", "_kex_complete", "_kexinit_sent",
    "_loop", "_packet", "_packet_handlers", "_process_channel_open", "_process_kexinit", "_recv_encryption",
    "_recv_handler", "_recv_packet", "_recv_pkthdr", "_recv_seq", "_rekey_bytes", "_rekey_bytes_sent", "_send",
    "_send_deferred_packets", "_send_disconnect", "_send_encryption", "_send_kexinit", "_send_seq", "_transport",
]  # fmt: skip
"""Every private name of asyncssh's connections that `transport` and its neighbours touch."""


# --- the version ----------------------------------------------------------------------------------------


def test_another_version_of_asyncssh_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    transport.check_version()
    for version in ("2.24.0", "2.24.2", "2.25.0"):
        monkeypatch.setattr(asyncssh, "__version__", version)
        with pytest.raises(RuntimeError, match=version):
            transport.check_version()


@asynchronous
async def test_every_private_part_that_is_used_exists(tmp_path: Path) -> None:
    async with Target() as target, Site(tmp_path) as site:
        site.target_port = target.port
        async with await site.client() as client:
            await client.run("exit 0")
            for connection in (site.door, site.relay.target):
                missing = [name for name in PRIVATE if not hasattr(connection, name)]
                assert missing == []
                assert type(connection._recv_encryption) is Gcm
                assert type(connection.logger) is _Warnings, "asyncssh formats what nobody reads"
                assert connection._max_recv_pktlen == MAX_PACKET, "asyncssh refuses what we do, at the same size"
    for ours, theirs in ((ServerConnection, asyncssh.SSHServerConnection),
                         (ClientConnection, asyncssh.SSHClientConnection)):  # fmt: skip
        assert set(ours._packet_handlers) == set(theirs._packet_handlers)


# --- the same messages on both paths --------------------------------------------------------------------


async def transcript(client: asyncssh.SSHClientConnection) -> dict[str, Any]:
    """What a person gets to see of a bit of everything."""
    said: dict[str, Any] = {}
    for command, given in (("exit 3", b""), ("err oops", b""), ("cat", b"x"), ("cat", bytes(range(256)) * 5000)):
        result = await client.run(command, input=given, encoding=None)
        output = result.stdout if isinstance(result.stdout, bytes) else b""
        said[f"{command} {len(given)}"] = (result.exit_status, hashlib.sha256(output).hexdigest(), result.stderr)
    result = await client.run("signal", encoding=None)
    said["signal"] = result.exit_signal
    async with client.create_process("wait", term_type="xterm", term_size=(80, 24), encoding=None) as process:
        said["first"] = await process.stdout.read(6)
        process.change_terminal_size(100, 30)
        process.stdin.write_eof()
        await process.wait()
        said["half-close"] = process.exit_status
    reader, writer = await client.open_connection("127.0.0.1", 9, encoding=None)
    writer.write(b"through a forward" * 4000)
    writer.write_eof()
    said["forward"] = hashlib.sha256(await reader.read()).hexdigest()
    return said


def recorded(site: Site) -> Any:
    """The recording without its times; neighbours of one kind joined, because reads cut streams anywhere."""
    joined: list[tuple[int, int, bytes]] = []
    for kind, channel, _, data in site.tape.events:
        if joined and joined[-1][:2] == (kind, channel) and kind in (Kind.INPUT, Kind.OUTPUT, Kind.STDERR):
            joined[-1] = (kind, channel, joined[-1][2] + data)
        else:
            joined.append((kind, channel, data))
    return Counter((kind, channel) for kind, channel, _ in joined if kind in (Kind.START, Kind.EXIT, Kind.RESIZE)), {
        (kind, channel): b"".join(data for k, c, data in joined if (k, c) == (kind, channel))
        for kind, channel, _ in joined
        if kind in (Kind.INPUT, Kind.OUTPUT, Kind.STDERR)
    }


class Ciphers(Site):
    """A site whose listener offers these."""

    def __init__(self, home: Path, ciphers: list[str], **settings: Any) -> None:
        super().__init__(home, **settings)
        self.ciphers = ciphers


@pytest.mark.parametrize(("user", "target"), [(CTR, GCM), (GCM, CTR), (GCM, GCM), (CHACHA, GCM)])
@asynchronous
async def test_every_pair_of_ciphers_gives_the_same_session(user: list[str], target: list[str], tmp_path: Path) -> None:
    """The oracle: with AES-CTR on both legs asyncssh opens every packet itself."""

    async def through(name: str, user: list[str], target: list[str]) -> Any:
        async with Target(ciphers=target) as there, Ciphers(tmp_path / name, user) as site:
            site.target_port = there.port
            async with await site.client() as client:
                said = await transcript(client)
                fast = [type(leg._recv_encryption) is Gcm for leg in (site.door, site.relay.target)]
                assert fast == [user is GCM, target is GCM]
            await until("the recording is closed", lambda: site.tape.end)
            assert site.tape.late == []
            return said, recorded(site)

    assert await through("tested", user, target) == await through("oracle", CTR, CTR)


# --- reads cut anywhere ---------------------------------------------------------------------------------


def in_pieces(sizes: Callable[[], int]) -> type[PacketTransport]:
    """A PacketTransport whose reads bring at most what `sizes` says."""

    class Pieces(PacketTransport):
        def get_buffer(self, sizehint: int) -> memoryview:
            return super().get_buffer(sizehint)[: sizes()]

    return Pieces


@pytest.mark.parametrize("ciphers", [GCM, CTR], ids=["gcm", "ctr"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 11, 15, 16, 17, 19, 20, 21, 35, 36, 37, 51, 52, 53, 68, 84, 100, 211])
@asynchronous
async def test_reads_of_any_size_give_the_same(
    size: int, ciphers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = in_pieces(lambda: size)
    monkeypatch.setattr(upstream, "PacketTransport", pieces)
    async with Target(ciphers=ciphers) as target, Ciphers(tmp_path, ciphers) as site:
        site.target_port, site.packets = target.port, pieces
        async with await site.client() as client:
            result = await client.run("cat", input=b"0123456789" * 100, encoding=None)
            assert result.stdout == b"0123456789" * 100
            assert result.exit_status == 0


@pytest.mark.parametrize("seed", range(12))
@asynchronous
async def test_reads_cut_by_chance_give_the_same(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    pieces = in_pieces(lambda: int(2 ** chance.uniform(0, 17)))
    monkeypatch.setattr(upstream, "PacketTransport", pieces)
    async with Target() as target, Site(tmp_path) as site:
        site.target_port, site.packets = target.port, pieces
        async with await site.client() as client:
            data = chance.randbytes(300_000)
            result = await client.run("cat", input=data, encoding=None)
            assert result.stdout == data


@pytest.mark.parametrize("cut", [1, 4, 15, 16, 17, 20, 30, 60])
@asynchronous
async def test_a_packet_that_begins_while_the_login_is_being_decided(cut: int, tmp_path: Path) -> None:
    """The first packet of a channel comes in two halves: asyncssh holds the first, and the second is ours to open."""
    async with Target() as target, Site(tmp_path) as site:
        site.target_port = target.port
        client = await site.client()
        door = site.doors[-1]
        written: list[bytes] = []
        real = client._transport
        assert real is not None

        class Held:
            def write(self, data: bytes) -> None:
                written.append(bytes(data))

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        client._transport = Held()  # type: ignore[assignment]
        opening = asyncio.ensure_future(client.run("exit 4"))
        await until("the client opens a channel", lambda: written)
        packet = b"".join(written)
        client._transport = real
        # As asyncssh stands when it has awaited the decision on a login that came in one read with the first half.
        door._recv_handler = lambda: False
        door._inpbuf = packet[:cut]
        door._finish_recv_packet(50, door._recv_seq - 1, is_async=True)
        real.write(packet[cut:])
        result = await asyncio.wait_for(opening, 30)
        assert result.exit_status == 4
        client.abort()


@pytest.mark.parametrize("fast", [True, False])
@asynchronous
async def test_a_flood_while_asyncssh_awaits_something_is_not_kept(fast: bool, tmp_path: Path) -> None:
    """Attack: policyd takes a second to answer a login, and the client sends as fast as it can meanwhile."""
    async with Target() as target, Site(tmp_path) as site:
        site.target_port = target.port
        async with await site.client() as client:
            await client.run("exit 0")
            door = site.doors[-1]
            assert client._transport is not None
            door._auth_complete = fast
            door._recv_handler = lambda: False  # as asyncssh does while it awaits
            flooding = b"\0" * (1 << 20)
            for _ in range(16):
                client._transport.write(flooding)
            await quiet(50)
            assert len(door._inpbuf) + len(door.packets._rest) <= 2 * MAX_PACKET + READ
            assert door.packets._paused, "it waits"
            assert not door.is_closed(), "it is not cut: a busy policyd is no fault of the client"
            client.abort()


# --- new keys in the middle of everything ---------------------------------------------------------------


@pytest.mark.parametrize("who", ["client", "our user leg", "our target leg", "target"])
@asynchronous
async def test_rekeying_by_anybody_while_data_flows_both_ways(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = {"rekey_bytes": 64 * 1024}
    monkeypatch.setattr(renewals, "BYTES", 32 * 1024)
    if who == "our target leg":
        monkeypatch.setattr(upstream, "REKEY_BYTES", 64 * 1024)
    site = Site(tmp_path)
    site.options = often if who == "our user leg" else {}
    exchanges = 0
    real = asyncssh.SSHServerConnection._send_kexinit

    async with Target(**(often if who == "target" else {})) as target, site:
        site.target_port = target.port
        async with await site.client(**(often if who == "client" else {})) as client:

            def counted(connection: Any) -> None:
                nonlocal exchanges
                exchanges += 1
                real(connection)

            monkeypatch.setattr(asyncssh.connection.SSHConnection, "_send_kexinit", counted)
            data = random.Random(1).randbytes(2_000_000)
            results = await asyncio.gather(
                *(client.run("cat", input=data, encoding=None) for _ in range(2)),
                client.run("flood 40", encoding=None),
            )
            assert results[0].stdout == results[1].stdout == data
            assert isinstance(results[2].stdout, bytes)
            assert len(results[2].stdout) == 40 * 32768
    assert exchanges > 10


# --- padding --------------------------------------------------------------------------------------------


@asynchronous
async def test_padding_of_what_is_passed_on_is_ours_and_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: the padding of 255 bytes a packet may have is a channel that nobody records."""
    opened: list[bytes] = []
    real = Gcm.decrypt_packet

    def decrypt(self: Gcm, *args: Any) -> bytes | None:
        packet = real(self, *args)
        if packet:
            opened.append(packet)
        return packet

    async with Target() as target, Site(tmp_path) as site:
        site.target_port = target.port
        async with await site.client() as client:
            monkeypatch.setattr(Gcm, "decrypt_packet", decrypt)  # of the two stock ends: ours opens otherwise
            for size in [*range(1, 40), 1000, 32768]:
                result = await client.run("cat", input=b"x" * size, encoding=None)
                assert result.stdout == b"x" * size
            reader, writer = await client.open_connection("db", 5432, encoding=None)  # needs no record: the short way
            for size in (1, 7, 100, 5000):
                writer.write(b"x" * size)
                assert await reader.readexactly(size) == b"x" * size
            writer.close()
    kinds = Counter(packet[1] for packet in opened if 93 <= packet[1] <= 100)
    assert kinds[DATA] > 80
    assert {EOF, CLOSE, REQUEST, WINDOW_ADJUST} <= set(kinds)
    for packet in opened:
        if 93 <= packet[1] <= 100:
            assert 4 <= packet[0] <= 255
            assert packet[-packet[0] :] == bytes(packet[0])
            assert len(packet) % 16 == 0


# --- packets that are broken ----------------------------------------------------------------------------


class Raw:
    """A logged-in stock client with one running `cat`, whose packets the test makes byte by byte."""

    def __init__(self, client: asyncssh.SSHClientConnection, process: Any) -> None:
        self.client = client
        self.process = process
        self.number: int = process.channel._send_chan

    def body(self, kind: int, payload: bytes, padding: int | None = None) -> bytes:
        if padding is None:
            padding = -(len(payload) + 2) % 16
            padding += 16 if padding < 4 else 0
        return bytes((padding, kind)) + payload + b"p" * padding

    def seal(self, body: bytes, length: int | None = None) -> bytes:
        cipher = self.client._send_encryption
        assert isinstance(cipher, Gcm)
        header = pack(">I", len(body) if length is None else length)
        sealed, _ = cipher.encrypt_packet(0, header, body)
        return sealed

    def write(self, data: bytes) -> None:
        assert self.client._transport is not None
        self.client._transport.write(data)

    def data(self, what: bytes, number: int | None = None) -> bytes:
        return self.body(DATA, pack(">II", self.number if number is None else number, len(what)) + what)


async def raw(site: Site) -> Raw:
    client = await site.client()
    process = await client.create_process("cat", encoding=None)
    process.stdin.write(b"before")
    assert await process.stdout.read(6) == b"before"
    return Raw(client, process)


def flip(packet: bytes, at: int) -> bytes:
    return packet[:at] + bytes((packet[at] ^ 1,)) + packet[at + 1 :] if at >= 0 else flip(packet, len(packet) + at)


BROKEN: dict[str, Callable[[Raw], bytes]] = {
    "tag": lambda peer: flip(peer.seal(peer.data(b"evil")), -1),
    "text": lambda peer: flip(peer.seal(peer.data(b"evil")), 8),
    "length 0": lambda peer: peer.seal(b"", 0) + bytes(64),
    "length 1": lambda peer: peer.seal(b"x") + bytes(64),
    "length 15": lambda peer: peer.seal(b"\4" * 15) + bytes(64),
    "length that lies": lambda peer: peer.seal(peer.data(b"evil"), 48) + bytes(64),
    "length above the limit": lambda peer: pack(">I", MAX_PACKET + 1) + bytes(64),
    "length above the limit, alone": lambda peer: pack(">I", MAX_PACKET + 1) + bytes(32),
    "length 2^31": lambda peer: pack(">I", 1 << 31) + bytes(64),
    "length 2^32-1": lambda peer: pack(">I", (1 << 32) - 1) + bytes(64),
    "padding 0": lambda peer: peer.seal(bytes((0, DATA)) + pack(">II", peer.number, 6) + b"evil!!"),
    "padding of everything": lambda peer: peer.seal(bytes((15, DATA)) + pack(">II", peer.number, 6) + b"evil!!"),
    "padding beyond the packet": lambda peer: peer.seal(bytes((255, DATA)) + pack(">II", peer.number, 6) + b"evil!!"),
    "data shorter than it says": lambda peer: peer.seal(peer.body(DATA, pack(">II", peer.number, 100) + b"evil")),
    "data longer than it says": lambda peer: peer.seal(peer.body(DATA, pack(">II", peer.number, 2) + b"evil")),
    "data without a length": lambda peer: peer.seal(peer.body(DATA, pack(">I", peer.number))),
    "message without a channel": lambda peer: peer.seal(peer.body(DATA, b"")),
    "unknown channel": lambda peer: peer.seal(peer.data(b"evil", 4711)),
    "unknown channel, close": lambda peer: peer.seal(peer.body(CLOSE, pack(">I", 4711))),
    "request cut short": lambda peer: peer.seal(peer.body(REQUEST, pack(">I", peer.number) + b"\0\0")),
    "window adjust cut short": lambda peer: peer.seal(peer.body(WINDOW_ADJUST, pack(">I", peer.number) + b"\0\0")),
    "open confirmation of an open channel": lambda peer: peer.seal(
        peer.body(91, pack(">IIII", peer.number, 0, 1 << 20, 32768))
    ),
    "open failure of an open channel": lambda peer: peer.seal(
        peer.body(92, pack(">II", peer.number, 1) + pack(">I", 0) * 2)
    ),
    "answer to a global request never made": lambda peer: peer.seal(peer.body(81, b"")),
    "a login after the login": lambda peer: peer.seal(peer.body(52, b"")),
    "key exchange out of order": lambda peer: peer.seal(peer.body(30, pack(">I", 0))),
}


@pytest.mark.parametrize("how", BROKEN)
@asynchronous
async def test_a_broken_packet_ends_the_connection_and_goes_nowhere(how: str, tmp_path: Path) -> None:
    async with Target() as target, Site(tmp_path) as site:
        site.target_port = target.port
        peer = await raw(site)
        door = site.doors[-1]
        peer.write(BROKEN[how](peer))
        await until("the connection is closed", door.is_closed, 5)
        await until("the recording is closed", lambda: site.tape.end, 5)
        assert b"evil" not in site.tape.of(Kind.INPUT, Kind.OUTPUT)
        assert site.tape.of(Kind.OUTPUT) == b"before"
        peer.client.abort()


@asynchronous
async def test_an_unknown_message_is_answered_as_unimplemented_and_nothing_else_happens(tmp_path: Path) -> None:
    async with Target() as target, Site(tmp_path) as site:
        site.target_port = target.port
        peer = await raw(site)
        for kind in (128, 150, 192, 255):
            peer.client.send_packet(kind, b"what is this")
        peer.process.stdin.write(b"still here")
        assert await peer.process.stdout.read(10) == b"still here"
        peer.client.abort()


@asynchronous
async def test_the_largest_packet_passes(tmp_path: Path) -> None:
    """Larger than what the target takes at once: it arrives in pieces."""
    async with Target() as target, Site(tmp_path) as site:
        site.target_port = target.port
        peer = await raw(site)
        data = random.Random(2).randbytes(MAX_PACKET - 64)
        peer.write(peer.seal(peer.data(data)))
        peer.client._send_seq += 1
        assert await peer.process.stdout.readexactly(len(data)) == data
        peer.client.abort()


@asynchronous
async def test_close_then_data_reaches_nobody(tmp_path: Path) -> None:
    async with Target() as target, Site(tmp_path) as site:
        site.target_port = target.port
        peer = await raw(site)
        heard: list[tuple[int, bytes]] = []
        there = target.connections[-1]._channels[min(target.connections[-1]._channels)]
        real = there.process_packet

        def process(kind: int, seq: int, packet: Any) -> Any:
            heard.append((kind, packet.get_remaining_payload()))
            return real(kind, seq, packet)

        there.process_packet = process  # type: ignore[method-assign]
        peer.write(peer.seal(peer.body(CLOSE, pack(">I", peer.number))) + peer.seal(peer.data(b"behind")))
        await until("the target heard the close", lambda: any(kind == CLOSE for kind, _ in heard))
        await quiet()
        assert not any(b"behind" in payload for _, payload in heard)
        assert b"behind" not in site.tape.of(Kind.INPUT)
        peer.client.abort()


# --- a peer that does not read --------------------------------------------------------------------------


def kept(site: Site) -> int:
    """Bytes that both legs keep for peers that do not take them."""
    legs = [site.door, site.relay.target]
    return sum(
        leg.packets.transport.get_write_buffer_size()
        + leg.packets._used
        + sum(len(part) for _, parts in leg._deferred_packets for part in parts)
        + len(leg._inpbuf)
        + len(leg.packets._rest)
        for leg in legs
    )


async def stands_still(site: Site, moved: Callable[[], int]) -> None:
    """Until nothing passes any more, with little kept at every moment."""
    before, same = -1, 0
    while same < 20:
        await asyncio.sleep(0.01)
        assert kept(site) < 4 << 20
        same = same + 1 if moved() == before else 0
        before = moved()


@pytest.mark.parametrize("via", ["direct", "in the middle of a key exchange"])
@asynchronous
async def test_a_person_who_does_not_read_stops_the_target_and_not_our_memory(via: str, tmp_path: Path) -> None:
    async with Target() as target, Site(tmp_path) as site:
        site.target_port = target.port
        client = await site.client()
        process = await client.create_process("flood 3000", encoding=None, window=(1 << 31) - 1)
        await process.stdout.readexactly(32768)
        transport_of_client = client._transport
        assert transport_of_client is not None
        transport_of_client.pause_reading()
        if via != "direct":
            # The key exchange begins and never ends: what comes for the person must not pile up behind it.
            client._send_kexinit()
            client._kexinit_sent = True
            await until("our side exchanges keys", lambda: not site.door._kex_complete)
        await stands_still(site, lambda: site.relay.passed()[1])
        assert site.relay.target.packets._paused, "the target is read no more"
        assert site.relay.passed()[1] < 3000 * 32768
        transport_of_client.resume_reading()
        rest = await process.stdout.readexactly(2999 * 32768)
        assert rest == bytes(range(256)) * 128 * 2999
        assert not site.relay.target.packets._paused
        client.abort()


@asynchronous
async def test_a_target_that_does_not_read_stops_the_person_and_not_our_memory(tmp_path: Path) -> None:
    gate = asyncio.Event()
    count = 0

    async def slow(process: Any) -> None:
        nonlocal count
        process.stdout.write(b"go")
        await gate.wait()
        while data := await process.stdin.read(1 << 20):
            count += len(data)
        process.exit(0)

    async with Target(slow, window=(1 << 31) - 1) as target, Site(tmp_path) as site:
        site.target_port = target.port
        client = await site.client()
        process = await client.create_process("upload", encoding=None)
        assert await process.stdout.readexactly(2) == b"go"
        paused = target.connections[-1]._transport
        assert paused is not None
        paused.pause_reading()  # type: ignore[attr-defined]
        block = bytes(32768)
        size = 64 << 20
        for _ in range(size // len(block)):
            process.stdin.write(block)
        process.stdin.write_eof()
        await stands_still(site, lambda: site.relay.passed()[0])
        assert site.door.packets._paused, "the person is read no more"
        paused.resume_reading()  # type: ignore[attr-defined]
        gate.set()
        await process.wait()
        assert count == size
        assert not site.door.packets._paused
        client.abort()


# --- what is written ------------------------------------------------------------------------------------


class Keeping:
    """A transport that keeps what it was given without a copy, as asyncio's does from Python 3.12 on."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.stuck = True

    def write(self, data: Any) -> None:
        self.kept.append(data)

    def get_write_buffer_size(self) -> int:
        return sum(len(data) for data in self.kept) if self.stuck else 0

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize("stuck", [True, False])
def test_a_buffer_that_the_transport_still_holds_is_not_written_again(stuck: bool) -> None:
    packets = PacketTransport(asyncssh.SSHServerConnection.__new__(asyncssh.SSHServerConnection))  # type: ignore[arg-type]
    keeping = Keeping()
    keeping.stuck = stuck
    packets.transport = keeping
    said = [bytes((number,)) * 100 for number in range(20)]
    seen = []
    for data in said:
        packets.write(data)
        if not stuck:  # it is gone as soon as it was written
            seen.append(bytes(keeping.kept.pop()))
    if stuck:
        seen = [bytes(data) for data in keeping.kept]
    assert b"".join(seen) == b"".join(said)


def test_what_one_burst_gathers_leaves_with_one_write() -> None:
    packets = PacketTransport(asyncssh.SSHServerConnection.__new__(asyncssh.SSHServerConnection))  # type: ignore[arg-type]
    keeping = Keeping()
    packets.transport = keeping
    with burst():
        for _ in range(10):
            packets.write(b"0123456789")
    assert [bytes(data) for data in keeping.kept] == [b"0123456789" * 10]


def test_nothing_of_ours_uses_what_asyncssh_sends_against_cbc() -> None:
    assert MSG_IGNORE == 2
    assert TAG == 16
    assert HIGH_WATER < 4 << 20
    assert unpack(">I", pack(">I", MAX_PACKET)) == (MAX_PACKET,)
