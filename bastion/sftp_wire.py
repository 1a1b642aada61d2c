"""SFTP packets: where they begin and end in a stream, and what a request asks for. Pure.

    uint32 length | byte type | uint32 request id (INIT, VERSION: version) | fields

Source: draft-ietf-secsh-filexfer-02 sections 3 to 8, OpenSSH's PROTOCOL section 4.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from struct import Struct
from typing import Final

from bastion.text import neutral

MAX_PACKET: Final = 16 << 20
"""Bytes of one packet. OpenSSH ends the session above 256 KiB; more than this is text that went astray: the
`Received message too long 1416586337` that clients print when a shell's start-up file writes to the stream."""

MAX_HEAD: Final = 64 * 1024
"""Bytes of a packet that are looked at. Two names of PATH_MAX and attributes need 9 KiB; what follows is padding
by somebody who tests the limits, and the server will answer that the name is too long."""

MAX_NAME: Final = 4096
"""Bytes of a name that are reported: PATH_MAX. Two of them and 64 extents fit into one event."""

MAX_HANDLE: Final = 256
"""Bytes of a handle; section 6.3 allows no more."""


class Type(IntEnum):
    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    LINK = 21  # version 6
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Part(Enum):
    """What `Stream.feed` gives back."""

    HEAD = 1  # a packet, without the payload of a WRITE or DATA and without what exceeds MAX_HEAD
    PAYLOAD = 2  # some payload of the packet before, and more will follow
    LAST = 3  # the rest of that payload, which may be nothing


_HEAD, _PAYLOAD, _LAST = Part.HEAD, Part.PAYLOAD, Part.LAST  # names of a module are found faster than those of an Enum


class Malformed(Exception):
    """The stream cannot be followed. Says why, in words of ours only."""


_FIRST = 9  # length, type, id: the shortest packet
_CODE = 13  # ... and one number: the result of a STATUS, the length in a DATA, of the handle in a WRITE
_WANTED: Final[dict[int, int]] = {  # type -> bytes looked at, where it is less than MAX_HEAD
    Type.STATUS: _CODE,
    Type.DATA: _CODE,
    Type.WRITE: _CODE,
    Type.NAME: _CODE + 4 + MAX_NAME,  # the first name alone, for READLINK
    Type.ATTRS: _FIRST,
    Type.EXTENDED_REPLY: _FIRST,
    Type.VERSION: _FIRST,
    Type.INIT: _FIRST,
}
_frame = Struct(">IB")
_u32 = Struct(">I")
_u64 = Struct(">Q")
_CARRIERS: Final = frozenset({Type.WRITE, Type.DATA})
_WRITE: Final = int(Type.WRITE)


class Stream:
    """One direction of one channel, cut into packets. Holds at most MAX_HEAD bytes."""

    __slots__ = ("_head", "_payload", "_skip", "_total")

    def __init__(self) -> None:
        self._head = b""  # of a packet whose head has not come whole
        self._total = 0  # bytes of the packet that is being read
        self._payload = 0  # bytes of its payload still to come
        self._skip = 0  # bytes after that which nobody looks at

    def feed(self, view: memoryview) -> Iterator[tuple[Part, bytes | memoryview]]:
        """What `view` completes, in order. Payload is a slice of `view`, valid during the call. Malformed."""
        at, end = 0, len(view)
        while at < end:
            if payload := self._payload:
                stop = at + payload
                if stop <= end:
                    self._payload = 0
                    yield _LAST, view[at:stop]
                    at = stop
                else:
                    self._payload = stop - end
                    yield _PAYLOAD, view[at:] if at else view
                    return
            elif self._skip:
                take = min(self._skip, end - at)
                self._skip -= take
                at += take
            else:
                have = end - at
                if self._head or have < _CODE or (need := self._needed(view, at, have)) > have:
                    at += self._gather(view[at:])
                    if len(self._head) < self._needed(self._head, 0, len(self._head)):
                        continue
                    head, self._head = self._head, b""
                else:  # the whole of it is here: nearly always, and without a copy of each part
                    head = bytes(view[at : at + need])
                    at += need
                carries = self._measure(head)
                yield _HEAD, head
                if carries and not self._payload:
                    yield _LAST, b""

    def _gather(self, view: memoryview) -> int:
        """Keep what is missing of the head that is known of; how much of `view` that was."""
        held = len(self._head)
        missing = view[: self._needed(self._head, 0, held) - held]
        self._head += missing
        return len(missing)

    def _needed(self, data: bytes | memoryview, at: int, known: int) -> int:
        """Bytes of the head that begins at `at`, as far as its first `known` bytes tell."""
        if known < _FIRST:
            return _FIRST
        length: int
        length, kind = _frame.unpack_from(data, at)
        if not 5 <= length <= MAX_PACKET:
            raise Malformed(f"packet of {length} bytes")
        total = self._total = length + 4
        need = min(_WANTED.get(kind, MAX_HEAD), total)
        if kind in _CARRIERS:
            if total < _CODE:
                raise Malformed(f"packet of type {kind} is cut short")
            if kind == _WRITE and known >= _CODE:
                handle: int = _u32.unpack_from(data, at + _FIRST)[0]
                if handle > MAX_HANDLE or _CODE + handle + 12 > total:
                    raise Malformed("handle of a WRITE is too long")
                need = _CODE + handle + 12
        return need

    def _measure(self, head: bytes) -> bool:
        """What follows the head, which is complete: is it payload?"""
        carries = head[4] in _CARRIERS
        rest = self._total - len(head)
        self._payload = _u32.unpack_from(head, len(head) - 4)[0] if carries else 0
        if self._payload > rest:
            raise Malformed(f"packet of type {head[4]} is shorter than its payload")
        self._skip = rest - self._payload
        return carries


