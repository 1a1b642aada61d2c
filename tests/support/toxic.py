"""A TCP link that can be made bad on purpose, and targets that never were good: in threads, on loopback.

Link     between the bastion and a target: `hang`, `resume`, `reset`, `finish`, `refuse`
Silent   takes a connection and never says a word
Flooder  an SSH server that answers a channel open with data instead of a confirmation
ByPassword  one that takes a password, and remembers which it was given
Puppet   one that says on its channels what a test's script says
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import asyncssh
from asyncssh.packet import UInt32

from tests.support.net import LOOPBACK, free_port
from tests.support.rawssh import (
    CHANNEL_OPEN,
    CHANNEL_REQUEST,
    CHANNEL_SUCCESS,
    CLOSE,
    GLOBAL_REQUEST,
    OPEN_CONFIRMATION,
    REQUEST_SUCCESS,
    AnyChannel,
)

PIECE = 64 * 1024
FLOOD = 64 * 1024 * 1024  # bytes; far above what the gateway may hold for a channel that nobody confirmed
WINDOW = 2 * 1024 * 1024


class Server(Protocol):
    """What `Site.add_target` needs to know."""

    account: str

    @property
    def address(self) -> str: ...

    @property
    def host_key(self) -> Path: ...

    @property
    def client_key(self) -> Path: ...


@dataclass
class At:
    """A server as it is reached at another address, or with another key pinned than it has."""

    server: Server
    address: str
    pinned: Path | None = None

    @property
    def account(self) -> str:
        return self.server.account

    @property
    def host_key(self) -> Path:
        return self.pinned or self.server.host_key

    @property
    def client_key(self) -> Path:
        return self.server.client_key


class Link:
    """Passes bytes on to `upstream` until told otherwise; `with Link(...) as link`."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: set[socket.socket] = set()
        self._accepting: threading.Thread | None = None
        self.port = free_port()  # which is nobody else's either once it refuses
        self._listener = socket.create_server((LOOPBACK, self.port))

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def __enter__(self) -> Self:
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._flowing.set()
        self.refuse()
        self.reset()

    def hang(self) -> None:
        """Nothing passes, nothing is closed: as a machine that lost its power, or its network."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def reset(self) -> None:
        """Both ends see `connection reset`."""
        for sock in list(self._sockets):
            self._sockets.discard(sock)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # close alone would not wake the thread that reads it, and the reset waits for that
                sock.shutdown(socket.SHUT_RD)
                sock.close()
            except OSError:
                pass

    def finish(self) -> None:
        """Both ends see an end of file in the middle of everything."""
        for sock in list(self._sockets):
            self._sockets.discard(sock)
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def refuse(self) -> None:
        """Take no connection any more: as a machine that is up, without its service."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        if self._accepting is not None:
            self._accepting.join(20)  # else it may take the first connection of the listener that gets this number next
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._upstream, timeout=10)
            except OSError:
                return
            far.settimeout(None)
            self._sockets |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(PIECE):
                self._flowing.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for sock in (source, sink):
                sock.close()


