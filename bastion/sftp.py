"""SFTP seen from the side: operations out of copies of both byte streams of one channel. Pure.

Source: draft-ietf-secsh-filexfer-02 (version 3) and OpenSSH's PROTOCOL section 4 for its extensions. Of later
versions only what they share is read: names, handles, payloads and results; flags and attributes stay raw.

The tap never raises and never holds a stream up. Payloads go from the caller's buffer into the hash; of any
other packet at most MAX_HEAD bytes are copied. What it cannot follow makes it `broken`: it reports one
operation `unparsed`, then only counts. RULE for the caller: the bytes of a broken tap are recorded like any
other stream, because whoever finds a way to break it must not become invisible by it.
"""

from collections import deque
from struct import Struct
from typing import Final, NamedTuple

from bastion.extents import Extents, Room
from bastion.sftp_wire import Fields, Malformed, Part, Request, Stream, Type, parse_request
from recorder.model import SftpOp

MAX_HANDLES: Final = 4096
"""Files and directories open at once. sftp-server has at most as many as it has descriptors, 1024 by default."""

MAX_PENDING: Final = 8192
"""Requests without an answer. OpenSSH's client has 64 in flight, the busiest mirroring clients some hundreds."""

MAX_NAMES: Final = 1 << 20
"""Bytes of all names remembered: a quarter of what a hostile session may cost."""

_EOF: Final = 1  # SSH_FX_EOF: how a read learns where the file ends, no failure
_HEAD, _LAST = Part.HEAD, Part.LAST  # names of a module are found faster than those of an Enum
_READ, _WRITE, _STATUS, _DATA = int(Type.READ), int(Type.WRITE), int(Type.STATUS), int(Type.DATA)
_ident = Struct(">I")
_read = Struct(">QI")


class _File:
    """One open file or directory, until it is closed and every request on it is answered."""

    __slots__ = (
        "closed",
        "closing",
        "detail",
        "directory",
        "inflight",
        "path",
        "received",
        "sent",
        "since",
        "turn",
        "writes",
    )

    def __init__(self, path: bytes, since: float, turn: int, *, writes: bool, directory: bool) -> None:
        self.path = path
        self.turn = turn  # number of the request that opened it, or first used its handle
        self.since = since
        self.writes = writes  # opened for writing: what an empty transfer is called
        self.directory = directory
        self.detail = ""
        self.sent: Extents | None = None  # by WRITE
        self.received: Extents | None = None  # by DATA
        self.inflight = 0  # requests without an answer
        self.closing = False  # CLOSE was asked for ...
        self.closed = False  # ... and answered


class _Pending(NamedTuple):
    """A request without an answer."""

    kind: int
    since: float
    turn: int
    file: _File | None = None
    offset: int = 0  # of a READ
    request: Request | None = None  # of everything but CLOSE, READ and WRITE


