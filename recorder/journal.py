"""One recording while it is written: events and time in, effects out. No I/O (FORMAT.md, section 7).

    append     what is to be written to the tail: a batch is a chunk of it; written, it is acknowledged
    appended   NewTail, Compact: when the tail has its size
    due        NewTail, Compact: when it has its age
               AppendMain: a seal, each 150 s in which something came
    compacted  AppendMain (SEGMENT, SEAL), SyncMain, DropTail, Settle
    end        WriteTail, Compact
    compacted  AppendMain (SEGMENT, INDEX, SEAL, FOOT), SyncMain, DropTail, Settle
    settled    Done

The adapter carries effects out in order and stops at the first that fails; then the recording is dead.

INVARIANT: each chunk is in a tail that exists, or in a segment that is on disk. Two tails exist while a segment is
being made; they take turns, `slot` 0 and 1, and only one segment is made at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgpack
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from recorder import keys
from recorder.chain import Chain, Header, Slot, TailHeader, Type
from recorder.codec import FAST, FASTEST, STORE, compress
from recorder.columns import MAX_EVENTS, MAX_STEP
from recorder.model import AccessNote, Event, KeyClass, Kind, SessionId
from recorder.parts import Chunk, Gathered, Place, close_parts, hashed, split
from recorder.records import Entry, Foot, Seal, Why, encode_index

SEAL_SECONDS: Final = 150.0
"""At least so often what was written is sealed: what a thief of the running machine's keys cannot change any more.
Twice per segment of an idle session; each seal costs 167 bytes, as much as four seconds of a busy one."""

MANY: Final = MAX_EVENTS // 4
"""Events from which a segment is made whatever its size; four times as many do not fit into one."""

SMALL: Final = 128 * 1024
LEVELS: Final = ((10.0, 12), (0.8, 6), (0.1, 3), (0.0, FAST))
"""A segment below SMALL bytes is worth level 19 (30 ms). Above, the seconds it took to fill choose: compacting 1 MiB
(20, 7, 3, 2 ms) takes about 1 % of a core up to 1 MB/s of output and 3 % up to 10 MB/s; beyond, nothing but speed
counts. Level 8 in the place of 6 takes a quarter longer, and saves a fiftieth."""

BLOCK: Final = 4096
"""Bytes of a chunk from which the tail is compressed: below, it takes longer than it saves, one block of the disk."""

BULK: Final = 16 * 1024
"""From here on with the fastest compression: a program writes, not a person."""

FRESH, FRESH_BYTES = 16, 64 * 1024
"""Chunks that wait to be gathered for their segment and linked into the content chain, and their bytes. Nobody sees
either before the next seal or tail; and after the pause of a typist nothing is left in the processor's caches: 16 at
once cost what three one by one would."""


class Instant(NamedTuple):
    """Now, by two clocks: the wall's is a label, the monotonic one measures."""

    wall_us: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """From RecorderSettings."""

    segment_seconds: float = 300.0
    segment_bytes: int = 1 << 20


class WriteTail(NamedTuple):
    data: bytes


class AppendMain(NamedTuple):
    data: bytes


class SyncMain(NamedTuple):
    """Return when all that was appended to main is on disk."""


class NewTail(NamedTuple):
    slot: int
    data: bytes


class DropTail(NamedTuple):
    slot: int


class Compact(NamedTuple):
    """Call `job` where it disturbs nobody (it may take 50 ms), then `Journal.compacted` with what it returns."""

    job: "SegmentJob"


class Settle(NamedTuple):
    """Call `Journal.settled`: all before this is done, the tail's name is free again."""


class Done(NamedTuple):
    """The recording is complete."""


