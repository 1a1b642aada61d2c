"""`ssh -J bastion account@target`: the inner connection ends here, with a host certificate for the target.

The client opens a direct-tcpip channel to `target:22` and speaks SSH through it. It knows one line,
`@cert-authority * <host CA>`, and keeps StrictHostKeyChecking on; who the person is, the outer connection has proven.
"""

import asyncio
import copy
import time
from collections import deque
from struct import Struct
from typing import Any, Final

import asyncssh
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED

from bastion.errors import Denied, PeerError
from bastion.login import parse
from bastion.ssh.burst import gathered, settle
from bastion.ssh.channels import CLOSE, EOF, MAX_WINDOW, REQUEST, WINDOW_ADJUST, End
from bastion.ssh.door import Door
from bastion.ssh.forwards import refuse
from bastion.ssh.pace import READ
from bastion.ssh.sessions import CONFIRMATION
from bastion.ssh.transport import HIGH_WATER, PacketTransport
from bastion.ssh.upstream import refused
from policy.messages import Certificate, HostCertificate

WINDOW: Final = 1024 * 1024
"""Bytes of inner packets on their way to us; the inner channels have windows of their own, end to end."""
MAX_PACKET: Final = 32 * 1024
RENEW: Final = 0.5
"""Part of its life after which a host certificate is made anew."""
JUMPED: Final = 30.0
"""Seconds by which the clock was set: policyd makes certificates valid from a minute before."""

_NUMBERS: Final = Struct(">III")
_U32: Final = Struct(">I")


class HostCertificates:
    """Options of inner servers, by target: one key for the worker, one certificate for each target, kept for a while.

    policyd is asked by each person's connection all the same: it alone says whether the target exists for them.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        self._made: dict[str, tuple[float, float, bytes, Any]] = {}  # until when, by which clock, by which CA, what

    async def options(self, policy: Any, target: str) -> Any:
        """Denied if the target is not there for this person."""
        made = self._made.get(target)
        reply = await policy.ask(HostCertificate(target=target, public=self._key.public_data))
        if not isinstance(reply, Certificate):
            raise refused(reply)
        clock = time.time() - time.monotonic()
        # One made while this machine's clock was wrong is refused by clients long after that was put right.
        # One by an authority that signs no more is not known to clients for as long as it lives.
        ours = made is not None and made[2] in reply.blob
        if made is None or made[0] < time.monotonic() or abs(made[1] - clock) > JUMPED or not ours:
            certificate = asyncssh.public_key.decode_ssh_certificate(reply.blob)
            assert isinstance(certificate, asyncssh.public_key.SSHOpenSSHCertificate), "policyd makes no others"
            options = await asyncssh.SSHServerConnectionOptions.construct(
                None, config=(), server_factory=asyncssh.SSHServer, server_host_keys=[(self._key, certificate)],
                **self._options,
            )  # fmt: skip
            options.proxy_command = None
            # Dropbear guesses by both lists, of key exchanges and of host keys, and asyncssh takes the guess as right
            # by the first alone: the plain key has to stand first. What is used the client's order decides.
            options.server_host_keys.move_to_end(certificate.algorithm)
            ca = certificate.signing_key.public_data
            made = self._made[target] = time.monotonic() + reply.expires_in * RENEW, clock, ca, options
        return copy.copy(made[3])


class InnerOwner(asyncssh.SSHServer):
    """Lets in whoever is here: only the outer connection's person can be."""

    def __init__(self, door: "InnerDoor") -> None:
        self._door = door

    def begin_auth(self, username: str) -> bool:
        self._door.account = parse(f"{username}@{self._door.target}").account
        return False

    def auth_completed(self) -> None:
        self._door.begin()


class InnerDoor(Door):
    """The inner connection: the same gate, relay and recorder as any other."""

    via = "jump"

    def __init__(self, outer: Door, target: str, port: int, options: Any) -> None:
        options.protocol_factory = lambda: InnerOwner(self)
        self.gateway, self.policy = outer.gateway, outer.policy
        self.person, self.source, self.client_version = outer.person, outer.source, outer.client_version
        self.leads_to = outer.leads_to
        super().__init__(asyncio.get_running_loop(), options)
        self.target, self.port = target, port
        self.relays = outer.relays


