"""Bytes that must not be seen, and the errors of the vault."""

import hmac
from typing import Final

from policy.errors import PolicyError

KEY_BYTES: Final = 32
MAX_SECRET: Final = 64 * 1024
"""Plaintext bytes; the longest real secret is an RSA private key of about 13 kB."""


class VaultError(PolicyError):
    """The vault cannot be opened, or a secret in it is not what it should be."""


class NotYet(VaultError):
    """The vault stays locked for now: what the master needs is away, and may come."""


class WrongPassphrase(VaultError):
    """It is another one than the vault was locked with."""


class Secret:
    """Bytes that hide from repr, logs and pickles. Python cannot wipe them: keep the life of one short."""

    __slots__ = ("_bytes",)

    def __init__(self, value: bytes) -> None:
        self._bytes = bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves; the caller hands them to one use and forgets them."""
        return self._bytes

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._bytes, other._bytes)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")
