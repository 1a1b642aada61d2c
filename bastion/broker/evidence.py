"""Who stands at the other end of a local socket, as far as the kernel says so.

uid and pid are SO_PEERCRED's, of the moment of connecting. Unit and program are read from /proc afterwards, and count
only if the process is still that one: a number is given to another process once its own is gone.
"""

import os
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final, Self

import trio

from bastion.broker.traces import MAX_FILE, started_of, unit_of
from policy.messages import Applicant

_UCRED: Final = struct.Struct("iII")
_SO_PEERPIDFD: Final = 77
"""<asm-generic/socket.h>, since Linux 6.5; Python 3.11 has no name for it."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class LocalPeer:
    """`handle` is a pidfd of the process that connected, -1 where the kernel gives none; `close` gives it back."""

    uid: int
    pid: int
    handle: int
    accepted: int  # clock ticks since boot, no earlier than it connected
    started: int = -1

    @classmethod
    def of(cls, connection: trio.socket.SocketType) -> Self:
        pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        try:
            handle = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError:  # an older kernel; or the process is gone already
            handle = -1
        peer = cls(uid=uid, pid=pid, handle=handle, accepted=int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS) + 1)
        peer.started = _started(pid)
        return peer

    def is_there(self) -> bool:
        """Whether the process that connected still lives: what was found out about it holds no longer than it does."""
        if self.handle >= 0 and _is_readable(self.handle):
            return False
        # Attack: end, and have one's number given to a process of the right unit. It began after we were connected to.
        return 0 <= self.started <= self.accepted and _started(self.pid) == self.started

    def seen(self, application: str) -> Applicant:
        """What binds it. Empty, and so bound to nothing, where it is not the same process before and after."""
        if not self.is_there():
            return Applicant(name=application, uid=self.uid)
        unit, executable = unit_of(_text(f"/proc/{self.pid}/cgroup")), _executable(self.pid)
        if not self.is_there():
            return Applicant(name=application, uid=self.uid)
        return Applicant(name=application, uid=self.uid, pid=self.pid, unit=unit, executable=executable)

    def close(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


def _is_readable(handle: int) -> bool:
    """A pidfd is readable once its process has ended (pidfd_open(2))."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


def _executable(pid: int) -> str:
    """The program a process runs; empty where we may not see it, or cannot be sure.

    Attack: in a mount namespace of one's own, a program of one's own stands at /usr/bin/shop, and /proc names that
    path. So the file must be the very one that we find there.
    """
    link = f"/proc/{pid}/exe"
    try:
        path = os.readlink(link)
        theirs, ours = os.stat(link), os.stat(path)
    except OSError:
        return ""
    return path if os.path.isabs(path) and os.path.samestat(theirs, ours) else ""


def _started(pid: int) -> int:
    return started_of(_text(f"/proc/{pid}/stat"))


def _text(path: str) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(handle, MAX_FILE).decode(errors="replace")
    except OSError:  # it ended while we looked
        return ""
    finally:
        os.close(handle)
