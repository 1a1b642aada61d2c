"""The socket: where it is, who may connect, and how one message is read and sent."""

import os
import resource
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recorder.messages import MAX_MESSAGE

SOCKET: Final = "recorderd.sock"
BACKLOG: Final = 256
MODE: Final = 0o660
BUFFER: Final = 1 << 20
"""Bytes the kernel may hold for one recording: what a gateway has sent while we were busy for some milliseconds."""

_SEND: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_taken: Final = memoryview(bytearray(MAX_MESSAGE + 1))
_UCRED: Final = struct.Struct("iII")
_SO_PEERGROUPS: Final = 59  # <asm-generic/socket.h>; Python has no name for it
_MAX_GROUPS: Final = 256
"""As many as 1024 bytes hold, which is all that CPython's getsockopt asks for. A member of more is known by its gid."""


SPARE: Final = 4096
"""Descriptors kept back, or a quarter where there are fewer: a new tail for each recording that lives, copies for the
group commit.
"""


class SocketError(Exception):
    """The socket cannot be made where it should be."""


class Oversized(Exception):
    """The peer sent more than MAX_MESSAGE bytes in one message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end, from the kernel."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]

    def __str__(self) -> str:
        return f"uid {self.uid} pid {self.pid}"


def peer_of(connection: socket.socket) -> Peer:
    """From SO_PEERCRED and SO_PEERGROUPS: what the peer was when it connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        groups = b""
    return Peer(pid=pid, uid=uid, gid=gid, groups=frozenset(struct.unpack(f"{len(groups) // 4}I", groups)))


def welcome(peer: Peer, group: int) -> bool:
    """root, our own user, or a member of the socket's group. The mode says the same; this holds if it is changed."""
    return peer.uid in (0, os.geteuid()) or group == peer.gid or group in peer.groups


def spare() -> int:
    """Descriptors that nobody new may use."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(limit // 4, SPARE) if limit >= 0 else SPARE


def is_crowded(handle: int) -> bool:
    """Whether a descriptor just made says that nearly all are in use: the kernel gives out the lowest that is free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit >= 0 and handle >= limit - spare()


def listen(path: Path, group: int) -> socket.socket:
    """A listening socket of mode 0660 and this group at `path`; a socket nobody listens on any more is replaced.

    SocketError if another recorderd listens there, or something else is there.
    """
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)  # from its first moment nobody but us can connect
    try:
        sock.bind(str(path))
        if os.stat(path).st_gid != group:
            os.chown(path, -1, group)
        os.chmod(path, MODE)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise SocketError(f"socket `{path}`: {error.strerror or error}") from None
    finally:
        os.umask(old)
    return sock


def passed_socket() -> socket.socket | None:
    """The listening socket that systemd made (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    os.set_inheritable(3, False)
    return socket.socket(fileno=3)


def take(connection: socket.socket) -> memoryview | None:
    """A message that is there already; empty at the end, None if there is nothing yet. Oversized, or OSError.

    It stands in a buffer of the whole process, and is gone with the next call: no message costs an allocation.
    """
    try:
        size = connection.recv_into(_taken, 0, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    if size > MAX_MESSAGE:
        raise Oversized
    return _taken[:size]


def give(connection: socket.socket, data: bytes) -> bool:
    """Send if the peer has room; whether it had. OSError if it has gone."""
    try:
        connection.send(data, _SEND)
    except BlockingIOError:
        return False
    return True


def hang_up(connection: socket.socket) -> None:
    """Take nothing more. What is unread is thrown away: else the peer sees a reset instead of our last words."""
    connection.shutdown(socket.SHUT_RD)
    try:
        while connection.recv(1, socket.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        pass


def _clear(path: Path) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        raise SocketError(f"socket `{path}`: something that is not our socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except OSError as error:
            raise SocketError(f"socket `{path}`: {error.strerror}") from None
        else:
            raise SocketError(f"socket `{path}`: another recorderd is running")
    path.unlink(missing_ok=True)
