"""SSH by hand: packets in any order, in the clear before keys are exchanged and encrypted after.

asyncssh does the key exchange as a client; from then on nothing is sent but what a test says, and what comes is kept.
"""

import asyncio
import socket
import struct
from typing import Any

import asyncssh
from asyncssh.connection import SSHClientConnection
from asyncssh.packet import Boolean, SSHPacket, String

from tests.support.net import LOOPBACK

DISCONNECT, SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO, KEXINIT = 1, 5, 6, 7, 20
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER = 50, 51, 52, 53
PK_OK = INFO_REQUEST = 60
INFO_RESPONSE = 61
GLOBAL_REQUEST, REQUEST_SUCCESS, CHANNEL_OPEN, OPEN_CONFIRMATION, CHANNEL_SUCCESS = 80, 81, 90, 91, 99
GRANTED = {USERAUTH_SUCCESS, REQUEST_SUCCESS, OPEN_CONFIRMATION, CHANNEL_SUCCESS}
"""What a server says to somebody who is in."""

CONNECTION = "ssh-connection"


class _Kept:
    """Stands where asyncssh expects an authentication under way: takes messages 60 to 79."""

    def __init__(self, raw: "Raw") -> None:
        self._raw = raw

    def process_packet(self, kind: int, _seq: int, packet: SSHPacket) -> bool:
        return self._raw.process_packet(kind, _seq, packet)

    def log_received_packet(self, *_: Any) -> None: ...

    def cancel(self) -> None: ...


class Raw(SSHClientConnection):
    """A connection after its first key exchange."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kept: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.by_hand = False

    @classmethod
    async def connect(cls, port: int, host: str = LOOPBACK, version: bytes = b"", **options: Any) -> "Raw":
        loop = asyncio.get_running_loop()
        made = await asyncssh.SSHClientConnectionOptions.construct(
            None, config=(), host=host, port=port, username="x", known_hosts=None, client_factory=asyncssh.SSHClient,
            client_keys=None, agent_path=None, **options,
        )  # fmt: skip
        made.version = version or made.version
        made.waiter = loop.create_future()
        raw = cls(loop, made, wait="auth")
        made.waiter.add_done_callback(lambda waiter: waiter.cancelled() or waiter.exception())
        await loop.create_connection(lambda: raw, host, port)
        async with asyncio.timeout(20):
            waits = [asyncio.ensure_future(event.wait()) for event in (raw.ready, raw.gone)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return raw

    def send_service_request(self, service: bytes) -> None:
        self.by_hand = True
        self._auth = _Kept(self)  # type: ignore[assignment]
        self._auth_complete = True  # it would hold back what it thinks too early
        self.ready.set()

    def process_packet(self, kind: int, _seq: int, packet: SSHPacket) -> Any:
        if not self.by_hand or kind in (20, 21) or 30 <= kind < 50:
            return super().process_packet(kind, _seq, packet)
        payload = packet.get_remaining_payload()
        packet.get_bytes(len(payload))
        self.kept.put_nowait((kind, payload))
        return True

    def _send_deferred_packets(self) -> None: ...

    def _cleanup(self, exc: Exception | None) -> None:
        super()._cleanup(exc)
        self.gone.set()

    def say(self, kind: int, *parts: bytes) -> None:
        if self._transport is not None:
            self.send_packet(kind, *parts)

    async def hear(self, seconds: float = 10.0) -> tuple[int, bytes]:
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

    async def rest(self, seconds: float = 10.0) -> list[int]:
        """Kinds of all messages until the server hangs up."""
        kinds = []
        while (message := await self.hear(seconds))[0]:
            kinds.append(message[0])
        return kinds

    async def leave(self) -> None:
        self.abort()
        await self.gone.wait()

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


def talk_in_the_clear(port: int, data: bytes, seconds: float = 10.0, host: str = LOOPBACK) -> bytes:
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