Effect = WriteTail | AppendMain | SyncMain | NewTail | DropTail | Compact | Settle | Done


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """Makes a segment's body. Owns all it needs: it runs in another thread."""

    session: SessionId
    place: Place
    gathered: Gathered
    root: bytes = field(repr=False)
    size: int  # bytes of plaintext, about
    level: int

    def __call__(self) -> bytes:
        ciphers = keys.Keys.of_root(self.root).of_segment(self.place.segno)
        return close_parts(bytes.fromhex(self.session), self.place, ciphers, self.gathered.plain(), self.level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a recording begins with."""

    session: SessionId
    t0_us: int
    node: str
    public: dict[str, str]
    private: dict[str, str] = field(repr=False)


class Journal:
    """A recording that takes events. `begin` makes one; after `end` nothing may be appended."""

    def __init__(
        self,
        opening: Opening,
        node_key: Ed25519PrivateKey,
        slots: Callable[[bytes], list[Slot]],
        entropy: Callable[[int], bytes],
        now: Instant,
        limits: Limits,
    ) -> None:
        """`slots` closes the root to its readers; `entropy` gives random bytes."""
        self.session = opening.session
        self._limits, self._entropy, self._began = limits, entropy, now
        self._root = entropy(32)
        self._keys = keys.Keys.of_root(self._root)
        self._seal_key = keys.signing_key(entropy(32))
        private: bytes = msgpack.packb(opening.private)
        self.header = Header(
            session=opening.session,
            t0_us=opening.t0_us,
            node=opening.node,
            node_key=node_key.public_key().public_bytes_raw(),
            seal_key=self._seal_key.public_key().public_bytes_raw(),
            slots=slots(self._root),
            public=opening.public,
            private=keys.close(self._keys.meta, 0, 0, 0, private, bytes.fromhex(opening.session)),
        ).encode(node_key.sign)
        self._main = Chain(self.header)
        self._offset = len(self.header)
        self._id = bytes.fromhex(opening.session)
        self._content = keys.content_start(opening.session)
        self._seq = self._segno = self._last_ms = 0
        self._index: list[Entry] = []
        self._sealed_seq = 0
        self._sealed_at = now.seconds
        self._pending = Gathered()
        self._fresh: list[tuple[Chunk, dict[KeyClass, bytes]]] = []  # not in `_pending` and `_content` yet
        self._pending_chunks = self._pending_events = self._pending_bytes = self._fresh_bytes = 0  # fresh ones included
        self._since = now.seconds
        self._compacting: SegmentJob | None = None
        self._ending = self.complete = False
        self._tail = self._tail_chain()

    @property
    def tail_header(self) -> NewTail:
        """The first tail: to be written before the header, so that whoever finds the file finds a tail, too."""
        return NewTail(0, self._tail_header().encode())

    @property
    def full(self) -> bool:
        """Whether more should wait for the segment being made: twice its size is as much as memory should hold."""
        return self._compacting is not None and self._holds(2)

    @property
    def head(self) -> bytes:
        """S: the storage chain so far. Of a complete recording it stands for the whole file."""
        return self._main.state

    def append(self, events: list[Event], now: Instant) -> bytes:
        """Events in order of time; FormatError, with nothing changed, if they cannot be stored."""
        assert not self._ending, "append after end"
        chunks = [(chunk, hashed(chunk)) for chunk in split(events, self._last_ms)]  # raises before it counts
        self._last_ms = events[-1][2]
        return b"".join([self._chunk(chunk, plain, now) for chunk, plain in chunks])

    def appended(self, now: Instant) -> list[Effect]:
        """What may wait until the batch has been acknowledged; to be asked after each."""
        if len(self._fresh) >= FRESH or self._fresh_bytes >= FRESH_BYTES:
            self._gather()
        return self._rotate(now) if self._holds(1) else []

    def due(self, now: Instant) -> list[Effect]:
        """What time brings; to be asked each second or so."""
        if self._ending:
            return []
        old = self._pending_chunks and now.seconds - self._since >= self._limits.segment_seconds
        if old and (rotated := self._rotate(now)):
            return rotated
        if self._seq > self._sealed_seq and now.seconds - self._sealed_at >= SEAL_SECONDS:
            return [AppendMain(self._seal(Why.INTERVAL, now))]  # the group commit syncs it
        return []

    def compacted(self, body: bytes, now: Instant) -> list[Effect]:
        """The job is done: `body` is its segment."""
        job = self._compacting
        assert job is not None, "no segment is being made"
        self._index.append(Entry(self._offset, job.gathered.first_ms, job.place.seq))
        written = self._append(Type.SEGMENT, body)
        if self._ending and not self._pending_chunks:
            written += self._last_records(now)
            self.complete = True
        else:
            written += self._seal(Why.SEGMENT, now)
        return [AppendMain(written), SyncMain(), DropTail(job.place.segno % 2), Settle()]

    def settled(self, now: Instant) -> list[Effect]:
        """What `compacted` asked for is done."""
        self._compacting = None
        if self.complete:
            return [Done()]
        if self._ending:
            return [Compact(self._job(now))]
        return self._rotate(now) if self._holds(1) else []

    def end(self, reason: str, by: str, text: str, now: Instant) -> list[Effect]:
        """Write how it ended and finish. The tail takes it first: if we die here, recovery finds it there."""
        assert not self._ending, "ended twice"
        self._ending = True
        note = AccessNote(what="ended", reason=reason, by=by, detail=text.encode(errors="surrogateescape"))
        elapsed = round((now.seconds - self._began.seconds) * 1000)
        ms = max(self._last_ms, min(elapsed, self._last_ms + MAX_STEP))
        event = Event(Kind.ACCESS, 0, ms, msgspec.msgpack.encode(note))
        self._last_ms = ms
        last: Chunk = {KeyClass.VIEW: [event]}
        effects: list[Effect] = [WriteTail(self._chunk(last, hashed(last), now))]
        return effects if self._compacting else [*effects, Compact(self._job(now))]

    def _chunk(self, chunk: Chunk, plain: dict[KeyClass, bytes], now: Instant) -> bytes:
        if not self._pending_chunks:
            self._since = now.seconds
        place = Place(Type.CHUNK, self._segno, self._seq, 1)
        size = sum(map(len, plain.values()))
        level = STORE if size < BLOCK else FAST if size < BULK else FASTEST
        body = close_parts(self._id, place, self._keys.of_segment(self._segno), plain, level)
        self._seq += 1
        self._fresh.append((chunk, plain))
        self._fresh_bytes += size
        self._pending_bytes += size
        self._pending_chunks += 1
        self._pending_events += sum(map(len, chunk.values()))
        return self._tail.frame(Type.CHUNK, body)

    def _gather(self) -> bytes:
        """H after all chunks, which have gone into `_pending`."""
        content = self._keys.content
        assert content is not None
        for seq, (chunk, plain) in enumerate(self._fresh, self._seq - len(self._fresh)):
            self._pending.add(chunk)
            self._content = keys.content_link(content, self._content, seq, plain.items())
        self._fresh, self._fresh_bytes = [], 0
        return self._content

    def _holds(self, segments: int) -> bool:
        """Whether the newest tail has so many segments' worth."""
        return self._pending_bytes >= segments * self._limits.segment_bytes or self._pending_events >= segments * MANY

    def _rotate(self, now: Instant) -> list[Effect]:
        """Begin to make a segment of what the tail holds, and a new tail for what comes; not while one is made."""
        if self._compacting:
            return []
        job = self._job(now)
        self._segno += 1
        self._tail = self._tail_chain()
        return [NewTail(self._segno % 2, self._tail_header().encode()), Compact(job)]

    def _job(self, now: Instant) -> SegmentJob:
        seconds, size = now.seconds - self._since, self._pending_bytes
        level = 19 if size < SMALL else next(level for least, level in LEVELS if seconds >= least)
        self._gather()
        chunks = self._pending_chunks
        place = Place(Type.SEGMENT, self._segno, self._seq - chunks, chunks)
        job = self._compacting = SegmentJob(self.session, place, self._pending, self._root, size, level)
        self._pending = Gathered()
        self._pending_chunks = self._pending_events = self._pending_bytes = 0
        return job

    def _last_records(self, now: Instant) -> bytes:
        at = self._offset
        bound = bytes.fromhex(self.session)
        plain = compress(encode_index(self._index))
        index = self._append(Type.INDEX, keys.close(self._keys.index, Type.INDEX, 0, 0, plain, bound))
        seal = self._seal(Why.END, now)
        return index + seal + self._append(Type.FOOT, Foot(at).encode())

    def _seal(self, why: Why, now: Instant) -> bytes:
        sealing, last = self._seal_key, why == Why.END
        self._seal_key = keys.signing_key(self._entropy(32))
        seal = Seal(
            why=why,
            seq=self._seq,
            wall_us=now.wall_us,
            ms=self._last_ms,
            content=self._gather(),
            next_key=bytes(32) if last else self._seal_key.public_key().public_bytes_raw(),
        )
        self._sealed_seq, self._sealed_at = self._seq, now.seconds
        return self._append(Type.SEAL, seal.encode(self.session, self._main.state, sealing.sign))

    def _append(self, kind: Type, body: bytes) -> bytes:
        record = self._main.frame(kind, body)
        self._offset += len(record)
        return record

    def _tail_header(self) -> TailHeader:
        return TailHeader(self.session, self._segno, self._seq, self._gather())

    def _tail_chain(self) -> Chain:
        return Chain(self._tail_header().encode())
