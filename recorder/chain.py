"""Framing and storage chain of a recording: header, records, tail header (FORMAT.md, section 3). No I/O.

    record = type u8 | length u24 | check u32 | body          S_i = SHA-256(S_{i-1} | type | length | body)

`check` is the first four bytes of S_i, S_0 the hash of the header. So each byte of a file depends on all before it,
and whoever has the file can check that without a key. All numbers are big-endian.
"""

import hashlib
import re
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack
import msgspec

from recorder.codec import FormatError
from recorder.model import KeyClasses, SessionId

MAGIC: Final = b"\x89BREC\r\n\x1a"
TAIL_MAGIC: Final = b"\x89BTAIL\r\n"
MAJOR: Final = 1
SUITE: Final = 1
"""The whole crypto set by one number: AES-256-GCM, SHA-256, HKDF, Ed25519, HPKE X25519. No mix and match."""

MAX_HEADER: Final = 64 * 1024
"""Bytes of the header's map: 16 auditors and the longest names leave room to spare."""
MAX_BODY: Final = 0xFFFFFF
"""Bytes of one record's body: what its u24 can say."""
MAX_SLOTS: Final = 64

FRAME: Final = 8
"""Bytes in front of each body."""
FIXED: Final = 16
"""Bytes of the header before its map."""
SIGNATURE: Final = 64
TAIL_HEADER: Final = 68

_SESSION: Final = re.compile(r"[0-9a-f]{32}")
_CERT_LABEL: Final = b"brec1 header"


class Type(IntEnum):
    """Of a record. 0x80 and above may be skipped by readers that do not know them; others are refused."""

    CHUNK = 1
    SEGMENT = 2
    SEAL = 3
    INDEX = 4
    FOOT = 5
    NOTE = 7


SKIPPABLE: Final = 0x80
KNOWN: Final = frozenset(map(int, Type))
CLEAR, X25519 = 0, 1
_SLOT_SIZES: Final = {CLEAR: (32,), X25519: tuple(48 + 32 * n for n in (1, 3, 4, 5, 6))}


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """One way to the keys. `alg` 0: the root itself; 1: sealed by HPKE to the auditor whose key has this id."""

    alg: int
    kid: bytes  # first 8 bytes of SHA-256(public key); zeros for alg 0
    classes: KeyClasses
    sealed: bytes


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in front of a recording, signed by the node."""

    session: SessionId
    t0_us: int  # wall clock at event time 0
    node: str
    node_key: bytes  # 32, Ed25519
    seal_key: bytes  # 32, Ed25519: of seal 0
    slots: list[Slot]
    public: dict[str, str]
    private: bytes  # sealed under K_meta

    def encode(self, sign: Callable[[bytes], bytes]) -> bytes:
        """magic 8 | major u16 | minor u16 | L u32 | map[L] | signature 64. `sign` is the node key's."""
        fields = {
            "id": bytes.fromhex(self.session), "t0": self.t0_us, "suite": SUITE, "node": self.node,
            "npk": self.node_key, "pk": self.seal_key, "pub": self.public, "priv": self.private,
            "slots": [[slot.alg, slot.kid, int(slot.classes), slot.sealed] for slot in self.slots],
        }  # fmt: skip
        body: bytes = msgpack.packb(dict(sorted(fields.items())))
        if len(body) > MAX_HEADER:
            raise FormatError(f"a header of {len(body)} bytes, at most {MAX_HEADER}")
        head = MAGIC + MAJOR.to_bytes(2, "big") + bytes(2) + len(body).to_bytes(4, "big") + body
        return head + sign(_CERT_LABEL + head)


def decode_header(data: bytes) -> tuple[Header, bytes, bytes]:
    """Of all bytes of a header: what it says, what is signed, and the signature. FormatError."""
    size = header_size(data[:FIXED])
    if len(data) != size:
        raise FormatError(f"a header of {len(data)} bytes, {size} expected")
    signed, signature = data[:-SIGNATURE], data[-SIGNATURE:]
    fields = unpack_map(signed[FIXED:])
    try:
        header = Header(
            session=session_id(_sized(fields.pop("id"), 16).hex()),
            t0_us=_number(fields.pop("t0")),
            node=_text(fields.pop("node")),
            node_key=_sized(fields.pop("npk"), 32),
            seal_key=_sized(fields.pop("pk"), 32),
            slots=_slots(fields.pop("slots")),
            public=_texts(fields.pop("pub")),
            private=_sized(fields.pop("priv")),
        )
        suite = _number(fields.pop("suite"))
    except KeyError as exc:
        raise FormatError(f"the header lacks {exc}") from None
    if suite != SUITE:
        raise FormatError(f"crypto suite {suite}, this program knows {SUITE}")
    return header, _CERT_LABEL + signed, signature  # more keys are a newer minor version