class SftpTap:
    """Give it both streams in the order in which they passed; `now` in seconds from any fixed point."""

    def __init__(self, *, hash_content: bool) -> None:
        self.broken = False
        self.sent = 0  # bytes from the user
        self.received = 0  # bytes from the target
        self._hashed = hash_content
        self._room = Room()
        self._from_user, self._from_target = Stream(), Stream()
        self._offered, self._version = 3, 3
        self._handles: dict[bytes, _File] = {}
        self._pending: dict[int, _Pending] = {}
        self._again: dict[int, deque[_Pending]] = {}  # behind those, where an id was used again before its answer
        self._queued = 0  # of them
        self._names = 0  # bytes
        self._turn = 0  # requests so far
        self._guesses: dict[bytes, list[_File]] = {}  # files used by handles that were not given out yet
        self._guessed = 0  # of them
        self._writing: Extents | None = None  # where the payload of the current WRITE goes ...
        self._write_at = 0
        self._reading: Extents | None = None  # ... and of the current DATA
        self._read_at = 0
        self._read_file: _File | None = None
        self._ops: list[SftpOp] = []

    def user(self, data: bytes | memoryview, now: float) -> list[SftpOp]:
        """Bytes from the user to the target."""
        self.sent += len(data)
        if self.broken:
            return []
        try:
            for part, content in self._from_user.feed(memoryview(data)):
                if part is _HEAD:
                    self._asked(bytes(content), now)
                elif (flow := self._writing) is not None:
                    flow.moved(self._write_at, content)
                    self._write_at += len(content)
        except Malformed as exc:
            self._break(f"from the user: {exc}", now)
        return self._taken() if self._ops else []

    def target(self, data: bytes | memoryview, now: float) -> list[SftpOp]:
        """Bytes from the target to the user."""
        self.received += len(data)
        if self.broken:
            return []
        try:
            for part, content in self._from_target.feed(memoryview(data)):
                if part is _HEAD:
                    self._answered(bytes(content), now)
                    continue
                if (flow := self._reading) is not None:
                    flow.moved(self._read_at, content)
                    self._read_at += len(content)
                if part is _LAST and self._read_file is not None:
                    self._settle(self._read_file, now)
                    self._read_file = None
        except Malformed as exc:
            self._break(f"from the target: {exc}", now)
        return self._taken() if self._ops else []

    def finish(self, now: float) -> list[SftpOp]:
        """The channel ended: what was still open or without an answer."""
        if not self.broken:
            self._leave(now)
        return self._taken()

    # --- requests -------------------------------------------------------------------------------------

    def _asked(self, head: bytes, now: float) -> None:
        kind = head[4]
        ident = _ident.unpack_from(head, 5)[0]
        self._turn += 1
        if kind == _WRITE:
            handle = head[13:-12]
            file = self._handles.get(handle) or self._file(handle, now)
            if file.sent is None:
                file.sent = Extents(self._room, hashed=self._hashed)
            self._writing, self._write_at = file.sent, _read.unpack_from(head, len(head) - 12)[0]
            self._wait(ident, _Pending(kind, now, self._turn, file))
        elif kind == _READ:
            length = _ident.unpack_from(head, 9)[0] if len(head) >= 13 else len(head)
            if 13 + length + 12 > len(head):
                raise Malformed("a READ is cut short")
            handle = head[13 : 13 + length]
            file = self._handles.get(handle) or self._file(handle, now)
            if file.received is None:
                file.received = Extents(self._room, hashed=self._hashed)
            offset = _read.unpack_from(head, 13 + length)[0]
            file.received.expect(offset)
            self._wait(ident, _Pending(kind, now, self._turn, file, offset))
        elif kind == Type.CLOSE:
            # From here on the target may give the handle to another file: who goes on with it, means that one.
            handle = Fields(head).string()
            closing = self._handles.pop(handle, None)
            if closing is not None:
                closing.closing = True
                self._names -= len(handle)
            self._wait(ident, _Pending(kind, now, self._turn, closing))
        elif kind == Type.INIT:
            self._offered = ident
        else:
            request = parse_request(head, self._version)
            on = None if request.handle is None else self._file(request.handle, now)
            if on is not None:
                request.path = on.path
            if request.second is not None:
                request.to = self._file(request.second, now).path
            self._remember(len(request.path) + len(request.to))
            self._wait(ident, _Pending(kind, now, self._turn, None, 0, request))

    def _file(self, handle: bytes, now: float) -> _File:
        """The open file a request names; if its handle was not given out yet, a file without a name so far."""
        file = self._handles.get(handle)
        if file is None:
            file = _File(b"", now, self._turn, writes=False, directory=False)
            self._guesses.setdefault(handle, []).append(file)
            self._guessed += 1
            self._hold(handle, file)
        return file

    def _hold(self, handle: bytes, file: _File) -> None:
        if len(self._handles) >= MAX_HANDLES or self._guessed > MAX_HANDLES:
            raise Malformed(f"more than {MAX_HANDLES} files open")
        self._remember(len(file.path) + len(handle))
        self._handles[handle] = file

    def _wait(self, ident: int, pending: _Pending) -> None:
        if len(self._pending) + self._queued >= MAX_PENDING:
            raise Malformed(f"more than {MAX_PENDING} requests without an answer")
        if pending.file is not None:
            pending.file.inflight += 1
        if ident in self._pending:
            # Legal for nobody, but answered in order by servers: a STAT that fails must not stand for a REMOVE.
            self._again.setdefault(ident, deque()).append(pending)
            self._queued += 1
        else:
            self._pending[ident] = pending

    def _remember(self, size: int) -> None:
        self._names += size
        if self._names > MAX_NAMES:
            raise Malformed(f"more than {MAX_NAMES} bytes of names in use")

    # --- answers --------------------------------------------------------------------------------------

    def _answered(self, head: bytes, now: float) -> None:
        kind = head[4]
        ident = _ident.unpack_from(head, 5)[0]
        if kind == Type.VERSION:
            self._version = min(ident, self._offered)
            return
        pending = self._pending.pop(ident, None)
        if pending is None:
            self._reading = None
            return  # an answer to nothing: the client will complain, not we
        if self._again and ident in self._again:
            line = self._again[ident]
            self._pending[ident] = line.popleft()
            self._queued -= 1
            if not line:
                del self._again[ident]
        status = _ident.unpack_from(head, 9)[0] if kind == _STATUS and len(head) >= 13 else 0
        self._reading = None
        if pending.request is not None:
            self._result(pending, pending.request, kind, head, status, now)
        elif pending.file is not None:
            self._progress(pending, pending.file, kind, status, now)

    def _progress(self, pending: _Pending, file: _File, kind: int, status: int, now: float) -> None:
        """An answer to a CLOSE, READ or WRITE."""
        flow = file.received if pending.kind == _READ else file.sent
        if pending.kind == Type.CLOSE:
            file.closed = True
            if status:
                file.detail = f"{file.detail} close failed with {status}".lstrip()
        elif status and flow is not None and not (pending.kind == _READ and status == _EOF):
            flow.status = flow.status or status
        if kind == _DATA and pending.kind == _READ:
            self._reading, self._read_at = flow, pending.offset
            self._read_file = file  # settled when its payload has passed
        else:
            self._settle(file, now)

    def _settle(self, file: _File, now: float) -> None:
        """One request less in flight; the last one after the close ends the transfer."""
        file.inflight -= 1
        if file.closed and not file.inflight:
            self._names -= len(file.path)
            self._transferred(file, now)

    def _result(self, pending: _Pending, request: Request, kind: int, head: bytes, status: int, now: float) -> None:
        """An answer to anything but CLOSE, READ and WRITE."""
        self._names -= len(request.path) + len(request.to)
        to = request.to
        if pending.kind == Type.READLINK and kind == Type.NAME:
            fields = Fields(head)
            to = fields.string() if fields.u32() else b""
        if request.op:
            self._report(request, to, status, pending.since, now)
        if kind == Type.HANDLE and pending.kind in (Type.OPEN, Type.OPENDIR):
            self._opened(Fields(head).string(), request, pending, now)

    def _opened(self, handle: bytes, request: Request, pending: _Pending, now: float) -> None:
        directory = pending.kind == Type.OPENDIR
        for guess in self._guesses.get(handle, []):
            # Attack: CLOSE, OPEN, WRITE and CLOSE sent in one go, the WRITE with the handle that the OPEN is going
            # to get. The first use after the OPEN is a use of the file opened here.
            if guess.turn > pending.turn and not guess.path:
                guess.path, guess.writes, guess.directory = request.path, request.writes, directory
                self._remember(len(request.path))
                return
        held = self._handles.pop(handle, None)
        if held is not None:  # a target that gives one handle to two files
            self._names -= len(handle)
            held.closed = True
            held.inflight += 1
            self._settle(held, now)
        self._hold(handle, _File(request.path, pending.since, pending.turn, writes=request.writes, directory=directory))

    # --- reports --------------------------------------------------------------------------------------

    def _report(self, request: Request, to: bytes, status: int, since: float, now: float, note: str = "") -> None:
        self._ops.append(
            SftpOp(
                op=request.op,
                path=request.path,
                to=to,
                status=status,
                size=request.size,
                detail=f"{request.detail} {note}".strip(),
                seconds=now - since,
            )
        )

    def _transferred(self, file: _File, now: float, note: str = "") -> None:
        """What moved through a file that is closed; an empty transfer is reported in the way it was opened for."""
        flows = [("read", file.received), ("write", file.sent)]
        if not any(flow and (flow.size or flow.status) for _, flow in flows):
            if file.directory or not file.path:
                return
            flows = [("write" if file.writes else "read", Extents(self._room, hashed=self._hashed))]
        for op, flow in flows:
            if flow is not None and (flow.size or flow.status or len(flows) == 1):
                digest = flow.digest()  # may set `more`
                self._ops.append(
                    SftpOp(
                        op=op,
                        path=file.path,
                        status=flow.status,
                        size=flow.size,
                        extents=flow.extents(),
                        more=flow.more,
                        sha256=digest,
                        detail=f"{file.detail} {note}".strip(),
                        seconds=now - file.since,
                    )
                )

    def _leave(self, now: float) -> None:
        """Report what has no end, and forget everything."""
        waiting = [*self._pending.values(), *(pending for line in self._again.values() for pending in line)]
        for pending in waiting:
            if pending.request is not None and pending.request.op:
                self._report(pending.request, pending.request.to, 0, pending.since, now, "no answer")
        files = {id(file): file for file in self._handles.values()}
        files |= {id(pending.file): pending.file for pending in waiting if pending.file is not None}
        if self._read_file is not None:
            files[id(self._read_file)] = self._read_file
        for file in files.values():
            self._transferred(file, now, "no answer to its close" if file.closing else "not closed")
        self._handles, self._pending, self._again, self._guesses = {}, {}, {}, {}
        self._from_user, self._from_target = Stream(), Stream()
        self._writing = self._reading = None
        self._read_file = None
        self._queued = self._names = 0

    def _break(self, cause: str, now: float) -> None:
        self._leave(now)
        self.broken = True
        self._ops.append(SftpOp(op="unparsed", path=b"", detail=cause))

    def _taken(self) -> list[SftpOp]:
        ops, self._ops = self._ops, []
        return ops
