"""Verify a recording without a key: is it whole, and as the node sealed it? Streams; holds one record at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Literal, assert_never

from recorder.chain import FRAME, KNOWN, SKIPPABLE, TAIL_HEADER, Chain, Header, Type
from recorder.codec import FormatError
from recorder.keys import content_start, holds
from recorder.parts import closed_parts, place_of
from recorder.records import Foot, Note, Seal, Why, decode_foot, decode_note, decode_seal
from recorder.walk import Cut, Damage, Record, open_file, read_front, read_tail_front, size_of, walk

Status = Literal["ok", "open", "truncated", "altered"]
Bytes = bytes  # the name is taken below
_SUFFIXES: Final = (".tail", ".tail2")
_STEP: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`ok`: complete, every seal holds. `open`: being recorded, or recorderd was killed; valid up to `at`.

    `truncated`: valid up to `at`, and something that was there is missing. `altered`: wrong from `at` on.
    """

    status: Status
    at: int | None = None
    problems: list[str] = field(default_factory=list)
    seals: int = 0
    bytes: int = 0
    chain: Bytes = b""  # S at the end of a complete recording: what the node log must name


def verify(path: Path, node_key: bytes | None, progress: Callable[[int], None] = lambda done: None) -> Verdict:
    """`node_key`: the raw public key that must have signed it; None believes the header. OSError if it cannot be read.

    What no verdict can say: whether the last seals of an open recording have been cut off together with what follows,
    and whether a whole recording was removed; the node log can.
    """
    # The tails are opened first: a segment that is made meanwhile then shows in both, never in none.
    tails = []
    for suffix in _SUFFIXES:
        try:
            tails.append(open_file(path.with_name(path.name + suffix)))
        except FileNotFoundError:
            pass
    try:
        with open_file(path) as file:
            return _verify(file, tails, node_key, progress)
    finally:
        for tail in tails:
            tail.close()


def _verify(file: BinaryIO, tails: list[BinaryIO], node_key: bytes | None, progress: Callable[[int], None]) -> Verdict:
    end = size_of(file)
    try:
        front = read_front(file)
        if node_key is not None and front.header.node_key != node_key:
            raise FormatError("it is signed by another node's key")
        if not holds(front.header.node_key, front.signature, front.signed):
            raise FormatError("the node's signature of the header does not hold")
    except Cut as error:
        return Verdict(status="truncated", at=end, problems=[str(error)], bytes=end)
    except FormatError as error:
        return Verdict(status="altered", at=0, problems=[str(error)], bytes=end)
    check, chain, at, reported = _Check(front.header), Chain(front.raw), len(front.raw), 0
    try:
        for record in walk(file, at, end, chain):
            check.record(record)
            at = record.offset + FRAME + len(record.body)
            if at - reported >= _STEP:
                progress(at - reported)
                reported = at
    except Cut as error:
        status: Status = "altered" if check.foot else "truncated"
        return Verdict(status=status, at=at, problems=[str(error)], seals=check.seals, bytes=end)
    except FormatError as error:
        at = error.at if isinstance(error, Damage) else at
        return Verdict(status="altered", at=at, problems=[str(error)], seals=check.seals, bytes=end)
    progress(at - reported)
    return _judge(check, tails, at, end, chain.state)


def _judge(check: "_Check", tails: list[BinaryIO], at: int, end: int, chain: Bytes) -> Verdict:
    """What the whole of main says, and the tails if it goes on there."""
    problems: list[str] = []
    if check.foot:
        return Verdict(status="ok", seals=check.seals, bytes=end, chain=chain)
    status: Status = "truncated"
    if check.last and check.last.why == Why.END:
        problems.append("the last record is missing")
    elif check.note:
        problems.append(
            f"it has no end: recorderd was killed; {check.note.chunks} chunks were recovered from the tail,"
            f" {check.note.torn} torn bytes dropped"
        )
    elif not tails:
        problems.append("it has no end and no tail")
    else:
        status = "open"
        for trouble, harmless in check.tails(tails):
            problems.append(trouble)
            status = status if harmless else "truncated"
    if check.last and check.seq < check.last.seq:
        problems.append(f"chunks {check.seq} to {check.last.seq - 1} were sealed and are missing")
        status = "truncated"
    return Verdict(status=status, at=at, problems=problems, seals=check.seals, bytes=end)


