"""Where connections come in: listening sockets, admission before anything is spent on a stranger, and the protocol.

asyncio's own server makes a protocol for whoever comes; here a refused connection costs an accept and one line.
"""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog

from bastion.config_checks import split_address
from bastion.errors import BastionError
from bastion.ssh.transport import PacketTransport
from bastion.startups import Outcome, Refusal, Startups, plain_source

BACKLOG: Final = 512
"""Connections that the kernel keeps while the worker is busy; ansible comes with dozens at once."""
ACCEPTS: Final = 64
"""Connections taken in one turn of the loop; those who are logged in get their turn in between."""
PAUSE: Final = 1.0
"""Seconds without accepting after the process ran out of file descriptors: sessions that live use none anew."""
QUIET: Final = 1.0
"""Seconds between two lines about refused connections."""
SOCKET_NAME: Final = "ssh"
"""FileDescriptorName of the sockets that systemd passes."""

_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
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
        refusal = self._admission.admit(source, time.monotonic())
        if refusal is not None:
            self._note(refusal, source)
            try:
                # Not an identification line: RFC 4253 section 4.2 lets a client show it to the person.
                sock.send(b"bastion: too many connections before login, try again later\r\n")
            except OSError:
                pass
            sock.close()
            return
        task = self._loop.create_task(self._attach(sock, source))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note(self, refusal: Refusal, source: str) -> None:
        """One line a second, however many are refused: a flood must not fill the log."""
        self._refused += 1
        if self._quiet is None:
            self._quiet = self._loop.call_later(QUIET, self._sum_up)
            structlog.get_logger().warning("refused", why=refusal.value, source=source)

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
