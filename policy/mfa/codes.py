"""Codes that count once: recovery codes, and those that an administrator issues. Pure.

Ten characters of base32, 50 bits: nobody guesses one before the lock, and a person can read it out or write it down.
What is kept is a MAC under a key of the vault, since whoever holds the database could try 2^50 in a day.
"""

import base64
import hmac
from typing import Final

ENTROPY: Final = 7
"""Random bytes for one code."""
LENGTH: Final = 10
RECOVERY_CODES: Final = 10
RECOVERY: Final = "recovery"
ISSUED: Final = "issued"

_ALPHABET: Final = frozenset("abcdefghijklmnopqrstuvwxyz234567")
_MISREAD: Final = str.maketrans("018", "olb")  # digits that base32 leaves out, for the letters they look like


def new_code(entropy: bytes) -> str:
    """A code as it is shown, in two halves."""
    if len(entropy) != ENTROPY:
        raise ValueError(f"got {len(entropy)} bytes of entropy, want {ENTROPY}")
    text = base64.b32encode(entropy).decode().lower()[:LENGTH]
    return f"{text[: LENGTH // 2]}-{text[LENGTH // 2 :]}"


def plain(answer: str) -> str:
    """The code in what somebody typed; "" if there is none."""
    text = answer.lower().replace("-", "").replace(" ", "").translate(_MISREAD)
    return text if len(text) == LENGTH and set(text) <= _ALPHABET else ""


def mac(key: bytes, person: str, code: str) -> bytes:
    """What is kept of a code (as of `plain`) of this person."""
    return hmac.digest(key, f"{person}|{code}".encode(), "sha256")


def matches(kept: bytes, key: bytes, person: str, code: str) -> bool:
    return hmac.compare_digest(kept, mac(key, person, code))
