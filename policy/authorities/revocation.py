"""What does not count any more although it was signed: taken from commands, and put into a list for sshd. Pure."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from policy.authorities.life import TRUSTED, Authorities, Stage
from policy.keys.krl import MAX_SERIAL, Krl, OfCa
from policy.keys.sshkeys import parse_public_key
from policy.keys.sshwire import BadKey

LONGEST_DAYS: Final = 31
"""No certificate of ours lives longer (host_certificate_hours is at most 30 days): after it, an entry is left out."""
MAX_LISTED: Final = 10_000
"""Entries of serials and key ids at a time; who has to revoke more retires the authority."""

_SERIALS: Final = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?", re.ASCII)


class Kind(StrEnum):
    SERIAL = "serial"  # `5` or `5-9`
    KEY_ID = "key-id"
    KEY = "key"  # SHA256:..., for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """One entry, as it is kept. `at`: nanoseconds."""

    kind: str
    what: str
    at: int
    by: str
    reason: str


def key_id(person: str, session: str) -> str:
    """What stands in a certificate, in the target's log, and in the list."""
    return f"bastion:{person}:{session}"


def serials(text: str) -> tuple[int, int]:
    """`5` or `5-9`. ValueError says what is wrong."""
    match = _SERIALS.fullmatch(text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high <= MAX_SERIAL:
        raise ValueError(f"got `{text[:48]}`, want the serial of a certificate, or the first and last as 5-9")
    return low, high


def key_fingerprint(text: str) -> str:
    """`SHA256:...` from that, or from a public key line. ValueError says what is wrong."""
    if text.startswith("SHA256:"):
        _digest(text)
        return text
    try:
        words = text.split()
        return parse_public_key(base64.b64decode(words[1], validate=True), min_rsa_bits=1024).fingerprint
    except (IndexError, binascii.Error, BadKey):
        raise ValueError(f"got `{text[:48]}`, want SHA256:... or a public key") from None


def revocation_list(cas: Authorities, revoked: Iterable[Revoked], *, version: int, changed: int, now: float) -> Krl:
    """All that is over. The same until something changes. `changed`: Unix seconds, of the last change."""
    oldest = int((now - LONGEST_DAYS * 86_400) * 1e9)
    entries = [one for one in revoked if one.kind == Kind.KEY or one.at >= oldest]
    ranges = tuple(serials(one.what) for one in entries if one.kind == Kind.SERIAL)
    names = tuple(one.what for one in entries if one.kind == Kind.KEY_ID)
    keys = {_digest(one.what) for one in entries if one.kind == Kind.KEY}
    keys |= {hashlib.sha256(ca.public.blob).digest() for ca in cas.all if ca.stage is Stage.RETIRED}
    # Under each of our authorities, so that a serial of another one that a target trusts is none of ours.
    ours = [ca for ca in cas.all if ca.stage in TRUSTED] if ranges or names else []
    return Krl(
        version=version,
        generated=changed,
        comment="bastion",
        certificates=tuple(OfCa(ca=ca.public.blob, serials=ranges, key_ids=names) for ca in ours),
        sha256=frozenset(keys),
    )


def _digest(fingerprint: str) -> bytes:
    text = fingerprint.removeprefix("SHA256:")
    try:
        digest = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise ValueError(f"got `{fingerprint[:48]}`, want SHA256: and 43 characters")
    return digest