def header_size(fixed: bytes) -> int:
    """Bytes of the whole header, from its first 16. FormatError."""
    if len(fixed) < FIXED:
        raise FormatError("the header is cut short")
    if fixed[:8] != MAGIC:
        raise FormatError("this is no recording")
    major, length = int.from_bytes(fixed[8:10], "big"), int.from_bytes(fixed[12:16], "big")
    if major != MAJOR:
        raise FormatError(f"format version {major}, this program reads {MAJOR}")
    if length > MAX_HEADER:
        raise FormatError(f"a header of {length} bytes, at most {MAX_HEADER}")
    return FIXED + length + SIGNATURE


class TailHeader(NamedTuple):
    """In front of a tail: which chunks it begins with and the content chain up to there."""

    session: SessionId
    segno: int
    seq: int
    content: bytes

    def encode(self) -> bytes:
        """magic 8 | id 16 | segno u32 | seq u64 | H 32."""
        numbers = self.segno.to_bytes(4, "big") + self.seq.to_bytes(8, "big")
        return TAIL_MAGIC + bytes.fromhex(self.session) + numbers + self.content


def decode_tail_header(data: bytes) -> TailHeader:
    if len(data) != TAIL_HEADER or data[:8] != TAIL_MAGIC:
        raise FormatError("this is no tail")
    segno, seq = int.from_bytes(data[24:28], "big"), int.from_bytes(data[28:36], "big")
    return TailHeader(session_id(data[8:24].hex()), segno, seq, data[36:])


class Chain:
    """The storage chain of one file while it is written or checked."""

    __slots__ = ("state",)

    def __init__(self, header: bytes) -> None:
        self.state = hashlib.sha256(header).digest()

    def frame(self, kind: int, body: bytes) -> bytes:
        """The record as it is written; the chain moves on."""
        if len(body) > MAX_BODY:
            raise FormatError(f"{len(body)} bytes in a record, at most {MAX_BODY}")
        head = (kind << 24 | len(body)).to_bytes(4, "big")
        self.state = link(self.state, head, body)
        return b"".join((head, self.state[:4], body))

    def follows(self, head: bytes, body: bytes) -> bool:
        """Whether this record (its 8 bytes and its body) is the next one; the chain moves on if it is."""
        state = link(self.state, head[:4], body)
        if state[:4] != head[4:8]:
            return False
        self.state = state
        return True


def link(state: bytes, head: bytes, body: bytes) -> bytes:
    """S_i of the record with `head` = type | length and this body."""
    if len(body) < 4096:  # a copy is cheaper than a second call
        return hashlib.sha256(b"".join((state, head, body))).digest()
    digest = hashlib.sha256(state + head)
    digest.update(body)
    return digest.digest()


def body_size(head: bytes) -> int:
    return int.from_bytes(head[1:4], "big")


def session_id(text: str) -> SessionId:
    """FormatError unless it is 32 lower-case hexadecimal digits: it becomes a file name, `../` must not."""
    if not _SESSION.fullmatch(text):
        raise FormatError("a session id is 32 lower-case hexadecimal digits")
    return SessionId(text)


def unpack_map(data: bytes) -> dict[str, Any]:
    """A msgpack map with text keys, nothing after it, no extension types. FormatError."""
    found = unpack(data)
    if not isinstance(found, dict):
        raise FormatError("a map was expected")
    return found


def unpack(data: bytes) -> Any:
    """One msgpack value that fills `data`. FormatError; limits are those of the data's own length."""
    try:
        return msgpack.unpackb(
            data, strict_map_key=True, ext_hook=_no_extension, max_map_len=1024, max_array_len=len(data)
        )
    except FormatError:
        raise
    except (ValueError, RecursionError, UnicodeDecodeError, msgpack.UnpackException) as exc:
        raise FormatError(f"msgpack: {str(exc).lower() or type(exc).__name__}") from None


def _no_extension(code: int, data: bytes) -> Any:
    raise FormatError(f"msgpack extension type {code} is not used here")


def _slots(value: object) -> list[Slot]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_SLOTS:
        raise FormatError(f"a list of 1 to {MAX_SLOTS} slots was expected")
    slots = []
    for one in value:
        if not isinstance(one, list) or len(one) != 4:
            raise FormatError("a slot has four fields")
        alg, classes = _number(one[0]), _number(one[2])
        if alg > 127:  # one of a later minor version: not for us, others may do
            continue
        sealed = _sized(one[3])
        if classes not in range(1, 16) or len(sealed) not in _SLOT_SIZES.get(alg, ()):
            raise FormatError(f"a slot of kind {alg} with {len(sealed)} bytes for classes {classes}")
        slots.append(Slot(alg=alg, kid=_sized(one[1], 8), classes=KeyClasses(classes), sealed=sealed))
    return slots


def _sized(value: object, size: int | None = None) -> bytes:
    if not isinstance(value, bytes) or size not in (None, len(value)):
        raise FormatError("bytes were expected" if size is None else f"{size} bytes were expected")
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise FormatError("a number was expected")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise FormatError("text was expected")
    return value


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise FormatError("a map of texts was expected")
    return {_text(key): _text(text) for key, text in value.items()}
