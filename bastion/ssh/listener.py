"""Where connections come in: listening sockets, admission before anything is spent on a stranger, and the protocol.

asyncio's own server makes a protocol for whoever comes; here a refused connection costs an accept and one line.
"""

import asyncio
import errno
import os
import resource
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog
from asyncssh.constants import DISC_TOO_MANY_CONNECTIONS, MSG_DISCONNECT
from asyncssh.packet import String, UInt32

from bastion.config_checks import split_address
from bastion.errors import BastionError
from bastion.ssh.transport import PacketTransport
from bastion.startups import Outcome, Startups, plain_source

BACKLOG: Final = 512
"""Connections that the kernel keeps while the worker is busy; ansible comes with dozens at once."""
ACCEPTS: Final = 64
"""Connections taken in one turn of the loop; those who are logged in get their turn in between."""
PAUSE: Final = 1.0
"""Seconds without accepting after the process ran out of file descriptors: sessions that live use none anew."""
SPARE: Final = 640
"""Descriptors kept back, or a quarter where there are fewer: each of 200 who log in needs three more, and sessions that
live must get theirs.
"""
PARTING, PARTING_SECONDS = 32, 1.0
"""Refused connections that may hear us out at once, and for how long: people need one round trip, floods are cut."""
TOO_MANY: Final = "bastion: too many connections before login, try again later"
FULL: Final = "bastion: too many connections, try again later or tell the people who run this bastion"
QUIET: Final = 1.0
"""Seconds between two lines about refused connections."""
SOCKET_NAME: Final = "ssh"
"""FileDescriptorName of the sockets that systemd passes."""

_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_UNREAD: Final = 4096  # bytes thrown away in one turn, of somebody who is refused
_FIRST_PASSED: Final = 3  # sd_listen_fds(3)


Make = Callable[[Callable[[Outcome], None]], Any]
"""Takes what to call when the time before login is over; makes a PersonConnection."""


class Listener:
    """Owns the sockets."""

    def __init__(self, sockets: Iterable[socket.socket], make: Make, admission: Startups) -> None:
        self._sockets = list(sockets)
        self._make = make
        self._admission = admission
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._parting: dict[socket.socket, asyncio.TimerHandle] = {}  # refused, and perhaps not yet told
        self._open = False
        self._refused = 0
        self._quiet: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._open = True
        for sock in self._sockets:
            sock.setblocking(False)
            sock.listen(BACKLOG)
            self._loop.add_reader(sock, self._accept, sock)

    def close(self) -> None:
        """Take nobody new; whoever is in stays."""
        self._open = False
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        for sock in list(self._parting):
            self._let_go(sock)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF:
                    raise
                structlog.get_logger().error("out-of-descriptors", why=(error.strerror or "").lower(), pause=PAUSE)
                self._loop.remove_reader(listening)
                self._loop.call_later(PAUSE, self._resume, listening)
                return
            self._admit(sock, plain_source(str(address[0])))

    def _resume(self, listening: socket.socket) -> None:
        if self._open:
            self._loop.add_reader(listening, self._accept, listening)

    def _admit(self, sock: socket.socket, source: str) -> None:
        sock.setblocking(False)
        if is_crowded(sock.fileno()):
            return self._refuse(sock, source, "nearly all file descriptors are in use", FULL)
        refusal = self._admission.admit(source, time.monotonic())
        if refusal is not None:
            return self._refuse(sock, source, refusal.value, TOO_MANY)
        task = self._loop.create_task(self._attach(sock, source))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refuse(self, sock: socket.socket, source: str, why: str, words: str) -> None:
        """One line a second, however many are refused: a flood must not fill the log."""
        self._refused += 1
        if self._quiet is None:
            self._quiet = self._loop.call_later(QUIET, self._sum_up)
            structlog.get_logger().warning("refused", why=why, source=source)
        try:
            sock.send(goodbye(words))
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            return sock.close()
        if len(self._parting) >= PARTING:
            return sock.close()
        # Closed with something unread it would be reset, and the client would never look at what we said.
        self._parting[sock] = self._loop.call_later(PARTING_SECONDS, self._let_go, sock)
        self._loop.add_reader(sock, self._drain, sock)

    def _drain(self, sock: socket.socket) -> None:
        try:
            if sock.recv(_UNREAD):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._let_go(sock)

    def _let_go(self, sock: socket.socket) -> None:
        self._parting.pop(sock).cancel()
        self._loop.remove_reader(sock)
        sock.close()

    def _sum_up(self) -> None:
        self._quiet = None
        if self._refused > 1:
            structlog.get_logger().warning("refused-more", connections=self._refused - 1, seconds=QUIET)
        self._refused = 0

    async def _attach(self, sock: socket.socket, source: str) -> None:
        def left(outcome: Outcome) -> None:
            self._admission.left(source, time.monotonic(), outcome)

        try:
            await self._loop.connect_accepted_socket(lambda: PacketTransport(self._make(left)), sock)
        except OSError as error:
            # It was reset before we came to it.
            sock.close()
            left(Outcome.NO_ATTEMPT)
            structlog.get_logger().info("not-attached", source=source, why=(error.strerror or "").lower())


def goodbye(words: str) -> bytes:
    """All that we say to somebody who is refused: a disconnect in the clear, which clients show to the person, as they
    do not show a line before the identification (RFC 4253 sections 4.2, 6 and 11.1).
    """
    payload = bytes((MSG_DISCONNECT,)) + UInt32(DISC_TOO_MANY_CONNECTIONS) + String(words) + String("")
    padding = 8 + -(5 + len(payload)) % 8
    head = UInt32(1 + len(payload) + padding) + bytes((padding,))
    return b"SSH-2.0-Bastion\r\n" + head + payload + bytes(padding)


def is_crowded(handle: int) -> bool:
    """Whether a descriptor just made says that nearly all are in use: the kernel gives out the lowest that is free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit >= 0 and handle >= limit - min(limit // 4, SPARE)


def open_sockets(listen: Iterable[str], *, shared: bool) -> list[socket.socket]:
    """Bound sockets; `shared` lets the other workers bind the same addresses, and the kernel spread connections.

    BastionError when one cannot be had.
    """
    sockets: list[socket.socket] = []
    for text in listen:
        host, port = split_address(text)
        try:
            sockets += [_bound(family, address, shared) for family, address in _addresses(host, port)]
        except OSError as error:
            for sock in sockets:
                sock.close()
            raise BastionError(
                f"cannot listen on `{text}`: {(error.strerror or str(error)).lower()}",
                "see who has it: ss -ltnp, or change [ssh] listen",
            ) from None
    return sockets


def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    if host in ("", "*"):
        return [(socket.AF_INET, ("0.0.0.0", port)), (socket.AF_INET6, ("::", port))]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, address) for family, _, _, _, address in found]


def _bound(family: int, address: Any, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def passed_sockets() -> list[socket.socket]:
    """Listening sockets that systemd made for us (sd_listen_fds(3)); none if it did not."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    count = int(os.environ.get("LISTEN_FDS", "0"))
    found = []
    for number in range(count):
        handle = _FIRST_PASSED + number
        os.set_inheritable(handle, False)
        name = names[number] if number < len(names) else ""
        if name in (SOCKET_NAME, "unknown", ""):
            found.append(socket.socket(fileno=handle))
    return found
