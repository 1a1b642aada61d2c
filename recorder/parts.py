"""Events <-> the closed parts of a chunk or a segment, one part per key class (FORMAT.md, section 4). No I/O.

A *chunk* is one batch as it was acknowledged; a *segment* replaces the chunks of some minutes.

    CHUNK body    seq u64 | segno u32            | part*
    SEGMENT body  segno u32 | seq u64 | count u32 | part*        part = class u8 | length u24 | ciphertext
    plaintext     compress( base u48 | [events per chunk varint*] | columns )

INVARIANT: in a chunk, events are sorted by (ms, RANK of their class), and parts by class. So merging the parts gives
back the exact order of acknowledgement, and needs no byte to say so; `split` cuts a batch where the order is another.
"""

from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from recorder import keys
from recorder.chain import Type, session_id
from recorder.codec import (
    MAX_EVENTS,
    MAX_STEP,
    FormatError,
    compress,
    decode_events,
    decompress,
    encode_events,
    read_varint,
    varint,
)
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
        seq, segno = self.seq.to_bytes(8, "big"), self.segno.to_bytes(4, "big")
        return seq + segno if self.kind == Type.CHUNK else segno + seq + self.chunks.to_bytes(4, "big")

    @property
    def counter(self) -> int:
        return self.seq if self.kind == Type.CHUNK else self.segno


def split(events: Iterable[Event], after_ms: int) -> list[Chunk]:
    """A batch as chunks that keep the invariant; FormatError if it is empty, or time runs backwards."""
    chunks: list[dict[KeyClass, list[Event]]] = []
    last_ms, last_rank = after_ms, 9
    for event in events:
        kind, ms = event[0], event[2]
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
    return [dict(sorted(chunk.items())) for chunk in chunks]


def plain_chunk(events: list[Event]) -> bytes:
    """Plaintext of one class in one chunk; canonical, so that its hash can be made again from a segment."""
    base = events[0][2]
    return base.to_bytes(_BASE, "big") + encode_events(events, base)


def plain_segment(chunks: list[Chunk], key_class: KeyClass) -> bytes:
    """Plaintext of one class in a segment: how many events of it each chunk had, then all of them."""
    found = [chunk.get(key_class, []) for chunk in chunks]
    events = [event for part in found for event in part]
    base = events[0][2]
    counts = b"".join([varint(len(part)) for part in found])
    return base.to_bytes(_BASE, "big") + counts + encode_events(events, base)


def close_parts(
    session: str, place: Place, ciphers: Mapping[KeyClass, AESGCM], plain: Mapping[KeyClass, bytes], level: int
) -> bytes:
    """A whole body."""
    fixed = place.fixed()
    bound = bytes.fromhex(session) + fixed
    body = [fixed]
    for key_class, data in plain.items():
        framed = compress(data, level)
        sealed = keys.close(ciphers[key_class], place.kind, key_class, place.counter, framed, bound)
        body += [bytes([key_class]), len(sealed).to_bytes(3, "big"), sealed]
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


def open_parts(session: str, place: Place, body: bytes, opened: keys.Keys) -> tuple[list[Chunk], set[KeyClass]]:
    """The chunks of this body as far as there are keys, and the classes there are none for. FormatError."""
    ciphers = opened.of_segment(place.segno)
    bound = bytes.fromhex(session_id(session)) + place.fixed()
    chunks: list[Chunk] = [{} for _ in range(place.chunks)]
    missing = set()
    for key_class, sealed in closed_parts(place, body):
        if key_class not in ciphers:
            missing.add(key_class)
            continue
        plain = decompress(keys.unclose(ciphers[key_class], place.kind, key_class, place.counter, sealed, bound))
        for number, events in _per_chunk(place, plain):
            chunks[number][key_class] = events
    return chunks, missing


def in_order(chunks: Iterable[Chunk]) -> Iterator[Event]:
    """The events as they were acknowledged."""
    for chunk in chunks:
        if len(chunk) == 1:
            yield from next(iter(chunk.values()))
        else:
            yield from merge(*chunk.values(), key=lambda event: (event[2], _RANK[event[0]]))


def hashed(chunk: Chunk) -> list[tuple[KeyClass, bytes]]:
    """What the content chain takes of a chunk."""
    return [(key_class, plain_chunk(events)) for key_class, events in chunk.items()]


def _per_chunk(place: Place, plain: bytes) -> Iterator[tuple[int, list[Event]]]:
    _enough(plain, _BASE)
    base, at = int.from_bytes(plain[:_BASE], "big"), _BASE
    counts = []
    if place.kind == Type.SEGMENT:
        for _ in range(place.chunks):
            number, end = read_varint(plain[at : at + 3])
            counts.append(number)
            at += end
    events = decode_events(plain[at:], base)
    if place.kind == Type.CHUNK:
        yield 0, events
        return
    if sum(counts) != len(events):
        raise FormatError(f"{len(events)} events in a segment, its counts say {sum(counts)}")
    start = 0
    for number, count in enumerate(counts):
        if count:
            yield number, events[start : start + count]
            start += count


def _enough(data: bytes, size: int) -> None:
    if len(data) < size:
        raise FormatError("a body is cut short")
