"""Events <-> the closed parts of a chunk or a segment, one part per key class (FORMAT.md, section 4). No I/O.

A *chunk* is one batch as it was acknowledged; a *segment* replaces the chunks of some minutes.

    CHUNK body    seq u64 | segno u32            | part*
    SEGMENT body  segno u32 | seq u64 | count u32 | part*        part = class u8 | length u24 | ciphertext
    plaintext     compress( base u48 | [events per chunk varint*] | columns )

INVARIANT: in a chunk, events are sorted by (ms, RANK of their class), and parts by class. So merging the parts gives
back the exact order of acknowledgement, and needs no byte to say so; `split` cuts a batch where the order is another.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import accumulate, repeat
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from recorder import keys
from recorder.chain import Type, session_id
from recorder.codec import FormatError, compress, decompress, read_varint, varint
from recorder.columns import MAX_EVENTS, MAX_STEP, Columns, Growing, decode_columns, encode_events
from recorder.model import CLASS_OF, Event, KeyClass

RANK: Final = {KeyClass.KEYS: 0, KeyClass.CONTENT: 1, KeyClass.GRAPHICS: 2, KeyClass.VIEW: 3}
"""Within one millisecond what was typed stands before what was shown: an echo follows its key."""

CHUNK_FIXED: Final = 12
SEGMENT_FIXED: Final = 16
_BASE: Final = 6
MAX_MS: Final = 1 << 8 * _BASE
_CLASS: Final = [CLASS_OF.get(kind, KeyClass.VIEW) for kind in range(256)]  # type: ignore[call-overload]
_RANK: Final = [RANK[key_class] for key_class in _CLASS]

Chunk = dict[KeyClass, list[Event]]
"""The events of one chunk, by class, classes in ascending order."""


class Place(NamedTuple):
    """Where a chunk or segment belongs: read from its body without a key, and bound to each part."""

    kind: Type
    segno: int
    seq: int  # of the (first) chunk
    chunks: int

    def fixed(self) -> bytes:
        if self.kind == Type.CHUNK:
            return (self.seq << 32 | self.segno).to_bytes(CHUNK_FIXED, "big")
        return (self.segno << 96 | self.seq << 32 | self.chunks).to_bytes(SEGMENT_FIXED, "big")

    @property
    def counter(self) -> int:
        return self.seq if self.kind == Type.CHUNK else self.segno


def split(events: Iterable[Event], after_ms: int) -> list[Chunk]:
    """A batch as chunks that keep the invariant; FormatError if it is empty, or time runs backwards."""
    chunks: list[dict[KeyClass, list[Event]]] = []
    last_ms, last_rank = after_ms, 9
    for event in events:
        kind, _, ms, _ = event
        if not 0 <= kind <= 255:
            raise FormatError(f"event kind {kind}")
        rank = _RANK[kind]
        if not 0 <= ms - last_ms <= MAX_STEP or ms >= MAX_MS:
            raise FormatError(f"time does not run like this: {ms} ms after {last_ms} ms")
        if not chunks or (ms == last_ms and rank < last_rank):
            chunks.append({})
        chunks[-1].setdefault(_CLASS[kind], []).append(event)
        last_ms, last_rank = ms, rank
    if not chunks:
        raise FormatError("a batch needs at least one event")
    return [chunk if len(chunk) == 1 else dict(sorted(chunk.items())) for chunk in chunks]


def plain_chunk(events: list[Event]) -> bytes:
    """Plaintext of one class in one chunk; canonical, so that its hash can be made again from a segment."""
    base = events[0][2]
    return base.to_bytes(_BASE, "big") + encode_events(events, base)


class Gathered:
    """Chunks on their way into a segment."""

    def __init__(self, chunks: Iterable[Chunk] = ()) -> None:
        self.chunks = 0
        self._classes: dict[KeyClass, tuple[Growing, array[int]]] = {}  # events; how many of each chunk
        for chunk in chunks:
            self.add(chunk)

    def add(self, chunk: Chunk) -> None:
        for key_class, events in chunk.items():
            if key_class not in self._classes:
                self._classes[key_class] = (Growing(), array("I"))
            growing, counts = self._classes[key_class]
            growing.add(events)
            if len(counts) < self.chunks:
                counts.extend(repeat(0, self.chunks - len(counts)))
            counts.append(len(events))
        self.chunks += 1

    @property
    def first_ms(self) -> int:
        return min(growing.first_ms for growing, _ in self._classes.values())

    def plain(self) -> dict[KeyClass, bytes]:
        """Plaintext of each class in a segment: how many events of it each chunk had, then all of them."""
        found = {}
        for key_class, (growing, counts) in sorted(self._classes.items()):
            base = growing.first_ms
            numbers = [*counts, *repeat(0, self.chunks - len(counts))]
            written = bytes(numbers) if max(numbers) < 0x80 else b"".join(map(varint, numbers))
            found[key_class] = base.to_bytes(_BASE, "big") + written + growing.encode(base)
        return found


def close_parts(
    session: bytes, place: Place, ciphers: Mapping[KeyClass, AESGCM], plain: Mapping[KeyClass, bytes], level: int
) -> bytes:
    """A whole body; `session` are the 16 bytes of its id."""
    fixed = place.fixed()
    bound = session + fixed
    body = [fixed]
    for key_class, data in plain.items():
        framed = compress(data, level)
        sealed = keys.close(ciphers[key_class], place.kind, key_class, place.counter, framed, bound)
        body += [(key_class << 24 | len(sealed)).to_bytes(4, "big"), sealed]
    return b"".join(body)


def place_of(kind: int, body: bytes) -> Place:
    """FormatError."""
    if kind == Type.CHUNK:
        _enough(body, CHUNK_FIXED)
        return Place(Type.CHUNK, int.from_bytes(body[8:12], "big"), int.from_bytes(body[:8], "big"), 1)
    _enough(body, SEGMENT_FIXED)
    segno, seq, count = (int.from_bytes(body[a:b], "big") for a, b in ((0, 4), (4, 12), (12, 16)))
    if not 1 <= count <= MAX_EVENTS:
        raise FormatError(f"{count} chunks in a segment")
    return Place(Type.SEGMENT, segno, seq, count)


def closed_parts(place: Place, body: bytes) -> Iterator[tuple[KeyClass, bytes]]:
    """(class, ciphertext) of each part, checked without a key: classes ascend and the body ends where they end."""
    at = CHUNK_FIXED if place.kind == Type.CHUNK else SEGMENT_FIXED
    before = -1
    while at < len(body) or before < 0:
        _enough(body, at + 4)
        number, length = body[at], int.from_bytes(body[at + 1 : at + 4], "big")
        if number <= before or number > max(KeyClass):
            raise FormatError(f"a part of class {number} after {before}")
        _enough(body, at + 4 + length)
        yield KeyClass(number), body[at + 4 : at + 4 + length]
        at += 4 + length
        before = number


class Part(NamedTuple):
    """The events of one class in a chunk or segment: those of chunk n are `starts[n]` to `starts[n + 1]`."""

    columns: Columns
    starts: Sequence[int]

    def chunk_at(self, ms: int) -> int:
        """Number of the first chunk with an event at `ms` or later; one too many if there is none."""
        event = bisect_left(self.columns.times, ms)
        return bisect_right(self.starts, event) - 1

    def events(self, chunk: int) -> list[Event]:
        return self.columns.events(self.starts[chunk], self.starts[chunk + 1])


class Parts(NamedTuple):
    """An opened chunk or segment, as far as there are keys."""

    place: Place
    parts: dict[KeyClass, Part]

    def chunks(self) -> list[Chunk]:
        """As they were recorded."""
        found = self.parts.items()
        wanted = range(self.place.chunks)
        return [{one: part.events(n) for one, part in found if part.starts[n] < part.starts[n + 1]} for n in wanted]

    def events(self, since_ms: int = 0) -> Iterator[Event]:
        """As they were acknowledged, from that time on; what is before it is not even made."""
        if len(self.parts) == 1:
            (part,) = self.parts.values()
            yield from part.columns.events(bisect_left(part.columns.times, since_ms))
            return
        parts = self.parts.values()
        for number in range(min((part.chunk_at(since_ms) for part in parts), default=0), self.place.chunks):
            here = [part.events(number) for part in parts if part.starts[number] < part.starts[number + 1]]
            for event in here[0] if len(here) == 1 else merge(*here, key=_order):
                if event.ms >= since_ms:
                    yield event


def open_parts(session: str, place: Place, body: bytes, opened: keys.Keys) -> Parts:
    """The parts of this body that there are keys for. FormatError."""
    ciphers = opened.of_segment(place.segno)
    bound = bytes.fromhex(session_id(session)) + place.fixed()
    parts = {}
    for key_class, sealed in closed_parts(place, body):
        if key_class in ciphers:
            plain = decompress(keys.unclose(ciphers[key_class], place.kind, key_class, place.counter, sealed, bound))
            parts[key_class] = _part(place, plain)
    return Parts(place, parts)


def hashed(chunk: Chunk) -> dict[KeyClass, bytes]:
    """What the content chain takes of a chunk."""
    return {key_class: plain_chunk(events) for key_class, events in chunk.items()}


def _order(event: Event) -> tuple[int, int]:
    return event.ms, _RANK[event.kind]


def _part(place: Place, plain: bytes) -> Part:
    _enough(plain, _BASE)
    base, at = int.from_bytes(plain[:_BASE], "big"), _BASE
    if place.kind == Type.CHUNK:
        columns = decode_columns(plain[at:], base)
        return Part(columns, (0, len(columns.times)))
    counts: Sequence[int] = plain[at : at + place.chunks]
    if counts and max(counts) < 0x80 and len(counts) == place.chunks:  # each is one byte, as nearly always
        at += place.chunks
    else:
        counts = []
        for _ in range(place.chunks):
            number, end = read_varint(plain[at : at + 3])
            counts.append(number)
            at += end
    columns = decode_columns(plain[at:], base)
    starts = [*accumulate(counts, initial=0)]
    if starts[-1] != len(columns.times):
        raise FormatError(f"{len(columns.times)} events in a segment, its counts say {starts[-1]}")
    return Part(columns, starts)


def _enough(data: bytes, size: int) -> None:
    if len(data) < size:
        raise FormatError("a body is cut short")
