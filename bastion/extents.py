"""What moved through one open file in one direction: bytes, extents, and a hash in the order of offsets. Pure."""

import hashlib
from bisect import bisect_right
from typing import Final

MAX_EXTENTS: Final = 64
"""Extents kept per transfer: one event holds them; a database file rewritten in place would never end."""

MAX_WAITING: Final = 5 << 19
"""Bytes of all transfers of one channel that may wait for the bytes before them: 64 requests of 32 KiB, which clients
that read a local file in parallel (node ssh2) send in any order, the first piece not always first. More than half of
what a hostile session may cost."""

ENTRY_COST: Final = 256
"""Bytes a waiting piece is counted with beside its content, so that pieces of one byte cost what they take."""


class Room:
    """Bytes of reordering left for the transfers of one channel. Shared by them."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_WAITING


class Extents:
    """One direction of one open file. `status` is the first SSH_FX_* failure, 0 if all went well."""

    __slots__ = ("_ends", "_hash", "_next", "_room", "_starts", "_tail", "_waiting", "more", "size", "status")

    def __init__(self, room: Room, *, hashed: bool) -> None:
        self.size = 0
        self.more = False
        self.status = 0
        self._hash = hashlib.sha256() if hashed else None
        self._room = room
        self._next = -1  # offset of the byte to hash next; -1: nothing asked for yet
        self._waiting: dict[int, bytearray] = {}  # by offset: came before the bytes in front of them
        self._tail = (-1, -1)  # start and end of the piece that grew last
        self._starts: list[int] = []  # extents, ascending, neither touching nor overlapping
        self._ends: list[int] = []

    def expect(self, offset: int) -> None:
        """A read at `offset` was asked for. Answers may come out of order: the lowest offset begins the hash."""
        if not self.size and (self._next < 0 or offset < self._next):
            self._next = offset

    def moved(self, offset: int, data: bytes | memoryview) -> None:
        """`data` went from or to `offset` of the file."""
        length = len(data)
        if not length:
            return
        self.size += length
        ends = self._ends
        if ends and ends[-1] == offset:
            ends[-1] += length
        else:
            self._extend(offset, offset + length)
        if self._hash is not None:
            if self._next < 0:
                self._begin(offset, length)
            if offset == self._next:
                self._hash.update(data)
                self._next = offset + length
                if self._waiting:
                    self._drain()
            else:
                self._wait(offset, data)

    def extents(self) -> list[tuple[int, int]]:
        """(offset, length) of the stretches that moved, ascending."""
        return [(start, end - start) for start, end in zip(self._starts, self._ends, strict=True)]

    def digest(self) -> bytes:
        """SHA-256 of what moved, in the order of offsets; empty if it was not hashed. Call once, at the end."""
        if self._hash is None:
            return b""
        for start in sorted(self._waiting):
            if start < self._next:  # overlaps what was hashed: which of the two counts cannot be told
                self._give_up()
                return b""
            self._hash.update(self._waiting[start])
            self._next = start + len(self._waiting[start])
        self._release()
        return self._hash.digest()

    def _extend(self, start: int, end: int) -> None:
        """Add one stretch and join it with those it touches."""
        low = bisect_right(self._starts, start)
        if low and self._ends[low - 1] >= start:
            low -= 1
            start, end = self._starts[low], max(end, self._ends[low])
        high = bisect_right(self._starts, end)
        if high > low:
            end = max(end, self._ends[high - 1])
        elif len(self._starts) >= MAX_EXTENTS:
            self.more = True
            return
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def _begin(self, offset: int, length: int) -> None:
        """Begin the hash of what was not asked for, if its lowest offset is known: nothing lies below a file's first
        byte, and once no more may wait, nothing below what came counts.
        """
        if not offset or length + ENTRY_COST > self._room.left:
            self._next = min([offset, *self._waiting])
            self._drain()

    def _wait(self, offset: int, data: bytes | memoryview) -> None:
        """Keep a piece that came early; one that came late, or too many, end the hashing of this transfer."""
        start, end = self._tail
        grows = offset == end and start in self._waiting
        cost = len(data) + (0 if grows else ENTRY_COST)
        if offset < self._next or cost > self._room.left or (not grows and offset in self._waiting):
            self._give_up()
            return
        self._room.left -= cost
        if grows:
            self._waiting[start] += data
        else:
            start = offset
            self._waiting[start] = bytearray(data)
        self._tail = (start, offset + len(data))

    def _drain(self) -> None:
        assert self._hash is not None
        while (piece := self._waiting.pop(self._next, None)) is not None:
            self._room.left += len(piece) + ENTRY_COST
            self._hash.update(piece)
            self._next += len(piece)
            if not piece:
                return

    def _give_up(self) -> None:
        self._release()
        self._hash = None
        self.more = True

    def _release(self) -> None:
        self._room.left += sum(len(piece) + ENTRY_COST for piece in self._waiting.values())
        self._waiting.clear()
