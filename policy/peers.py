"""The five sockets: where they are, who may connect and who that is, and how one message is read."""

import os
import pwd
import resource
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from policy.errors import PolicyError
from policy.messages import MAX_MESSAGE

GATEWAY_SOCKET: Final = "policyd.sock"
ADMIN_SOCKET: Final = "policyd-admin.sock"
COURIER_SOCKET: Final = "policyd-courier.sock"
RUNNER_SOCKET: Final = "policyd-runner.sock"
BROKER_SOCKET: Final = "policyd-broker.sock"
AUDIT_SOCKET: Final = "policyd-audit.sock"
BACKLOG: Final = 128
MODE: Final = 0o660
_UCRED: Final = struct.Struct("iII")
_SO_PEERGROUPS: Final = 59  # <asm-generic/socket.h>; Python has no name for it
_MAX_GROUPS: Final = 256
"""1024 bytes, the most that Python's getsockopt takes. Whoever is in more groups is known by uid and gid alone."""


LOOK_UP_SECONDS: Final = 5.0
"""For the name of a user. It may come from a directory server; an auditor waits for it, nobody else does."""
LOOK_UPS: Final = 4
"""Names looked up at once: a directory that hangs takes these threads and no more."""
SPARE: Final = 128
"""Descriptors kept back, or a quarter where there are fewer: the database with its log, the audit head, operators."""


class SocketError(PolicyError):
    """A socket cannot be made where it should be."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"socket `{path}`: {problem}", "see who has it: ss -xlp")


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


def peer_of(connection: trio.socket.SocketType) -> Peer:
    """From SO_PEERCRED and SO_PEERGROUPS: what the peer was when it connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:  # ERANGE: more groups than fit; fewer are known, so fewer may connect
        groups = b""
    return Peer(pid=pid, uid=uid, gid=gid, groups=frozenset(struct.unpack(f"{len(groups) // 4}I", groups)))


async def os_user(uid: int) -> str:
    """The name of a user of this machine; empty if it has none, or the directory that knows it does not answer."""

    def look_up() -> str:
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return ""

    with trio.move_on_after(LOOK_UP_SECONDS):
        return await trio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=_look_ups)
    return ""


_look_ups: Final = trio.CapacityLimiter(LOOK_UPS)


def welcome(peer: Peer, group: int) -> bool:
    """root, our own user, or a member of the socket's group. The mode says the same; this holds if it is changed."""
    return peer.uid in (0, os.geteuid()) or group == peer.gid or group in peer.groups


def is_crowded(handle: int) -> bool:
    """Whether a descriptor just made says that nearly all are in use: the kernel gives out the lowest that is free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit >= 0 and handle >= limit - min(limit // 4, SPARE)


def listen(path: Path, group: int) -> trio.socket.SocketType:
    """A listening socket of mode 0660 and this group at `path`; a socket nobody listens on any more is replaced.

    SocketError if another policyd listens there, or something else is there.
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
        raise SocketError(path, error.strerror or str(error)) from None
    finally:
        os.umask(old)
    return trio.socket.from_stdlib_socket(sock)


def group_of(path: Path) -> int:
    return os.stat(path).st_gid


async def receive(connection: trio.socket.SocketType) -> bytes:
    """One message; b"" at the end. Oversized, or OSError."""
    data = await connection.recv(MAX_MESSAGE + 1)
    if len(data) > MAX_MESSAGE:
        raise Oversized
    return data


def _clear(path: Path) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        raise SocketError(path, "something that is not our socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except OSError as error:
            raise SocketError(path, str(error.strerror)) from None
        else:
            raise SocketError(path, "another policyd is running")
    path.unlink(missing_ok=True)
