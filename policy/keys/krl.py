"""Key revocation lists (OpenSSH PROTOCOL.krl), written for targets and clients, and read back. Pure.

    header     SSHKRL\\n\\0 | u32 format | u64 version | u64 generated | u64 flags | string reserved | string comment
    section    byte kind | string data, where certificates of one CA are: string ca | string reserved | parts
    part       byte kind | string data: serials, a range of serials, a bitmap of serials, key ids

We write ranges, key ids and SHA-256 of keys. OpenSSH also writes lists and bitmaps of serials, whole keys and SHA-1:
these are read. A signature is stepped over: OpenSSH checks none since 9.4, and the file's owner vouches for it. An
extension that says it is critical is refused, as whoever does not know it must.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from policy.keys.sshwire import BadKey, Reader, printable, string

MAGIC: Final = b"SSHKRL\n\0"
FORMAT: Final = 1
MAX_KRL: Final = 4 * 1024 * 1024
"""Bytes that are read: sshd reads the file at each login, so a list this long would be felt everywhere."""
MAX_ENTRIES: Final = 65536
"""Of one list of serials, key ids or keys; certificates live for minutes, so ours hold a handful."""
MAX_SERIAL: Final = (1 << 64) - 1
_MAX_BITMAP: Final = 32 * 1024  # bytes; OpenSSH takes bitmaps of up to 0x20000 bits


class Section(IntEnum):
    CERTIFICATES = 1
    KEYS = 2
    SHA1 = 3
    SIGNATURE = 4
    SHA256 = 5
    EXTENSION = 255


class Part(IntEnum):
    SERIALS = 0x20
    RANGE = 0x21
    BITMAP = 0x22
    KEY_IDS = 0x23
    EXTENSION = 0x39


_SIZES: Final[dict[int, int]] = {Section.KEYS: 0, Section.SHA1: 20, Section.SHA256: 32}
"""Bytes of an entry; 0: a key is as long as it is."""

Range = tuple[int, int]
"""Serials from the first to the last, both included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfCa:
    """Certificates of one CA. `ca` is its public blob; empty: of whichever CA."""

    ca: bytes
    serials: tuple[Range, ...] = ()  # in order, without overlap
    key_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Krl:
    """A whole list. Times are Unix seconds; hashes are of plain public key blobs, a certificate's or its CA's too."""

    version: int
    generated: int
    comment: str = ""
    certificates: tuple[OfCa, ...] = ()
    keys: frozenset[bytes] = frozenset()
    sha1: frozenset[bytes] = frozenset()
    sha256: frozenset[bytes] = frozenset()

    def revokes_key(self, blob: bytes) -> bool:
        """Whether a plain key, be it a CA's, is listed by itself."""
        listed = blob in self.keys or hashlib.sha256(blob).digest() in self.sha256
        return listed or hashlib.sha1(blob, usedforsecurity=False).digest() in self.sha1

    def revokes_certificate(self, *, key: bytes, ca: bytes, serial: int, key_id: str) -> bool:
        """As sshd judges: by the key, by the CA, then by serial (0 is none) or key id."""
        if self.revokes_key(key) or self.revokes_key(ca):
            return True
        return any(
            key_id in part.key_ids or (serial != 0 and any(low <= serial <= high for low, high in part.serials))
            for part in self.certificates
            if part.ca in (b"", ca)
        )


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same serials in order, in as few ranges as there can be. BadKey for what is no range of serials."""
    found: list[Range] = []
    for low, high in sorted(ranges):
        if not 1 <= low <= high <= MAX_SERIAL:  # 0 is what a certificate without a serial has
            raise BadKey(f"serials {low} to {high}: want 1 to {MAX_SERIAL}, in order")
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


# --- writing ----------------------------------------------------------------------------------------


def write_krl(krl: Krl) -> bytes:
    """The bytes for `RevokedKeys` (sshd) and `RevokedHostKeys` (ssh): the same list always gives the same bytes."""
    out = [MAGIC, FORMAT.to_bytes(4), krl.version.to_bytes(8), krl.generated.to_bytes(8), bytes(8), string(b"")]
    out.append(string(krl.comment))
    parts = [(part.ca, data) for part in krl.certificates if (data := _written(part))]
    out += [_section(Section.CERTIFICATES, string(ca) + string(b"") + data) for ca, data in parts]
    for kind, blobs in ((Section.KEYS, krl.keys), (Section.SHA1, krl.sha1), (Section.SHA256, krl.sha256)):
        if blobs:
            out.append(_section(kind, b"".join(string(blob) for blob in sorted(blobs))))
    return b"".join(out)


def _written(part: OfCa) -> bytes:
    out = [_section(Part.RANGE, low.to_bytes(8) + high.to_bytes(8)) for low, high in merged(part.serials)]
    if part.key_ids:
        out.append(_section(Part.KEY_IDS, b"".join(string(name) for name in sorted(set(part.key_ids)))))
    return b"".join(out)


def _section(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + string(data)


# --- reading ----------------------------------------------------------------------------------------


def read_krl(data: bytes) -> Krl:
    """A list from its bytes, well formed to the last; BadKey otherwise."""
    if len(data) > MAX_KRL:
        raise BadKey(f"revocation list has {len(data)} bytes, want at most {MAX_KRL}")
    reader = Reader(data)
    if reader.take(len(MAGIC), "magic") != MAGIC:
        raise BadKey("this is no revocation list")
    if (found := reader.u32("format")) != FORMAT:
        raise BadKey(f"revocation list of format {found}, want {FORMAT}")
    version, generated, _ = reader.u64("version"), reader.u64("date"), reader.u64("flags")
    reader.string("reserved field")
    comment = printable(reader.string("comment"), "comment")
    certificates: list[OfCa] = []
    blobs: dict[int, list[bytes]] = {kind: [] for kind in _SIZES}
    while reader.more():
        kind, body = reader.byte("section"), reader.string("section")
        match kind:
            case Section.CERTIFICATES:
                certificates.append(_certificates(Reader(body)))
            case Section.KEYS | Section.SHA1 | Section.SHA256:
                blobs[kind] += _blobs(Reader(body), _SIZES[kind])
            case (
                Section.SIGNATURE
            ):  # the key of a signature, and in a field of its own the signature over all before it
                reader.string("signature")
            case Section.EXTENSION:
                _extension(Reader(body))
            case _:
                raise BadKey(f"section of kind {kind} is not known")
    return Krl(
        version=version,
        generated=generated,
        comment=comment,
        certificates=tuple(certificates),
        keys=frozenset(blobs[Section.KEYS]),
        sha1=frozenset(blobs[Section.SHA1]),
        sha256=frozenset(blobs[Section.SHA256]),
    )


def _certificates(reader: Reader) -> OfCa:
    ca = reader.string("ca key")
    reader.string("reserved field")
    ranges: list[Range] = []
    key_ids: list[str] = []
    while reader.more():
        kind, part = reader.byte("part"), Reader(reader.string("part"))
        match kind:
            case Part.SERIALS:
                while part.more():
                    ranges.append((serial := part.u64("serial"), serial))
            case Part.RANGE:
                ranges.append((part.u64("serial"), part.u64("serial")))
            case Part.BITMAP:
                ranges += _bitmap(part)
            case Part.KEY_IDS:
                while part.more():
                    key_ids.append(printable(part.string("key id"), "key id"))
            case Part.EXTENSION:
                _extension(part)
            case _:
                raise BadKey(f"part of kind {kind:#x} is not known")
        part.end("part")
        if len(ranges) > MAX_ENTRIES or len(key_ids) > MAX_ENTRIES:
            raise BadKey(f"more than {MAX_ENTRIES} entries of one CA")
    return OfCa(ca=ca, serials=merged(ranges), key_ids=tuple(key_ids))


def _bitmap(part: Reader) -> list[Range]:
    """Serials by their distance from the first; an mpint, of which many a bit is 0."""
    offset, data = part.u64("serial"), part.string("bitmap")
    if len(data) > _MAX_BITMAP:
        raise BadKey(f"bitmap has {len(data)} bytes, want at most {_MAX_BITMAP}")
    if data and data[0] & 0x80:
        raise BadKey("bitmap is below zero")
    bits = f"{int.from_bytes(data):b}"[::-1]
    found: list[Range] = []
    start = bits.find("1")
    while start >= 0:
        end = bits.find("0", start)
        end = len(bits) if end < 0 else end
        found.append((offset + start, offset + end - 1))
        start = bits.find("1", end)
    return found


def _blobs(reader: Reader, size: int) -> list[bytes]:
    """Keys, or hashes of `size` bytes."""
    found: list[bytes] = []
    while reader.more():
        blob = reader.string("key")
        if size and len(blob) != size:
            raise BadKey(f"hash has {len(blob)} bytes, want {size}")
        found.append(blob)
        if len(found) > MAX_ENTRIES:
            raise BadKey(f"more than {MAX_ENTRIES} keys")
    return found


def _extension(reader: Reader) -> None:
    name, critical = printable(reader.string("extension"), "extension"), reader.byte("critical flag")
    reader.string("extension")
    reader.end("extension")
    if critical:
        raise BadKey(f"extension `{name[:64]}` is critical, and not known here")