class Fields:
    """Reads fields one after another. Malformed where the packet ends before them."""

    __slots__ = ("_at", "_cut", "_data")

    def __init__(self, head: bytes) -> None:
        self._data = head
        self._at = _FIRST
        self._cut = len(head) < _frame.unpack_from(head)[0] + 4

    def string(self) -> bytes:
        """A string; its beginning where it passes the end of a head that was cut, and b"" for those after it."""
        if self._cut and len(self._data) - self._at < 4:
            self._at = len(self._data)
            return b""
        end = self.u32() + self._at
        if end > len(self._data) and not self._cut:
            raise Malformed("a string is longer than its packet")
        text = self._data[self._at : end]
        self._at = min(end, len(self._data))
        return text

    def u32(self) -> int:
        return self._number(_u32)

    def u64(self) -> int:
        return self._number(_u64)

    def _number(self, layout: Struct) -> int:
        if self._at + layout.size > len(self._data):
            raise Malformed("a field lies outside of its packet")
        number: int = layout.unpack_from(self._data, self._at)[0]
        self._at += layout.size
        return number


@dataclass(slots=True)
class Request:
    """What a request asks for. `op` is the word of SftpOp, empty for requests that are not reported."""

    op: str = ""
    path: bytes = b""
    to: bytes = b""
    detail: str = ""
    size: int = 0
    handle: bytes | None = None
    second: bytes | None = None  # second handle of a copy-data
    writes: bool = False  # an OPEN for writing


_BY_PATH: Final = {
    Type.SETSTAT: "setstat",
    Type.OPENDIR: "opendir",
    Type.REMOVE: "remove",
    Type.MKDIR: "mkdir",
    Type.RMDIR: "rmdir",
    Type.RENAME: "rename",
    Type.READLINK: "readlink",
    Type.SYMLINK: "symlink",
    Type.LINK: "symlink",
}
_QUIET_EXTENSIONS: Final = frozenset(
    {
        b"statvfs@openssh.com",
        b"fstatvfs@openssh.com",
        b"fsync@openssh.com",
        b"limits@openssh.com",
        b"expand-path@openssh.com",
        b"home-directory",
        b"users-groups-by-id@openssh.com",
    }
)
"""Extensions that change nothing and move no content."""


def parse_request(head: bytes, version: int) -> Request:
    """Any request but INIT, CLOSE, READ and WRITE. Unknown ones are not reported: servers refuse them. Malformed."""
    kind, fields = head[4], Fields(head)
    if kind == Type.OPEN:
        path = fields.string()
        flags = fields.u32()
        writes = bool(flags & 0x2E) if version <= 3 else True
        return _named("open", path, detail=open_flags(flags, version), writes=writes)
    if kind == Type.FSETSTAT:
        return Request(op="setstat", handle=fields.string(), detail=attributes(fields, version))
    if kind == Type.EXTENDED:
        return _extension(fields, version)
    if kind not in _BY_PATH:
        return Request()
    path = fields.string()
    if kind == Type.RENAME:
        return _named("rename", path, fields.string())
    if kind == Type.SYMLINK:
        # OpenSSH sends the target first, against section 6.10, and clients do as it does (PROTOCOL, section 4.1).
        return _named("symlink", fields.string(), path)
    if kind == Type.LINK:
        return _named("symlink", path, fields.string())
    detail = attributes(fields, version) if kind in (Type.SETSTAT, Type.MKDIR) else ""
    return _named(_BY_PATH[Type(kind)], path, detail=detail)


def _extension(fields: Fields, version: int) -> Request:
    name = fields.string()
    if name in _QUIET_EXTENSIONS:
        return Request()
    if name == b"posix-rename@openssh.com":
        return _named("rename", fields.string(), fields.string(), detail="replaces")
    if name == b"hardlink@openssh.com":
        existing = fields.string()
        return _named("hardlink", fields.string(), existing)
    if name == b"lsetstat@openssh.com":
        return _named("setstat", fields.string(), detail=attributes(fields, version))
    if name == b"copy-data":
        source, start, size, target = fields.string(), fields.u64(), fields.u64(), fields.string()
        detail = f"from {start} to {fields.u64()}"
        return Request(op="copy", handle=source, second=target, size=size, detail=detail)
    return Request(op="extended", detail=neutral(name[:64].decode("utf-8", "backslashreplace")))


def _named(op: str, path: bytes, to: bytes = b"", *, detail: str = "", writes: bool = False) -> Request:
    longest = max(len(path), len(to))
    if longest > MAX_NAME:
        detail = f"{detail} name of {longest} bytes or more, cut".lstrip()
    return Request(op=op, path=path[:MAX_NAME], to=to[:MAX_NAME], detail=detail, writes=writes)


def open_flags(flags: int, version: int) -> str:
    """The flags of an OPEN in words (section 6.3)."""
    if version > 3:
        return f"version {version} flags {flags:#x}"
    words = ("read", "write", "append", "create", "truncate", "exclusive")
    return " ".join(word for bit, word in enumerate(words) if flags >> bit & 1)


def attributes(fields: Fields, version: int) -> str:
    """Attributes that a request sets, in words (section 5); what is missing or later than version 3 stays raw."""
    try:
        flags = fields.u32()
        if version > 3:
            return f"version {version} attributes {flags:#x}" if flags else ""
        words = []
        if flags & 1:
            words.append(f"size={fields.u64()}")
        if flags & 2:
            words += [f"uid={fields.u32()}", f"gid={fields.u32()}"]
        if flags & 4:
            words.append(f"mode={fields.u32() & 0o177777:04o}")
        if flags & 8:
            words += [f"atime={fields.u32()}", f"mtime={fields.u32()}"]
        return " ".join(words)
    except Malformed:
        return ""