class Silent:
    """Listens, accepts, and never says a word."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server((LOOPBACK, 0))  # the kernel accepts; nobody answers
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._listener.getsockname()[1]}"


class _Flooding(asyncssh.SSHServerConnection):
    """Data for a channel that it never confirms."""

    # The name is asyncssh's own; the handlers below call it by number.
    def _process_channel_open(self, _pkttype: int, _pktid: int, packet: Any) -> None:
        packet.get_string()
        sender = packet.get_uint32()
        packet.get_bytes(len(packet.get_remaining_payload()))
        self.create_task(self._flood(sender))

    async def _flood(self, channel: int) -> None:
        head, piece = struct.pack(">I", channel), bytes(32 * 1024)
        sent = 0
        while sent < FLOOD and self._transport is not None:
            self.send_packet(94, head, struct.pack(">I", len(piece)), piece)
            sent += len(piece)
            while self._transport is not None and self._transport.get_write_buffer_size() > WINDOW:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)

    _packet_handlers = {  # noqa: RUF012
        **asyncssh.SSHServerConnection._packet_handlers,
        90: lambda self, *args: self._process_channel_open(*args),
    }


class _Anyone(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True


@dataclass
class _InThread:
    """An asyncssh server in a thread of its own; `with Flooder(home) as target`."""

    home: Path
    account: str = "root"
    port: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def host_key(self) -> Path:
        return self.home / "host_key.pub"

    @property
    def client_key(self) -> Path:
        return self.home / "client_key"

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        for name in ("host_key", "client_key"):
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(self.home / name)
            key.write_public_key(self.home / f"{name}.pub")
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self._listen())
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _listen(self) -> Any:
        raise NotImplementedError


@dataclass
class Flooder(_InThread):
    """Lets everybody in, and floods each channel that is asked for."""

    async def _listen(self) -> Any:
        options = await asyncssh.SSHServerConnectionOptions.construct(
            None, server_host_keys=[str(self.home / "host_key")], server_factory=_Anyone, config=()
        )
        return await self._loop.create_server(lambda: _Flooding(self._loop, options, wait=None), LOOPBACK, 0)


@dataclass
class ByPassword(_InThread):
    """Lets in who knows the password; says so, and then back what it is told. `passwords` are those that were tried."""

    password: str = ""
    passwords: list[str] = field(default_factory=list)

    async def _listen(self) -> Any:
        target = self

        class Server(asyncssh.SSHServer):
            def begin_auth(self, username: str) -> bool:
                return True

            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                target.passwords.append(password)
                return password == target.password

        async def echo(process: "asyncssh.SSHServerProcess[str]") -> None:
            process.stdout.write("logged in by password\r\n")
            while data := await process.stdin.read(1024):
                process.stdout.write(data)

        return await asyncssh.listen(
            LOOPBACK, 0, server_factory=Server, server_host_keys=[str(self.home / "host_key")], process_factory=echo,
            line_editor=False, config=(),
        )  # fmt: skip


Script = Callable[["PuppetConnection", int, bytes], bool]
"""A message of 80 to 127 has come, without or with its channel number as it stands. True: that was all; False: answer
it as an honest server does."""


class PuppetConnection(asyncssh.SSHServerConnection):
    """What comes after login is for the script; `say` sends anything."""

    def __init__(self, *args: Any, puppet: "Puppet", **options: Any) -> None:
        super().__init__(*args, **options)
        self.puppet = puppet
        self._channels = AnyChannel(self)

    def process_packet(self, kind: int, _seq: int, packet: Any) -> Any:
        if not self._auth_complete or kind < 80:
            return super().process_packet(kind, _seq, packet)
        payload = packet.get_remaining_payload()
        packet.get_bytes(len(payload))
        return self.keep(kind, payload)

    def keep(self, kind: int, payload: bytes) -> bool:
        self.puppet.heard.append((kind, payload))
        if not self.puppet.script(self, kind, payload):
            self._honest(kind, payload)
        return True

    def _honest(self, kind: int, payload: bytes) -> None:
        channel = payload[:4]  # of all but openings and global requests; ours have the number of the peer's
        if kind == CHANNEL_OPEN:
            at = 4 + int.from_bytes(channel)
            self.say(OPEN_CONFIRMATION, payload[at : at + 4] * 2, UInt32(1 << 21), UInt32(32768))
        elif kind == CHANNEL_REQUEST and payload[8 + int.from_bytes(payload[4:8])]:
            self.say(CHANNEL_SUCCESS, channel)
        elif kind == GLOBAL_REQUEST and payload[4 + int.from_bytes(channel)]:
            self.say(REQUEST_SUCCESS)
        elif kind == CLOSE:
            self.say(CLOSE, channel)

    def say(self, kind: int, *parts: bytes) -> None:
        if self._transport is not None:
            self.send_packet(kind, *parts)


@dataclass
class Puppet(_InThread):
    """A target that says what a script says. `heard` is all that it was told after login."""

    script: Script = lambda connection, kind, payload: False
    heard: list[tuple[int, bytes]] = field(default_factory=list)

    async def _listen(self) -> Any:
        options = await asyncssh.SSHServerConnectionOptions.construct(
            None, server_host_keys=[str(self.home / "host_key")], server_factory=_Anyone, config=()
        )
        return await self._loop.create_server(
            lambda: PuppetConnection(self._loop, options, wait=None, puppet=self), LOOPBACK, 0
        )
