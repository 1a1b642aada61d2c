"""SSH by hand: packets in any order, in the clear before keys are exchanged and encrypted after.

asyncssh does the key exchange as a client; from then on nothing is sent but what a test says, and what comes is kept.
`inside` makes a second one within a channel of the first, as `ssh -J` does.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import asyncssh
from asyncssh.connection import SSHClientConnection
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from tests.support.net import LOOPBACK

DISCONNECT, SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO, KEXINIT = 1, 5, 6, 7, 20
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER = 50, 51, 52, 53
PK_OK = INFO_REQUEST = 60
INFO_RESPONSE = 61
UNIMPLEMENTED = 3
GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE = 80, 81, 82
CHANNEL_OPEN, OPEN_CONFIRMATION, OPEN_FAILURE = 90, 91, 92
WINDOW_ADJUST, DATA, EXTENDED_DATA, EOF, CLOSE = 93, 94, 95, 96, 97
CHANNEL_REQUEST, CHANNEL_SUCCESS, CHANNEL_FAILURE = 98, 99, 100
GRANTED = {USERAUTH_SUCCESS, REQUEST_SUCCESS, OPEN_CONFIRMATION, CHANNEL_SUCCESS}
"""What a server says to somebody who is in."""

CONNECTION = "ssh-connection"
LONG = 15.0  # seconds to wait for any answer; less than the grace time, which ends what nobody hung up on


class _Kept:
    """Stands where asyncssh expects an authentication under way, for messages 60 to 79, or channel `number`."""

    def __init__(self, raw: Any, number: int | None = None) -> None:
        self._raw = raw
        self._head = b"" if number is None else UInt32(number)

    def process_packet(self, kind: int, _seq: int, packet: SSHPacket) -> bool:
        payload = packet.get_remaining_payload()
        packet.get_bytes(len(payload))
        return self._raw.keep(kind, self._head + payload)

    def log_received_packet(self, *_: Any) -> None: ...

    def cancel(self) -> None: ...


class AnyChannel(dict[int, Any]):
    """Every number is a channel, whatever was opened; `raw` keeps what comes for it."""

    def __init__(self, raw: Any) -> None:
        super().__init__()
        self._raw = raw

    def __missing__(self, number: int) -> _Kept:
        return _Kept(self._raw, number)


class Raw(SSHClientConnection):
    """A connection after its first key exchange."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kept: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.by_hand = False
        self.routes: dict[int, Callable[[int, bytes], None]] = {}  # our number of a channel -> who takes its messages

    @classmethod
    async def _made(cls, host: str, port: int, version: bytes, options: dict[str, Any]) -> "Raw":
        loop = asyncio.get_running_loop()
        made = await asyncssh.SSHClientConnectionOptions.construct(
            None, config=(), host=host, port=port, username="x", known_hosts=None, client_factory=asyncssh.SSHClient,
            client_keys=None, agent_path=None, **options,
        )  # fmt: skip
        made.version = version or made.version
        made.waiter = loop.create_future()
        made.waiter.add_done_callback(lambda waiter: waiter.cancelled() or waiter.exception())
        return cls(loop, made, wait="auth")

    async def _exchanged(self) -> "Raw":
        """Keys are exchanged, or the server has hung up."""
        async with asyncio.timeout(20):
            waits = [asyncio.ensure_future(event.wait()) for event in (self.ready, self.gone)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return self

    @classmethod
    async def connect(cls, port: int, host: str = LOOPBACK, version: bytes = b"", **options: Any) -> "Raw":
        raw = await cls._made(host, port, version, options)
        await asyncio.get_running_loop().create_connection(lambda: raw, host, port)
        return await raw._exchanged()

    async def inside(self, target: str, port: int = 22, number: int = 0, version: bytes = b"", **options: Any) -> "Raw":
        """A connection through a direct-tcpip channel of this one, which is logged in."""
        raw = await Raw._made(target, port, version, options)
        self.routes[number] = _Tunnel(self, raw).heard
        self.open("direct-tcpip", number, String(target), UInt32(port), String(LOOPBACK), UInt32(1))
        return await raw._exchanged()

    def send_service_request(self, service: bytes) -> None:
        self.by_hand = True
        self._channels = AnyChannel(self)
        self._auth = _Kept(self)  # type: ignore[assignment]
        self._auth_complete = True  # it would hold back what it thinks too early
        self.ready.set()

    def process_packet(self, kind: int, _seq: int, packet: SSHPacket) -> Any:
        if not self.by_hand or kind in (20, 21) or 30 <= kind < 50:
            return super().process_packet(kind, _seq, packet)
        payload = packet.get_remaining_payload()
        packet.get_bytes(len(payload))
        return self.keep(kind, payload)

    def keep(self, kind: int, payload: bytes) -> bool:
        if self.routes and kind in range(91, 101) and (route := self.routes.get(int.from_bytes(payload[:4]))):
            route(kind, payload[4:])
        else:
            self.kept.put_nowait((kind, payload))
        return True

    def _send_deferred_packets(self) -> None: ...

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        if pkttype != 2:  # asyncssh says MSG_IGNORE before everything else
            super().send_packet(pkttype, *args, handler=handler)

    def connection_lost(self, exc: Exception | None = None) -> None:
        """What came before the end is heard. asyncio reads no more once a write has met the reset of a socket."""
        sock = getattr(self._transport, "_sock", None)
        try:
            while sock is not None and (data := sock.recv(65536)):
                self.data_received(data)
        except OSError:
            pass
        super().connection_lost(exc)

    def _cleanup(self, exc: Exception | None) -> None:
        super()._cleanup(exc)
        self.gone.set()

    def say(self, kind: int, *parts: bytes) -> None:
        if self._transport is not None:
            self.send_packet(kind, *parts)

    async def hear(self, seconds: float = LONG) -> tuple[int, bytes]:
        """The next message that answers something; (0, b"") when the server has hung up."""
        while True:
            async with asyncio.timeout(seconds):
                getting = asyncio.ensure_future(self.kept.get())
                going = asyncio.ensure_future(self.gone.wait())
                done, _ = await asyncio.wait({getting, going}, return_when=asyncio.FIRST_COMPLETED)
                going.cancel()
            if getting not in done:
                getting.cancel()
                if self.kept.empty():
                    return 0, b""
                kind, payload = self.kept.get_nowait()
            else:
                kind, payload = getting.result()
            if kind not in (USERAUTH_BANNER, EXT_INFO, GLOBAL_REQUEST, 2, 4):
                return kind, payload

    async def rest(self, seconds: float = LONG) -> list[int]:
        """Kinds of all messages until the server hangs up."""
        kinds = []
        while (message := await self.hear(seconds))[0]:
            kinds.append(message[0])
        return kinds

    async def until(self, *kinds: int, seconds: float = LONG) -> tuple[int, bytes]:
        """The next message of one of `kinds`; AssertionError if the server hangs up first."""
        passed = []
        while (message := await self.hear(seconds))[0] not in kinds:
            passed.append(message[0])
            why = disconnect_reason(message[1]) if message[0] == DISCONNECT else ""
            assert message[0], f"hung up; wanted one of {kinds}, heard {passed}"
            assert message[0] != DISCONNECT, f"disconnected: {why}; wanted one of {kinds}, heard {passed[:-1]}"
        return message

    async def parting(self, seconds: float = LONG) -> str:
        """Why the server ends the connection: the reason of its DISCONNECT, which must be its last word."""
        reason = ""
        while (message := await self.hear(seconds))[0]:
            assert not reason, "something came behind the DISCONNECT"
            if message[0] == DISCONNECT:
                reason = disconnect_reason(message[1])
        assert reason, "it hung up without a reason"
        return reason

    async def leave(self) -> None:
        self.abort()
        await self.gone.wait()

    # --- after login --------------------------------------------------------------------------------

    async def log_in(self, user: str, key: asyncssh.SSHKey) -> "Raw":
        await self.begin()
        self.prove(user, key)
        assert (await self.hear())[0] == USERAUTH_SUCCESS
        return self

    async def walk_in(self, user: str) -> "Raw":
        """Within a connection that is logged in nothing more is asked."""
        await self.begin()
        self.request(user, "none")
        assert (await self.hear())[0] == USERAUTH_SUCCESS
        return self

    def open(self, kind: str, number: int, *rest: bytes, window: int = 1 << 21, packet: int = 32768) -> None:
        self.say(CHANNEL_OPEN, String(kind), UInt32(number), UInt32(window), UInt32(packet), *rest)

    async def channel(self, kind: str, number: int, *rest: bytes, **sizes: int) -> int:
        """A channel, opened; the server's number of it."""
        self.open(kind, number, *rest, **sizes)
        said, payload = await self.until(OPEN_CONFIRMATION, OPEN_FAILURE)
        assert said == OPEN_CONFIRMATION, payload
        assert struct.unpack_from(">I", payload)[0] == number
        return int(struct.unpack_from(">I", payload, 4)[0])

    async def session(self, number: int = 0, **sizes: int) -> int:
        return await self.channel("session", number, **sizes)

    def ask(self, channel: int, name: str | bytes, *rest: bytes, reply: bool = True) -> None:
        self.say(CHANNEL_REQUEST, UInt32(channel), String(name), Boolean(reply), *rest)

    async def answer(self, seconds: float = LONG) -> bool:
        """Of the next channel request."""
        return (await self.until(CHANNEL_SUCCESS, CHANNEL_FAILURE, seconds=seconds))[0] == CHANNEL_SUCCESS

    async def started(self, name: str, *rest: bytes, number: int = 0, **sizes: int) -> int:
        """A session with something running in it, whose input is open."""
        channel = await self.session(number, **sizes)
        self.ask(channel, name, *rest)
        heard = {(await self.until(CHANNEL_SUCCESS, WINDOW_ADJUST))[0] for _ in range(2)}
        assert heard == {CHANNEL_SUCCESS, WINDOW_ADJUST}
        return channel

    def data(self, channel: int, data: bytes) -> None:
        self.say(DATA, UInt32(channel), String(data))

    async def output(self, seconds: float = LONG) -> tuple[bytes, int | None]:
        """What a command writes on both streams up to its CLOSE, and its exit status."""
        out, status = b"", None
        while True:
            kind, payload = await self.until(DATA, EXTENDED_DATA, CHANNEL_REQUEST, CLOSE, seconds=seconds)
            if kind == CLOSE:
                return out, status
            if kind == CHANNEL_REQUEST:
                if b"exit-status" in payload:
                    status = int.from_bytes(payload[-4:])
            else:
                out += payload[8 if kind == DATA else 12 :]

    async def begin(self) -> "Raw":
        """Ask for the authentication service."""
        self.say(SERVICE_REQUEST, String("ssh-userauth"))
        assert (await self.hear())[0] == SERVICE_ACCEPT
        return self

    def request(self, user: str | bytes, method: str, *parts: bytes, service: str = CONNECTION) -> None:
        self.say(USERAUTH_REQUEST, String(user), String(service), String(method), *parts)

    def offer(self, user: str | bytes, key: asyncssh.SSHKey, algorithm: bytes = b"") -> None:
        self.request(user, "publickey", Boolean(False), String(algorithm or key.algorithm), String(key.public_data))

    def prove(self, user: str | bytes, key: asyncssh.SSHKey, **wrong: Any) -> None:
        """A signed request; `wrong` puts something else in place of what belongs there."""
        blob = wrong.get("blob", key.public_data)
        algorithm = wrong.get("algorithm", key.algorithm)
        service = wrong.get("service", CONNECTION)
        parts = (Boolean(True), String(algorithm), String(blob))
        signed = String(wrong.get("session", self._session_id)) + b"".join(
            (bytes((USERAUTH_REQUEST,)), String(wrong.get("signed_user", user)),
             String(wrong.get("signed_service", service)), String("publickey"), Boolean(True), String(algorithm),
             String(wrong.get("signed_blob", blob)))
        )  # fmt: skip
        signer = wrong.get("signer", lambda data: key.sign(data, algorithm))
        self.request(user, "publickey", *parts, String(signer(signed)), service=service)


class _Tunnel:
    """A channel of `outer`, once it is confirmed, as the transport of `inner`. It counts no window."""

    def __init__(self, outer: Raw, inner: Raw) -> None:
        self._outer = outer
        self._there = -1
        self._inner = inner
        self._closed = False

    def heard(self, kind: int, payload: bytes) -> None:
        if kind == OPEN_CONFIRMATION:
            self._there = struct.unpack_from(">I", payload)[0]
            self._inner.connection_made(self)  # type: ignore[arg-type]
        elif kind == OPEN_FAILURE:
            self._inner.gone.set()
        elif kind == DATA:
            self._inner.data_received(payload[4:])
            self._outer.say(WINDOW_ADJUST, UInt32(self._there), UInt32(len(payload) - 4))
        elif kind in (EOF, CLOSE) and not self._closed:
            self._closed = True
            asyncio.get_running_loop().call_soon(self._inner.connection_lost, None)

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), 32768):
            self._outer.data(self._there, data[at : at + 32768])

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            self._outer.say(CLOSE, UInt32(self._there))

    close = abort

    def is_closing(self) -> bool:
        return self._closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (LOOPBACK, 1) if name in ("sockname", "peername") else default


def failure(payload: bytes) -> tuple[list[bytes], bool]:
    """Methods that can continue, and whether it was a partial success."""
    packet = SSHPacket(payload)
    return list(packet.get_namelist()), packet.get_boolean()


def disconnect_reason(payload: bytes) -> str:
    packet = SSHPacket(payload)
    packet.get_uint32()
    return packet.get_string().decode()


def clear(payload: bytes, *, length: int | None = None, padding: int | None = None) -> bytes:
    """A packet in the clear; `length` and `padding` may lie."""
    pad = 8 - (len(payload) + 5) % 8
    pad += 8 if pad < 4 else 0
    body = bytes((pad if padding is None else padding,)) + payload + bytes(pad)
    return struct.pack(">I", len(body) if length is None else length) + body


def talk_in_the_clear(port: int, data: bytes, seconds: float = LONG, host: str = LOOPBACK) -> bytes:
    """Say `data` and return all that comes until the server hangs up; TimeoutError if it never does."""
    with socket.create_connection((host, port), timeout=seconds) as sock:
        answer = b""
        try:
            sock.sendall(data)
            while part := sock.recv(65536):
                answer += part
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer
