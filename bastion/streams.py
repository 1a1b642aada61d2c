"""Streams that are no terminal: how much of one is kept, and what the legacy scp protocol moves in one. Pure."""

import hashlib
from collections import deque
from typing import Final

from bastion.extents import Extents, Room
from bastion.sftp_wire import MAX_NAME
from recorder.model import Digest, SftpOp

STRETCH: Final = 64 << 20
"""Bytes that one Digest stands for: a stream that was cut short can still be compared up to there."""

KEEP: Final = 1 << 20
"""Bytes at the beginning of a stream that are kept: any script, and the head of any dump."""

MAX_LINE: Final = 3 * MAX_NAME
"""Bytes of a line of the scp protocol: mode, size and a name, or a message."""

MAX_DEPTH: Final = 256
"""Directories entered at once; their names together have to fit into PATH_MAX anyway."""

MAX_UNANSWERED: Final = 1024
"""Lines sent ahead. scp waits for the answer to each."""

_FAILURE: Final = 4  # SSH_FX_FAILURE


class StreamTap:
    """One direction of one channel: the first `keep` bytes as they are, digests for the rest."""

    def __init__(self, *, keep: int, keep_content: bool, hash_content: bool, stream: str) -> None:
        self._left = keep
        self._whole = keep_content
        self._hashed = hash_content
        self._stream = stream
        self._start = keep  # of the current stretch
        self._size = 0
        self._hash = hashlib.sha256()

    def passes(self, data: memoryview) -> bool:
        """Is there nothing to write down of `data` now? Then it is counted and hashed, the short way of all bulk."""
        size = self._size + len(data)
        if self._left or self._whole or size >= STRETCH:
            return False
        if self._hashed:
            self._hash.update(data)
        self._size = size
        return True

    def feed(self, data: bytes | memoryview) -> tuple[memoryview | None, list[Digest]]:
        """The part of `data` to record as it is, if any, and the digests of stretches that ended in it."""
        view = memoryview(data)
        if self._whole:
            return view, []
        kept = None
        if self._left:
            kept = view[: self._left]
            self._left -= len(kept)
            view = view[len(kept) :]
        notes: list[Digest] = []
        while view:
            part = view[: STRETCH - self._size]
            if self._hashed:
                self._hash.update(part)
            self._size += len(part)
            view = view[len(part) :]
            if self._size == STRETCH:
                notes += self.finish()
        return kept, notes

    def finish(self) -> list[Digest]:
        """The stretch that is open, at the end of the stream."""
        if not self._size:
            return []
        sha256 = self._hash.digest() if self._hashed else b""
        note = Digest(stream=self._stream, start=self._start, size=self._size, sha256=sha256)
        self._start += self._size
        self._size = 0
        self._hash = hashlib.sha256()
        return [note]


class ScpTap:
    """The legacy protocol of scp: one side sends files, the other answers each line and each file.

        C<mode> <size> <name>   then the content and a byte 0
        D<mode> 0 <name>        a directory begins, E ends it; T gives times for what follows
        answers: byte 0, or byte 1 or 2 and a message

    Source: OpenSSH scp.c, source() and sink(). An operation's `path` is the one of the command with the
    directories entered, `to` the name that the sender gave. Like SftpTap it never raises; when it cannot follow
    it says `unparsed` once, and the caller has to record the stream as it is.
    """

    def __init__(self, *, path: bytes, from_user: bool, hash_content: bool) -> None:
        self.broken = False
        self._user_sends = from_user
        self._op = "scp-put" if from_user else "scp-get"
        self._hashed = hash_content
        self._path = path[:MAX_NAME]
        self._folders: list[bytes] = []
        self._line = bytearray()
        self._left = 0  # bytes of content still to come
        self._flow: Extents | None = None  # of the file being sent
        self._file = SftpOp(op=self._op, path=b"")
        self._trailer = False  # its content is complete, the byte behind it is not here yet
        self._since = 0.0
        self._unanswered: deque[tuple[str, SftpOp]] = deque([("", self._file)])  # the receiver begins unasked
        self._message = False  # an answer is being read that has a message
        self._length = 0  # of it
        self._ops: list[SftpOp] = []

    def user(self, data: bytes | memoryview, now: float) -> list[SftpOp]:
        """Bytes from the user to the target."""
        return self._feed(data, now, sender=self._user_sends)

    def target(self, data: bytes | memoryview, now: float) -> list[SftpOp]:
        """Bytes from the target to the user."""
        return self._feed(data, now, sender=not self._user_sends)

    def finish(self, now: float) -> list[SftpOp]:
        """The channel ended: files that were cut short or never answered."""
        if not self.broken:
            self._leave(now)
        return self._taken()

    def _feed(self, data: bytes | memoryview, now: float, *, sender: bool) -> list[SftpOp]:
        view = memoryview(data)
        while view and not self.broken:
            view = self._sent(view, now) if sender else self._answered(view, now)
        return self._taken()

    # --- the side that sends --------------------------------------------------------------------------

    def _sent(self, view: memoryview, now: float) -> memoryview:
        if self._flow is not None and not self._trailer:
            part = view[: self._left]
            self._flow.moved(self._flow.size, part)
            self._left -= len(part)
            self._trailer = not self._left
            return view[len(part) :]
        if self._trailer and not self._line and not view[0]:
            self._end_of_file(0, now)
            return view[1:]
        end = bytes(view[: MAX_LINE + 1]).find(b"\n")
        part = view[: end + 1] if end >= 0 else view
        self._line += part
        if len(self._line) > MAX_LINE:
            self._break("line is too long", now)
        elif end >= 0:
            line = bytes(self._line[:-1])
            self._line.clear()
            self._command(line, now)
        return view[len(part) :]

    def _command(self, line: bytes, now: float) -> None:
        kind = line[:1]
        if kind in (b"\x01", b"\x02"):  # a message; behind content it stands for the byte 0
            if self._trailer:
                self._end_of_file(_FAILURE, now)
        elif self._trailer:
            self._break("content is longer than announced", now)
        elif kind == b"T":
            self._expect("", self._file, now)
        elif kind == b"E":
            if self._folders:
                self._folders.pop()
            self._expect("", self._file, now)
        elif kind in (b"C", b"D"):
            self._begin(line, now)
        else:
            self._break("unknown line", now)

    def _begin(self, line: bytes, now: float) -> None:
        fields = line[1:].split(b" ", 2)
        if len(fields) < 3 or not fields[0].isdigit() or not fields[1].isdigit() or len(fields[1]) > 19:
            self._break("line has no mode, size and name", now)
            return
        mode, size, name = fields
        where = b"/".join([self._path, *self._folders])[:MAX_NAME]
        detail = f"mode={mode[:8].decode()}"
        if line[:1] == b"D":
            if len(self._folders) >= MAX_DEPTH or sum(map(len, self._folders)) > MAX_NAME:
                self._break("directories are too deep", now)
                return
            self._expect("folder", SftpOp(op="mkdir", path=where, to=name[:MAX_NAME], detail=detail), now)
            self._folders.append(name[:MAX_NAME])
            return
        self._file = SftpOp(op=self._op, path=where, to=name[:MAX_NAME], detail=detail)
        self._left = int(size)
        self._flow = Extents(Room(), hashed=self._hashed)
        self._trailer = not self._left
        self._since = now
        self._expect("line", self._file, now)

    def _end_of_file(self, status: int, now: float) -> None:
        moved = self._moved(status, now)
        self._flow = None
        self._trailer = False
        self._expect("file", moved, now)

    def _moved(self, status: int, now: float, note: str = "") -> SftpOp:
        """The file being sent, with what has passed of it."""
        assert self._flow is not None
        return SftpOp(
            op=self._op,
            path=self._file.path,
            to=self._file.to,
            status=status,
            size=self._flow.size,
            extents=self._flow.extents(),
            sha256=self._flow.digest(),
            detail=f"{self._file.detail} {note}".rstrip(),
            seconds=now - self._since,
        )

    def _expect(self, what: str, op: SftpOp, now: float) -> None:
        """The receiver owes an answer to a `line` of a file, a `folder`, the end of a `file`, or nothing of note."""
        self._unanswered.append((what, op))
        if len(self._unanswered) > MAX_UNANSWERED:
            self._break("too many lines without an answer", now)

    # --- the side that answers ------------------------------------------------------------------------

    def _answered(self, view: memoryview, now: float) -> memoryview:
        if self._message:
            end = bytes(view[: MAX_LINE + 1]).find(b"\n")
            part = view[: end + 1] if end >= 0 else view
            self._length += len(part)
            if self._length > MAX_LINE:
                self._break("answer is too long", now)
            elif end >= 0:
                self._message = False
                self._answer(_FAILURE, now)
            return view[len(part) :]
        if view[0] in (1, 2):
            self._message, self._length = True, 0
        elif view[0] == 0:
            self._answer(0, now)
        else:
            self._break("unknown answer", now)
        return view[1:]

    def _answer(self, status: int, now: float) -> None:
        if not self._unanswered:
            return  # messages of the receiver on its own
        what, op = self._unanswered.popleft()
        if what == "folder":
            op.status = status
            self._ops.append(op)
            if status and self._folders[-1:] == [op.to]:
                self._folders.pop()  # its sender passes it over
        elif what == "file":
            op.status = op.status or status
            self._ops.append(op)
        elif what == "line" and status:
            if self._file is not op or self._flow is None or self._flow.size:
                # Its receiver takes for lines what its sender sent as content: nobody can follow both.
                self._break("content was sent before its line was answered", now)
                return
            op.status = status
            self._ops.append(op)
            self._flow, self._left, self._trailer = None, 0, False

    # --- ends -----------------------------------------------------------------------------------------

    def _leave(self, now: float) -> None:
        if self._flow is not None:
            self._ops.append(self._moved(0, now, "cut short"))
        for what, op in self._unanswered:
            if what in ("file", "folder"):
                op.detail = f"{op.detail} no answer".lstrip()
                self._ops.append(op)
        self._unanswered.clear()
        self._flow = None
        self._line.clear()

    def _break(self, cause: str, now: float) -> None:
        self._leave(now)
        self.broken = True
        self._ops.append(SftpOp(op="unparsed", path=self._path, detail=cause))

    def _taken(self) -> list[SftpOp]:
        ops, self._ops = self._ops, []
        return ops
