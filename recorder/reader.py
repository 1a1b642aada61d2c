"""Read a recording: what it says and, with a key, its events. Only reads; `verify` stands in `recorder.verdict`.

A recording may be growing, cut or damaged: what can be read is read, and `problems` says what could not.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from recorder import keys
from recorder.chain import FRAME, KNOWN, SKIPPABLE, TAIL_HEADER, Chain, Header, Type, unpack_map
from recorder.codec import FormatError, decompress
from recorder.keys import Keys, content_link, content_start
from recorder.model import Event, KeyClass, SessionId
from recorder.parts import Parts, hashed, open_parts, place_of
from recorder.records import FOOT_BODY, Entry, Seal, Why, decode_foot, decode_index, decode_seal
from recorder.verdict import Verdict, verify
from recorder.walk import Damage, Record, next_seal, open_file, read_front, read_tail_front, size_of, step, walk

__all__ = ["Recording", "RecordingError", "Verdict", "open_recording", "verify", "verify_content"]

TAILS: Final = (".tail", ".tail2")
MAX_PROBLEMS: Final = 100
_FOOT: Final = FRAME + FOOT_BODY


class RecordingError(Exception):
    """A file cannot be read as a recording: cause, and what to do."""

    def __init__(self, cause: str, hint: str) -> None:
        super().__init__(cause)
        self.cause, self.hint = cause, hint


def open_recording(path: Path, private_keys: Sequence[X25519PrivateKey] = ()) -> "Recording":
    """RecordingError if it is none. Without a fitting key only what `public` says can be read."""
    try:
        with open_file(path) as file:
            front = read_front(file)
    except OSError as error:
        cause = f"`{path}`: {(error.strerror or str(error)).lower()}"
        raise RecordingError(cause, "list what is there: replay ls") from None
    except FormatError as error:
        raise RecordingError(f"`{path}`: {error}", f"see what is left of it: replay verify {path}") from None
    header = front.header
    opened = keys.open_slots(header.slots, header.session, private_keys)
    return Recording(path=path, header=header, start=len(front.raw), raw=front.raw, keys=opened)


@dataclass(kw_only=True)
class Recording:
    """An open recording. Holds no file open between calls."""

    path: Path
    header: Header
    start: int  # offset of the first record
    raw: bytes = field(repr=False)
    keys: Keys | None = field(repr=False)
    problems: list[str] = field(default_factory=list)

    @property
    def session(self) -> SessionId:
        return self.header.session

    @property
    def t0_us(self) -> int:
        """Wall clock at millisecond 0."""
        return self.header.t0_us

    @property
    def node(self) -> str:
        return self.header.node

    @property
    def public(self) -> dict[str, str]:
        return self.header.public

    @cached_property
    def private(self) -> dict[str, str] | None:
        """Who, where, by which rule; None without a key."""
        if self.keys is None:
            return None
        bound = bytes.fromhex(self.session)
        try:
            found = unpack_map(keys.unclose(self.keys.meta, 0, 0, 0, self.header.private, bound))
        except FormatError as error:
            raise RecordingError(f"`{self.path}`: its header: {error}", f"replay verify {self.path}") from None
        return {str(name): str(value) for name, value in found.items()}

    @property
    def skipped_classes(self) -> frozenset[KeyClass]:
        """Classes of events that the keys at hand do not open."""
        return frozenset(KeyClass) - frozenset(self.keys.classes if self.keys else ())

    @property
    def complete(self) -> bool:
        """Whether it has been ended properly. `verify` proves it; this only looks."""
        return self._foot is not None

    @property
    def size(self) -> int:
        """Bytes on disk, tails included."""
        return sum(one.stat().st_size for one in (self.path, *self._tails()) if one.exists())

    @cached_property
    def duration_ms(self) -> int:
        """Time of the newest event, as far as it is known."""
        if self._foot is not None:
            return self._foot[1].ms
        newest = 0
        for event in self.events():
            newest = event.ms
        return newest or max((seal.ms for seal in self.seals()), default=0)

    def events(self, since_ms: int = 0) -> Iterator[Event]:
        """From that time on, in the order of acknowledgement; up to now, if it is still being recorded.

        Starts with the segment that the index names, so it is quick anywhere in a complete recording. What there is no
        key for is left out.
        """
        for parts in self.opened(since_ms):
            yield from parts.events(since_ms)

    def opened(self, since_ms: int = 0) -> Iterator[Parts]:
        """Each segment or single chunk, from the one that holds `since_ms` on."""
        if self.keys is None:
            return
        with ExitStack() as stack:
            # The tails first: a segment that is written after this moment replaces what we hold open already.
            tails = [stack.enter_context(open_file(path)) for path in self._tails() if path.exists()]
            main = stack.enter_context(open_file(self.path))
            entry = self._entry(since_ms)
            seq = entry.seq if entry else 0
            for record in self._main_records(main, entry.offset if entry else self.start):
                if record.kind in (Type.CHUNK, Type.SEGMENT):
                    yield from self._opened(record, seq)
                    seq = self._after(record, seq)
            for record in self._tail_records(tails):
                if self._after(record, seq) > seq:
                    yield from self._opened(record, seq)
                    seq = self._after(record, seq)

    def _opened(self, record: Record, expected: int) -> Iterator[Parts]:
        assert self.keys is not None
        try:
            place = place_of(record.kind, record.body)
            if place.seq > expected:
                self._problem(f"chunks {expected} to {place.seq - 1} are missing")
            yield open_parts(self.session, place, record.body, self.keys)
        except FormatError as error:
            self._problem(f"at byte {record.offset}: {error}")

    @staticmethod
    def _after(record: Record, seq: int) -> int:
        """Number of the chunk after this record."""
        try:
            place = place_of(record.kind, record.body)
        except FormatError:
            return seq
        return max(seq, place.seq + place.chunks)

    def _main_records(self, file: BinaryIO, offset: int) -> Iterator[Record]:
        """From the start each is checked by the chain; from elsewhere, its encryption has to do.

        Behind damage reading goes on at the next seal, without the chain: as from elsewhere.
        """
        end = size_of(file)
        records = walk(file, offset, end, Chain(self.raw)) if offset == self.start else _unchecked(file, offset, end)
        while True:
            try:
                for record in records:
                    offset = record.offset
                    yield record
                return
            except FormatError as error:
                self._problem(str(error))
                start = max(offset, error.at if isinstance(error, Damage) else 0)
                if (found := next_seal(file, start, end)) is None:
                    return
                offset = found
                records = _unchecked(file, offset, end)

    def _tail_records(self, files: list[BinaryIO]) -> Iterator[Record]:
        found = []
        for file in files:
            try:
                header, chain = read_tail_front(file)
            except FormatError as error:
                self._problem(str(error))
                continue
            if header.session == self.session:
                found.append((header.segno, file, chain))
        for _, file, chain in sorted(found, key=lambda one: one[0]):
            try:
                for record in walk(file, TAIL_HEADER, size_of(file), chain):
                    if record.kind == Type.CHUNK:
                        yield record
            except FormatError as error:
                self._problem(f"tail: {error}")
                return  # what the next tail has would follow a gap

    def _entry(self, since_ms: int) -> Entry | None:
        """Where to begin reading for what happened from `since_ms` on; None: at the start."""
        if since_ms <= 0 or self.keys is None or self._foot is None:
            return None
        try:
            bound = bytes.fromhex(self.session)
            plain = keys.unclose(self.keys.index, Type.INDEX, 0, 0, self._foot[0].body, bound)
            entries = decode_index(decompress(plain))
        except FormatError as error:
            self._problem(f"index: {error}")
            return None
        # The one before the first that begins at or after that time: equal times may stand in both.
        number = bisect_left([entry.ms for entry in entries], since_ms) - 1
        return entries[max(number, 0)] if entries else None

    @cached_property
    def _foot(self) -> tuple[Record, Seal] | None:
        """The index and the final seal, of a complete recording."""
        with open_file(self.path) as file:
            end = size_of(file)
            last = step(file, end - _FOOT, end) if end > self.start + _FOOT else None
            if last is None or last.kind != Type.FOOT:
                return None
            try:
                at = decode_foot(last.body).index_at
            except FormatError:
                return None
            index = step(file, at, end) if self.start <= at < end else None
            if index is None or index.kind != Type.INDEX:
                return None
            seal = self._seal_in(step(file, at + FRAME + len(index.body), end))
        return (index, seal) if seal and seal.why == Why.END else None

    def seals(self) -> Iterator[Seal]:
        """As they stand there, signatures unchecked."""
        with open_file(self.path) as file:
            for record in self._main_records(file, self.start):
                if record.kind == Type.SEAL and (seal := self._seal_in(record)):
                    yield seal

    def _seal_in(self, record: Record | None) -> Seal | None:
        try:
            return decode_seal(record.body, self.session, record.before)[0] if record else None
        except FormatError:
            return None

    def _tails(self) -> list[Path]:
        return [self.path.with_name(self.path.name + suffix) for suffix in TAILS]

    def _problem(self, text: str) -> None:
        if text not in self.problems and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)


def verify_content(recording: Recording) -> list[str]:
    """With the key: whether the events are those that the seals speak of. What is wrong; empty: nothing.

    Needs every class. The content chain is made again from the decrypted events, chunk by chunk, and compared with H
    of each seal.
    """
    opened = recording.keys
    if opened is None or opened.content is None:
        raise RecordingError("the content chain needs a key for every class", "use an auditor's key without limits")
    wanted = {seal.seq: seal.content for seal in recording.seals()}
    problems: list[str] = []
    state, seq = content_start(recording.session), 0
    for parts in recording.opened():
        for number, chunk in enumerate(parts.chunks(), parts.place.seq):
            if number != seq:
                return [*problems, f"chunks {seq} to {number - 1} are missing"]
            state = content_link(opened.content, state, seq, hashed(chunk).items())
            seq += 1
            if seq in wanted and wanted.pop(seq) != state:
                problems.append(f"the content differs from what was sealed, somewhere before chunk {seq}")
    wanted.pop(0, None)
    problems += [f"sealed content up to chunk {end} is missing" for end in sorted(wanted)]
    return problems + recording.problems


def _unchecked(file: BinaryIO, offset: int, end: int) -> Iterator[Record]:
    while offset < end:
        record = step(file, offset, end)
        if record is None:
            raise Damage(f"the record at byte {offset} is cut short", offset)
        if record.kind not in KNOWN and record.kind < SKIPPABLE:
            raise Damage(f"a record of unknown type {record.kind} at byte {offset}", offset)
        yield record
        offset += FRAME + len(record.body)
