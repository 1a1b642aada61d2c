"""The only module that writes files: recordings, their tails, the reserve.

Layout: `<directory>/<YYYY-MM-DD of t0>/<session>.brec`, beside it `.brec.tail` and `.brec.tail2` while it runs.
Names are made of checked ids; folders are opened once and files only by folder handle and O_NOFOLLOW, so that neither
an id nor a planted link leads elsewhere. Main files are O_APPEND and never rewritten.

After an error on write or sync a file is *dead*: the kernel may have dropped the pages and report success the next
time (fsyncgate, PostgreSQL 2018), so nothing is tried again.
"""

import contextlib
import ctypes
import datetime
import errno
import fcntl
import os
import re
import stat
from pathlib import Path
from typing import Final

from recorder.chain import session_id
from recorder.model import SessionId

TAILS: Final = (".brec.tail", ".brec.tail2")
MAIN: Final = ".brec"
RESERVE: Final = "reserve"
FILE_MODE, FOLDER_MODE = 0o640, 0o750
MIB: Final = 1 << 20

MANY: Final = 16
"""Dirty files from which one syncfs is cheaper than an fdatasync each (measured: 500 files 16 ms against 300 ms)."""

_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_TAIL: Final = re.compile(r"([0-9a-f]{32})\.brec\.tail2?")
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Unusable(ValueError):
    """recorderd cannot start with what is there: cause, then the command that helps."""

    def __init__(self, cause: str, hint: str) -> None:
        super().__init__(cause)
        self.hint = hint


class Dead(OSError):
    """This file had an error before and is not written any more."""