class Tunnel:
    """A direct-tcpip channel of the outer connection as the transport of the inner one, and as flow of its end."""

    def __init__(self, outer: Door, sender: int, window: int, max_packet: int) -> None:
        self._outer = outer
        self._end = End(outer, self)
        self._end.remote, self._end.max_packet = sender, max_packet
        self._window = window  # bytes that the client takes
        self._granted = WINDOW  # bytes that we take
        self._inner: PacketTransport | None = None
        self._waiting: deque[bytes] = deque()  # to be read by the inner connection at the end of the burst
        self._buffer = bytearray()  # to be sent when the client takes more
        self._full = False
        self._reading = True
        self._closing = False
        self._ended = False  # the client sends no more
        self.to = self._end

    def start(self, inner: PacketTransport) -> None:
        self._inner = inner
        self._end.flow = self  # type: ignore[assignment]
        self._end.granted = WINDOW
        self._outer.packets.on_full.append(self._outer_full)
        self._end.send(CONFIRMATION, _NUMBERS.pack(self._end.number, WINDOW, MAX_PACKET))
        inner.connection_made(self)  # type: ignore[arg-type]

    # --- as flow and owner of the outer channel's end -----------------------------------------------

    def data(self, data: memoryview) -> bool:
        self._granted -= len(data)
        if self._granted < 0:
            self.abort()
        elif not self._closing:
            if not self._waiting and self._reading:
                gathered(self)
            self._waiting.append(bytes(data))
            settle()
        return True

    def adjust(self, payload: bytes) -> None:
        self._window += _U32.unpack(payload)[0]
        if self._window > MAX_WINDOW:
            raise PeerError("the window of a channel is too large")
        self._drain()

    def message(self, end: End, kind: int, payload: bytes) -> None:
        if kind == REQUEST:
            refuse(end, payload)
        elif kind in (EOF, CLOSE):
            # Not at once: what came before it, in the same read, is still to be read by the inner connection.
            self._ended = True
            if not self._waiting and self._reading:
                gathered(self)
                settle()

    def opened(self, end: End, window: int, rest: bytes) -> None:
        raise AssertionError("the client opens tunnels, not we")

    def open_failed(self, end: End, code: int, reason: str) -> None:
        raise AssertionError("the client opens tunnels, not we")

    def closed(self, end: End) -> None:
        """Told by `message` or `lost` before."""

    def lost(self, end: End) -> None:
        self.flush()
        self._lost(ConnectionResetError("the outer connection is gone"))

    def flush(self) -> None:
        """The burst is over: the inner connection reads what came."""
        if not self._reading or self._inner is None or self._closing:
            return
        while self._waiting and self._reading and self._inner is not None:
            pieces, size = [], 0
            while self._waiting and size + len(self._waiting[0]) <= READ:
                pieces.append(self._waiting.popleft())
                size += len(pieces[-1])
            self._inner.received(pieces)
        if self._ended and not self._waiting:
            self.abort()
        self._grant()

    def _grant(self) -> None:
        if self._granted < WINDOW // 2 and self._reading:
            self._end.send(WINDOW_ADJUST, _U32.pack(WINDOW - self._granted))
            self._granted = WINDOW

    def _lost(self, error: Exception | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._buffer.clear()
        self._outer.packets.on_full.remove(self._outer_full)
        inner, self._inner = self._inner, None
        if inner is not None:
            asyncio.get_running_loop().call_soon(inner.connection_lost, error)

    # --- as transport of the inner connection -------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        if self._closing:
            return
        if self._buffer or len(data) > self._window:
            self._buffer += data
            self._drain()
        else:
            self._send(memoryview(data))
        self._check_full()

    def _send(self, data: memoryview) -> None:
        self._window -= len(data)
        self._end.send_data(data)

    def _drain(self) -> None:
        if self._buffer and self._window and not self._closing:
            part = bytes(self._buffer[: self._window])
            del self._buffer[: self._window]
            self._send(memoryview(part))
            self._check_full()

    def _outer_full(self, full: bool) -> None:
        self._check_full()

    def _check_full(self) -> None:
        # Attack: a window of 2 GiB for the tunnel, and a client that does not read its socket.
        full = self._outer.packets.full or len(self._buffer) > (0 if self._full else HIGH_WATER)
        if full != self._full and self._inner is not None:
            self._full = full
            (self._inner.pause_writing if full else self._inner.resume_writing)()

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if self._waiting or self._ended:
                gathered(self)
                settle()
            self._grant()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name in ("sockname", "peername") and self._outer._transport is not None:
            return self._outer._transport.get_extra_info(name)
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Fixed: HIGH_WATER."""

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self._closing:
            self._lost(None)
        self._end.send(EOF)
        self._end.send(CLOSE)


async def open_jump(
    outer: Door, certificates: HostCertificates, target: str, port: int, sender: int, window: int, max_packet: int
) -> bool:
    """End the inner connection here, if `target` is one for this person; False if it is none.

    A connection that asked for a target already may go on through it to places that we do not know.
    """
    try:
        options = await certificates.options(outer.policy, target)
    except Denied as error:
        if outer.has_target:
            return False
        outer.refuse_open(sender, OPEN_ADMINISTRATIVELY_PROHIBITED, error.lines()[0])
        return True
    inner = InnerDoor(outer, target, 0 if port == 22 else port, options)
    Tunnel(outer, sender, window, max_packet).start(PacketTransport(inner))
    return True