class _Check:
    """The rules of FORMAT.md, section 8, record by record. FormatError at the first that is broken."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.key = header.seal_key
        self.seq = self.segno = self.seals = 0
        self.last: Seal | None = None
        self.note: Note | None = None
        self.foot: Foot | None = None
        self._index_at = 0
        self._recovering = False

    def record(self, record: Record) -> None:
        if self.foot:
            raise FormatError("something follows the last record")
        if self.note:
            raise FormatError("something follows the note of recovery")
        if record.kind not in KNOWN:
            if record.kind < SKIPPABLE:
                raise FormatError(f"a record of unknown type {record.kind}")
            return
        kind = Type(record.kind)
        ended = self.last is not None and self.last.why == Why.END
        if ended != (kind == Type.FOOT):
            raise FormatError(f"{kind.name} {'behind' if ended else 'without'} the final seal")
        if self._recovering and kind not in (Type.CHUNK, Type.NOTE):
            raise FormatError(f"{kind.name} behind recovered chunks")
        if self._index_at and kind not in (Type.SEAL, Type.FOOT):
            raise FormatError(f"{kind.name} behind the index")
        match kind:
            case Type.CHUNK | Type.SEGMENT:
                self._content(kind, record)
            case Type.SEAL:
                self._seal(record)
            case Type.INDEX:
                self._index_at = record.offset
            case Type.FOOT:
                self.foot = decode_foot(record.body)
                if self.foot != Foot(self._index_at):
                    raise FormatError("the foot names another place than the index's")
            case Type.NOTE:
                note, signed, signature = decode_note(record.body, self.header.session, record.before)
                if not holds(self.header.node_key, signature, signed):
                    raise FormatError("the node's signature of a note does not hold")
                self.note = note
            case _:
                assert_never(kind)

    def tails(self, files: list[BinaryIO]) -> list[tuple[str, bool]]:
        """Go on there; troubles, each with whether a crash or a write under way explains it."""
        found, troubles = [], []
        for file in files:
            try:
                header, chain = read_tail_front(file)
            except Cut as error:
                troubles.append((str(error), True))
                continue
            except FormatError as error:
                troubles.append((f"a tail: {error}", False))
                continue
            if header.session != self.header.session:
                troubles.append(("a tail of another session", False))
            else:
                found.append((header, file, chain))
        for header, file, chain in sorted(found, key=lambda one: one[0].segno):
            if self.last is None and header.seq == 0 and header.content != content_start(header.session):
                troubles.append(("a tail: its content chain begins elsewhere", False))
                break
            try:
                for record in walk(file, TAIL_HEADER, size_of(file), chain):
                    place = place_of(record.kind, record.body)
                    if record.kind != Type.CHUNK or place.segno != header.segno:
                        raise FormatError(f"a record of type {record.kind} does not belong here")
                    if place.seq > self.seq:
                        raise FormatError(f"chunks {self.seq} to {place.seq - 1} are missing")
                    self.seq = max(self.seq, place.seq + 1)
            except FormatError as error:
                troubles.append((f"a tail: {error}", isinstance(error, Cut)))
                break
        return troubles

    def _content(self, kind: Type, record: Record) -> None:
        place = place_of(kind, record.body)
        for _ in closed_parts(place, record.body):
            pass
        if place.seq != self.seq:
            raise FormatError(f"chunk {self.seq} expected, {place.seq} found")
        if kind == Type.CHUNK:
            self._recovering = True
            if place.segno < self.segno:
                raise FormatError(f"a chunk of segment {place.segno} behind segment {self.segno - 1}")
        else:
            if place.segno != self.segno:
                raise FormatError(f"segment {self.segno} expected, {place.segno} found")
            self.segno += 1
        self.seq = place.seq + place.chunks

    def _seal(self, record: Record) -> None:
        seal, signed, signature = decode_seal(record.body, self.header.session, record.before)
        if not holds(self.key, signature, signed):
            raise FormatError(f"the signature of seal {self.seals} does not hold")
        wrong = {
            "count of chunks": seal.seq < max(self.seq, self.last.seq if self.last else 0),
            "time": seal.ms < (self.last.ms if self.last else 0),
            "next key": (seal.next_key == bytes(32)) != (seal.why == Why.END),
            "end": (seal.why == Why.END) != bool(self._index_at),
            "count of chunks at the end": seal.why == Why.END and seal.seq != self.seq,
        }
        if found := [name for name, is_wrong in wrong.items() if is_wrong]:
            raise FormatError(f"seal {self.seals} has a wrong {', '.join(found)}")
        self.seals += 1
        self.last, self.key = seal, seal.next_key
