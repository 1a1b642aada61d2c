"""Records out of a file, with the chain checked: what every reader, verifier and recovery goes through."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from recorder.chain import (
    FIXED,
    FRAME,
    TAIL_HEADER,
    Chain,
    Header,
    TailHeader,
    Type,
    body_size,
    decode_header,
    decode_tail_header,
    header_size,
)
from recorder.codec import FormatError
from recorder.records import FOOT_BODY, MARK, SEAL_BODY

_WINDOW: Final = 1 << 20


class Cut(FormatError):
    """The file ends in the middle of something."""


class Damage(FormatError):
    """Bytes that do not follow from those before them, at `at`."""

    def __init__(self, text: str, at: int) -> None:
        super().__init__(text)
        self.at = at


class Record(NamedTuple):
    offset: int
    kind: int
    body: bytes
    before: bytes  # chain state before it


class Front(NamedTuple):
    """A header as it was found."""

    header: Header
    signed: bytes
    signature: bytes
    raw: bytes


def read_front(file: BinaryIO) -> Front:
    """From the start of a file. Cut or FormatError."""
    fixed = file.read(FIXED)
    if len(fixed) < FIXED:
        raise Cut("the file ends within its header")
    rest = file.read(header_size(fixed) - FIXED)
    raw = fixed + rest
    if len(raw) < header_size(fixed):
        raise Cut("the file ends within its header")
    return Front(*decode_header(raw), raw)


def read_tail_front(file: BinaryIO) -> tuple[TailHeader, Chain]:
    """From the start of a tail. Cut or FormatError."""
    raw = file.read(TAIL_HEADER)
    if len(raw) < TAIL_HEADER:
        raise Cut("the tail ends within its header")
    return decode_tail_header(raw), Chain(raw)


def walk(file: BinaryIO, offset: int, end: int, chain: Chain) -> Iterator[Record]:
    """The records from `offset` on, each checked. Cut with the last one; Damage at the first that does not follow.

    `end` is the size of the file when the walk began: it may be growing.
    """
    file.seek(offset)
    while offset < end:
        left = end - offset
        head = file.read(FRAME)
        size = body_size(head) if left >= FRAME else 0
        if left < FRAME + size:
            raise _cut(head, left, offset)
        body = file.read(size)
        before = chain.state
        if len(body) < size or not chain.follows(head, body):
            if not any(head) and not any(body) and _zeros(file, end):
                raise Cut(f"nothing but zeros from byte {offset} on")
            raise Damage(f"what stands at byte {offset} does not follow from what is before it", offset)
        yield Record(offset, head[0], body, before)
        offset += FRAME + size


def step(file: BinaryIO, offset: int, end: int) -> Record | None:
    """The record at `offset`, unchecked; None if it does not fit into the file."""
    file.seek(offset)
    head = file.read(FRAME)
    if len(head) < FRAME or offset + FRAME + body_size(head) > end:
        return None
    return Record(offset, head[0], file.read(body_size(head)), b"")


def next_seal(file: BinaryIO, offset: int, end: int) -> int | None:
    """Offset of a record behind `offset` that looks like a seal: where reading may go on behind damage."""
    looked = offset + 1
    while looked < end:
        file.seek(looked)
        window = file.read(_WINDOW)
        found = window.find(MARK)
        while found >= 0:
            at = looked + found - FRAME
            if at > offset:
                record = step(file, at, end)
                if record and record.kind == Type.SEAL and len(record.body) == SEAL_BODY:
                    return at
            found = window.find(MARK, found + 1)
        if len(window) < _WINDOW:
            return None
        looked += len(window) - len(MARK) + 1
    return None


def open_file(path: Path) -> BinaryIO:
    """For reading, never by a link: a planted one would make us read another's file."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb", 1 << 16)


def size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _cut(head: bytes, left: int, offset: int) -> FormatError:
    """A record that is longer than the file; or its length has been changed, which a known length tells."""
    fixed = {Type.FOOT: FOOT_BODY, Type.SEAL: SEAL_BODY}
    if left >= FRAME and head[0] in fixed and body_size(head) != fixed[Type(head[0])]:
        return Damage(f"a record of impossible length at byte {offset}", offset)
    return Cut(f"the record at byte {offset} is cut short")


def _zeros(file: BinaryIO, end: int) -> bool:
    """Whether only zeros follow: what a file system leaves of blocks that never reached the disk."""
    while file.tell() < end:
        if any(file.read(_WINDOW)):
            return False
    return True
