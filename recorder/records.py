"""Bodies of the records that are not content: SEAL, NOTE, INDEX, FOOT (FORMAT.md, section 6). No I/O."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack
import msgspec

from recorder.chain import SIGNATURE, unpack, unpack_map
from recorder.codec import FormatError
from recorder.model import SessionId

MARK: Final = bytes.fromhex("b5ea1c0de5ea1000")
"""In front of each seal, so that a reader finds the next one behind damage."""

SEAL_BODY: Final = 159
FOOT_BODY: Final = 8
MAX_NOTE: Final = 4096
MAX_INDEX: Final = 1 << 16
"""Entries: a segment of 1 MiB each makes 64 GiB, one per 5 minutes seven months."""

_SEAL_LABEL: Final = b"brec1 seal"
_NOTE_LABEL: Final = b"brec1 note"


class Why(IntEnum):
    """A seal was due because of this."""

    INTERVAL = 0
    SEGMENT = 1
    END = 2


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """A signature over all there is so far, by a key that is dropped at once; it names the next key.

    What the file says anyway is signed and not written: seals are most of what a short recording costs.
    """

    why: Why
    seq: int  # chunks recorded before it, in main and tail together
    wall_us: int
    ms: int  # time of the newest event
    content: bytes  # H after chunk seq - 1
    next_key: bytes  # zeros at the end

    def encode(self, session: SessionId, chain: bytes, sign: Callable[[bytes], bytes]) -> bytes:
        """MARK 8 | why u8 | seq u64 | wall u64 | ms u48 | H 32 | key 32 | sig 64; `chain` is S before the record."""
        numbers = ((self.why, 1), (self.seq, 8), (self.wall_us, 8), (self.ms, 6))
        said = MARK + b"".join([number.to_bytes(size, "big") for number, size in numbers])
        said += self.content + self.next_key
        return said + sign(_signed(_SEAL_LABEL, session, chain + said))


def decode_seal(body: bytes, session: SessionId, chain: bytes) -> tuple[Seal, bytes, bytes]:
    """The seal, what is signed, and the signature; `chain` is S before it. FormatError."""
    if len(body) != SEAL_BODY or body[:8] != MARK:
        raise FormatError("this is no seal")
    at, numbers = 8, []
    for size in (1, 8, 8, 6):
        numbers.append(int.from_bytes(body[at : at + size], "big"))
        at += size
    why, seq, wall_us, ms = numbers
    if why > max(Why):
        raise FormatError(f"a seal for reason {why}")
    seal = Seal(
        why=Why(why), seq=seq, wall_us=wall_us, ms=ms, content=body[at : at + 32], next_key=body[at + 32 : at + 64]
    )
    return seal, _signed(_SEAL_LABEL, session, chain + body[:-SIGNATURE]), body[-SIGNATURE:]


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to the file itself, signed by the node: `what` is `recovered`."""

    what: str
    wall_us: int
    chunks: int  # taken over from the tail
    torn: int  # bytes of half-written records that were dropped

    def encode(self, session: SessionId, chain: bytes, sign: Callable[[bytes], bytes]) -> bytes:
        """map | signature 64, which covers the chain before the record as well."""
        said: bytes = msgpack.packb(dict(sorted(msgspec.structs.asdict(self).items())))
        return said + sign(_signed(_NOTE_LABEL, session, chain + said))


def decode_note(body: bytes, session: SessionId, chain: bytes) -> tuple[Note, bytes, bytes]:
    """The note, what is signed, and the signature; `chain` is S before it. FormatError."""
    if not SIGNATURE < len(body) <= MAX_NOTE:
        raise FormatError(f"a note of {len(body)} bytes")
    said = body[:-SIGNATURE]
    try:
        note = msgspec.convert(unpack_map(said), Note)
    except msgspec.ValidationError as exc:
        raise FormatError(f"a note: {str(exc).lower()}") from None
    return note, _signed(_NOTE_LABEL, session, chain + said), body[-SIGNATURE:]


class Entry(NamedTuple):
    """Where a segment, or a chunk that stands in main by itself, begins."""

    offset: int
    ms: int  # of its first event
    seq: int


def encode_index(entries: list[Entry]) -> bytes:
    """Plaintext of INDEX: msgpack [[offset, ms, seq]...]."""
    packed: bytes = msgpack.packb([list(entry) for entry in entries])
    return packed


def decode_index(plain: bytes) -> list[Entry]:
    found: Any = unpack(plain)
    if not isinstance(found, list) or len(found) > MAX_INDEX:
        raise FormatError("an index is a list of entries")
    entries = []
    for one in found:
        if not (isinstance(one, list) and len(one) == 3 and all(type(n) is int and 0 <= n < 1 << 63 for n in one)):
            raise FormatError("an index entry is three numbers")
        entries.append(Entry(*one))
    if entries != sorted(entries):
        raise FormatError("an index out of order")
    return entries


class Foot(NamedTuple):
    """The last record: so that a reader finds the index, and the seal behind it, without reading everything."""

    index_at: int

    def encode(self) -> bytes:
        return self.index_at.to_bytes(8, "big")


def decode_foot(body: bytes) -> Foot:
    if len(body) != FOOT_BODY:
        raise FormatError(f"a foot of {len(body)} bytes, {FOOT_BODY} expected")
    return Foot(int.from_bytes(body, "big"))


def _signed(label: bytes, session: SessionId, said: bytes) -> bytes:
    return label + bytes.fromhex(session) + said