class Folder:
    """The recordings directory, held open and locked: two writers would recover each other's live recordings."""

    def __init__(self, path: Path, reserve_mib: int, low_water_mib: int) -> None:
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        self.path = path
        self.handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self.handle)
            raise Unusable(f"another recorderd writes to `{path}`", "see which one: pgrep -af recorder") from None
        self._reserve, self._low_water = reserve_mib * MIB, low_water_mib * MIB
        self._reserved = self.full = False
        self.refill()

    def close(self) -> None:
        """Another process may write here from now on."""
        os.close(self.handle)

    def free_bytes(self) -> int:
        space = os.fstatvfs(self.handle)
        return space.f_bavail * space.f_frsize

    @property
    def accepting(self) -> bool:
        """Whether there is room for one more recording: the low-water mark holds, and so does the reserve."""
        return not self.full and (self._reserved or not self._reserve) and self.free_bytes() >= self._low_water

    def refill(self) -> None:
        """Hold space back, if there is enough again. Never raises: without a reserve nothing new starts."""
        if self.full and self.free_bytes() >= max(self._reserve + self._low_water, MIB):
            self.full = False
        if self._reserved or self.full or not self._reserve:
            return
        try:
            file = os.open(RESERVE, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.handle)
            try:
                if self.free_bytes() + os.fstat(file).st_blocks * 512 >= self._reserve + self._low_water:
                    os.posix_fallocate(file, 0, self._reserve)
                    os.ftruncate(file, self._reserve)
                    self._reserved = True
            finally:
                os.close(file)
        except OSError:
            pass

    def release(self) -> None:
        """The disk is full: give the reserve away, so that the ends of what runs can be written."""
        self._reserved, self.full = False, True
        try:
            os.unlink(RESERVE, dir_fd=self.handle)
        except OSError:
            pass

    def day(self, t0_us: int) -> str:
        """Name of the folder for a recording that began then; ValueError for a time no calendar has."""
        if t0_us < 0:
            raise ValueError(f"{t0_us} us is not a date")
        try:
            return datetime.datetime.fromtimestamp(t0_us / 1e6, datetime.UTC).date().isoformat()
        except (OverflowError, OSError) as exc:
            raise ValueError(f"{t0_us} us is not a date") from exc

    def open_day(self, name: str) -> int:
        """A handle of this day's folder, made if it is new."""
        try:
            os.mkdir(name, FOLDER_MODE, dir_fd=self.handle)
        except FileExistsError:
            pass
        else:
            os.fsync(self.handle)  # dying before: no folder, and nothing in it was acknowledged
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.handle)

    def create(self, session: SessionId, t0_us: int, tail: bytes, header: bytes) -> "Files":
        """Files of a new recording. FileExistsError if this session has one: an id is never used twice."""
        day = self.day(t0_us)
        files = Files(self.open_day(day), session_id(session), f"{day}/{session}{MAIN}")
        try:
            # The tail comes first. Dying after it: recovery drops a tail without a recording; nothing was acknowledged.
            files.new_tail(0, tail)
            try:
                files.open_main(header)
            except BaseException:
                files.drop_tail(0)
                raise
        except BaseException:
            files.close()
            raise
        return files

    def unfinished(self) -> list[tuple[str, SessionId]]:
        """(day, session) of all that have a tail."""
        found: set[tuple[str, SessionId]] = set()
        with os.scandir(self.handle) as days:
            names = [day.name for day in days if _DAY.fullmatch(day.name) and day.is_dir(follow_symlinks=False)]
        for day in names:
            for file in self.path.joinpath(day).iterdir():
                if match := _TAIL.fullmatch(file.name):
                    found.add((day, SessionId(match[1])))
        return sorted(found)

    def reopen(self, day: str, session: SessionId) -> "Files":
        """Files that recovery works on. FileNotFoundError if there is no main; its tails are still there to drop."""
        files = Files(self.open_day(day), session, f"{day}/{session}{MAIN}")
        try:
            files.reopen_main()
        except BaseException:
            files.close()
            raise
        return files

    def open_log(self, name: str, header: bytes) -> "LogFile":
        """The node log, begun if it is new."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        log = LogFile(os.open(name, flags, 0o600, dir_fd=self.handle))
        os.fchmod(log.handle, FILE_MODE)
        if log.size < len(header):  # new, or we died while it was: nothing is in it
            log.cut(0)
            log.append(header)
            os.fsync(log.handle)
            os.fsync(self.handle)
        return log


class LogFile:
    """A file that only grows. After an error it is dead."""

    def __init__(self, handle: int) -> None:
        self.handle, self.dead, self.dirty = handle, False, False
        self.size = os.fstat(handle).st_size

    def append(self, data: bytes) -> None:
        """Dying here: the next start drops a torn entry. OSError; Dead."""
        if self.dead:
            raise Dead(errno.EIO, "the node log failed before")
        try:
            write_all(self.handle, data)
        except OSError:
            self.cut(self.size)
            raise
        self.size += len(data)
        self.dirty = True

    def cut(self, size: int) -> None:
        self.dead = True
        os.ftruncate(self.handle, size)
        self.size, self.dead = size, False


class Files:
    """Main file and tails of one live recording. Every method raises OSError; after the first one, Dead."""

    def __init__(self, folder: int, session: SessionId, name: str) -> None:
        self.session, self.name = session, name
        self._folder = folder
        self._main = -1
        self._tails: dict[int, int] = {}
        self._newest = 0
        self._sizes: dict[int, int] = {}
        self.dead = False
        self._fresh: set[int] = set()  # handles whose names or first bytes may not be on disk yet
        self.dirty: set[int] = set()  # handles written since the last commit

    def new_tail(self, slot: int, header: bytes) -> None:
        """Begin a tail. Dying here: both tails are read; what the older holds is not in main yet."""
        handle = self._create(self.session + TAILS[slot], header)
        self._tails[slot], self._newest = handle, slot
        self._fresh.add(self._folder)
        self.dirty.add(self._folder)

    def open_main(self, header: bytes) -> None:
        self._main = self._create(self.session + MAIN, header)
        self._fresh.add(self._main)

    def reopen_main(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._main = os.open(self.session + MAIN, flags, dir_fd=self._folder)
        self._sizes[self._main] = os.fstat(self._main).st_size

    def cut_main(self, size: int) -> None:
        """Drop what is torn. Dying here: nothing that was there before has gone, and recovery comes again."""
        os.ftruncate(self._main, size)
        self._sizes[self._main] = size

    def write_tail(self, data: bytes) -> None:
        """Dying here: recovery finds the whole records of it, and drops a torn one that was not acknowledged."""
        self._write(self._tails[self._newest], data)

    def append_main(self, data: bytes) -> None:
        """Dying here: the tail still has all of it; recovery cuts what is torn."""
        self._write(self._main, data)

    def sync_main(self) -> None:
        """Safe in a thread. Dying after it: main has the segment, and recovery skips its chunks in the tail."""
        self._sync(self._main)

    def for_sync(self) -> list[int]:
        """Own handles of the newest tail, and of what must be on disk for it to be found. OSError."""
        self._alive()
        wanted = [self._tails[self._newest], *self._fresh]
        handles: list[int] = []
        try:
            handles += map(os.dup, wanted)
        except OSError:
            for handle in handles:
                os.close(handle)
            raise
        self._fresh.clear()
        return handles

    def drop_tail(self, slot: int) -> None:
        """Its chunks are in main, on disk. Dying here: recovery finds nothing new in it."""
        if (handle := self._tails.pop(slot, None)) is not None:
            self._sizes.pop(handle)
            self.dirty.discard(handle)
            os.close(handle)
        os.unlink(self.session + TAILS[slot], dir_fd=self._folder)

    def for_commit(self) -> list[int]:
        """Own handles of all that is dirty, to be synced and closed by the caller: ours may be closed meanwhile."""
        handles = []
        try:
            for handle in list(self.dirty):
                handles.append(os.dup(handle))
                self.dirty.discard(handle)
        except OSError:
            pass  # out of descriptors: what is left stays dirty for the next commit
        return handles

    def discard(self) -> None:
        """Remove a recording that has not begun: nobody was told of it."""
        os.unlink(self.session + MAIN, dir_fd=self._folder)
        for slot in range(len(TAILS)):
            with contextlib.suppress(FileNotFoundError):
                self.drop_tail(slot)
        self.close()

    def close(self) -> None:
        """Let go of the handles. What is on disk stays: without an end, recovery's case."""
        for handle in (self._main, *self._tails.values(), self._folder):
            if handle >= 0:
                os.close(handle)
        self._main = self._folder = -1
        self._tails.clear()
        self.dirty.clear()
        self.dead = True

    def _create(self, name: str, data: bytes) -> int:
        self._alive()
        handle = os.open(name, _NEW, 0o600, dir_fd=self._folder)
        try:
            os.fchmod(handle, FILE_MODE)  # whatever the umask: auditors read as members of the group
            self._write(handle, data)
        except BaseException:
            self._sizes.pop(handle, None)
            os.close(handle)
            os.unlink(name, dir_fd=self._folder)
            raise
        return handle

    def _write(self, handle: int, data: bytes) -> None:
        self._alive()
        size = self._sizes.setdefault(handle, 0)
        try:
            write_all(handle, data)
        except OSError as error:
            self.dead = True
            if is_full(error):
                os.ftruncate(handle, size)  # what is torn goes, so that the same bytes may follow from the reserve
                self.dead = False
            raise
        self._sizes[handle] = size + len(data)
        self.dirty.add(handle)

    def _sync(self, handle: int) -> None:
        self._alive()
        try:
            os.fdatasync(handle)
        except OSError:
            self.dead = True  # guard against fsyncgate: a second fdatasync would succeed and prove nothing
            raise
        # It stays in `dirty`, which belongs to the event loop: this may be a thread, and more may be written already.

    def _alive(self) -> None:
        if self.dead:
            raise Dead(errno.EIO, "it failed before", self.name)


def write_all(handle: int, data: bytes) -> None:
    """write(2) until everything is written; a short write is followed by the error that caused it."""
    written = os.write(handle, data)
    while written < len(data):
        written += os.write(handle, data[written:])


def sync_handles(handles: list[int], folder: int) -> set[int]:
    """Group commit, in a thread: sync all and close them. Which failed."""
    failed: set[int] = set()
    try:
        # An error of syncfs tells no file's name: then each is asked, and its own handle remembers the error.
        if len(handles) <= MANY or _libc.syncfs(folder) != 0:
            for handle in handles:
                try:
                    os.fsync(handle) if stat.S_ISDIR(os.fstat(handle).st_mode) else os.fdatasync(handle)
                except OSError:
                    failed.add(handle)
        return failed
    finally:
        for handle in handles:
            os.close(handle)


def replace(folder: Folder, name: str, data: bytes, mode: int) -> None:
    """A small file, whole or not at all."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(name + ".new", flags, 0o600, dir_fd=folder.handle)
    try:
        os.fchmod(handle, mode)
        write_all(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)
    os.rename(name + ".new", name, src_dir_fd=folder.handle, dst_dir_fd=folder.handle)
    os.fsync(folder.handle)


def is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
