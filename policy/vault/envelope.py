"""Secrets at rest: master key -> one key per purpose (HKDF-SHA256) -> one key per secret (AES-256-GCM).

A sealed secret is `version(1) | nonce(12) | wrapped data key(48) | nonce(12) | ciphertext+tag`. Both layers bind
`purpose | record id | version` as associated data, so that a ciphertext moved to another row, or an old one
put back under a new version, does not open.
"""

import hmac
import os
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from policy.vault.secret import KEY_BYTES, MAX_SECRET, Secret, VaultError

_NONCE: Final = 12
_FORMAT: Final = b"\x01"
_WRAPPED: Final = KEY_BYTES + 16


class Vault:
    """Seals and opens with one master key."""

    def __init__(self, master: Secret) -> None:
        if len(master.reveal()) != KEY_BYTES:
            raise VaultError(f"master key: got {len(master.reveal())} bytes, want {KEY_BYTES}")
        self._master = master
        self._purposes: dict[str, AESGCM] = {}

    def __repr__(self) -> str:
        return "Vault(...)"

    def seal(self, purpose: str, record: str, version: int, secret: Secret) -> bytes:
        """Ciphertext of `secret` for one place in the database."""
        if len(secret.reveal()) > MAX_SECRET:
            raise VaultError(f"secret: got {len(secret.reveal())} bytes, want at most {MAX_SECRET}")
        bound = _bound(purpose, record, version)
        data_key, outer, inner = secrets.token_bytes(KEY_BYTES), os.urandom(_NONCE), os.urandom(_NONCE)
        wrapped = self._purpose(purpose).encrypt(outer, data_key, bound)
        return _FORMAT + outer + wrapped + inner + AESGCM(data_key).encrypt(inner, secret.reveal(), bound)

    def open(self, purpose: str, record: str, version: int, sealed: bytes) -> Secret:
        """What `seal` was given, for the very same place. VaultError for anything else."""
        bound = _bound(purpose, record, version)
        if sealed[:1] != _FORMAT or len(sealed) < 1 + _NONCE + _WRAPPED + _NONCE + 16:
            raise VaultError(f"sealed {purpose} `{record}` is damaged")
        outer, wrapped, inner, body = _split(sealed[1:], _NONCE, _WRAPPED, _NONCE)
        try:
            data_key = self._purpose(purpose).decrypt(outer, wrapped, bound)
            return Secret(AESGCM(data_key).decrypt(inner, body, bound))
        except InvalidTag:
            raise VaultError(f"sealed {purpose} `{record}` does not open: damaged, moved, or another key") from None

    def commitment_key(self, session: str) -> bytes:
        """32 bytes that key the commitments of one session's unseen input; only this master key derives them."""
        return self._derive("commitment|" + session)

    def audit_key(self) -> bytes:
        """32 bytes that authenticate the head of the audit trail."""
        return self._derive("audit-head")

    def code_key(self) -> bytes:
        """32 bytes that key what is kept of codes which count once: too few bits for a hash that anybody can try."""
        return self._derive("code")

    def check_value(self) -> bytes:
        """Kept in the database so that a wrong master key is noticed before it seals anything."""
        return self._derive("check")

    def _purpose(self, purpose: str) -> AESGCM:
        if purpose not in self._purposes:
            self._purposes[purpose] = AESGCM(self._derive("kek|" + purpose))
        return self._purposes[purpose]

    def _derive(self, label: str) -> bytes:
        info = b"bastion policy v1|" + label.encode()
        return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(self._master.reveal())


def open_vault(master: Secret, check: bytes | None) -> Vault:
    """The vault, if `check` (from the database) is this master key's. VaultError for another key."""
    vault = Vault(master)
    if check is None or not hmac.compare_digest(vault.check_value(), check):
        raise VaultError(
            "master key: it is not the key this database was sealed with", "put the right key back, then start again"
        )
    return vault


def _bound(purpose: str, record: str, version: int) -> bytes:
    for part in (purpose, record):
        if "|" in part:  # the separator inside a part would let two places share one binding
            raise VaultError(f"sealed record `{part}`: no `|` in names")
    return f"{purpose}|{record}|{version}".encode()


def _split(data: bytes, *sizes: int) -> tuple[bytes, ...]:
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return (*parts, data[at:])
