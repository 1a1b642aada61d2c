"""Secrets at rest: root key -> one key per purpose (HKDF-SHA256) -> one key per secret (AES-256-GCM).

A sealed secret is `format(1) | generation(4) | nonce(12) | wrapped data key(48) | nonce(12) | ciphertext+tag`. Both
layers bind `purpose | record | version` and the generation as associated data, so that a ciphertext moved to another
row, or an old one put back under a new version, does not open. The root key of a generation is wrapped by the master
(`masters`); a re-keyed vault holds two generations until the last secret is sealed with the newer one.
"""

import os
import secrets
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from policy.vault.secret import KEY_BYTES, MAX_SECRET, Secret, VaultError

SEED: Final = "seed"
"""Purpose, and name, of the secret that keys which must stay the same derive from; its value survives re-keying."""

_NONCE: Final = 12
_FORMAT: Final = b"\x02"
_GENERATION: Final = 4
HEAD: Final = len(_FORMAT) + _GENERATION
"""Bytes that say how, and with the root key of which generation, something is sealed."""
_WRAPPED: Final = KEY_BYTES + 16


class Vault:
    """Seals with the newest root key, opens with any it has."""

    def __init__(self, roots: Mapping[int, Secret], seed: Secret | None = None) -> None:
        for root in (*roots.values(), *([seed] if seed else [])):
            if len(root.reveal()) != KEY_BYTES:
                raise VaultError(f"root key: got {len(root.reveal())} bytes, want {KEY_BYTES}")
        self._roots = dict(roots)
        self._seed = seed
        self._purposes: dict[tuple[int, str], AESGCM] = {}

    def __repr__(self) -> str:
        return "Vault(...)"

    @property
    def generation(self) -> int:
        """That of what is sealed now."""
        return max(self._roots)

    @property
    def generations(self) -> tuple[int, ...]:
        return tuple(sorted(self._roots))

    def add_root(self, generation: int, root: Secret) -> None:
        """From now on, this one seals."""
        if generation <= self.generation or len(root.reveal()) != KEY_BYTES:
            raise VaultError(f"root key of generation {generation}: it does not follow {self.generation}")
        self._roots[generation] = root

    def drop_root(self, generation: int) -> None:
        """What was sealed with it opens no more."""
        if generation == self.generation:
            raise VaultError(f"root key of generation {generation} is in use")
        self._roots.pop(generation, None)
        self._purposes = {key: cipher for key, cipher in self._purposes.items() if key[0] != generation}

    def root(self, generation: int) -> Secret:
        """For a master that is to wrap it; KeyError if there is none."""
        return self._roots[generation]

    def seal(self, purpose: str, record: str, version: int, secret: Secret) -> bytes:
        """Ciphertext of `secret` for one place in the database."""
        if len(secret.reveal()) > MAX_SECRET:
            raise VaultError(f"secret: got {len(secret.reveal())} bytes, want at most {MAX_SECRET}")
        head = head_of(self.generation)
        bound = head + _bound(purpose, record, version)
        data_key, outer, inner = secrets.token_bytes(KEY_BYTES), os.urandom(_NONCE), os.urandom(_NONCE)
        wrapped = self._purpose(self.generation, purpose).encrypt(outer, data_key, bound)
        return head + outer + wrapped + inner + AESGCM(data_key).encrypt(inner, secret.reveal(), bound)

    def open(self, purpose: str, record: str, version: int, sealed: bytes) -> Secret:
        """What `seal` was given, for the very same place. VaultError for anything else."""
        generation = generation_of(sealed)
        if generation is None:
            raise VaultError(f"sealed {purpose} `{record}` is damaged")
        if generation not in self._roots:
            raise VaultError(f"sealed {purpose} `{record}` needs the root key of generation {generation}")
        bound = sealed[:HEAD] + _bound(purpose, record, version)
        outer, wrapped, inner, body = _split(sealed[HEAD:], _NONCE, _WRAPPED, _NONCE)
        try:
            data_key = self._purpose(generation, purpose).decrypt(outer, wrapped, bound)
            return Secret(AESGCM(data_key).decrypt(inner, body, bound))
        except InvalidTag:
            raise VaultError(f"sealed {purpose} `{record}` does not open: damaged, moved, or another key") from None

    def commitment_key(self, session: str) -> bytes:
        """32 bytes that key the commitments of one session's unseen input; only this vault derives them."""
        return self._derive("commitment|" + session)

    def audit_key(self) -> bytes:
        """32 bytes that authenticate the head of the audit trail."""
        return self._derive("audit-head")

    def register_key(self) -> bytes:
        """32 bytes that key the register of what is sealed."""
        return self._derive("register")

    def code_key(self) -> bytes:
        """32 bytes that key what is kept of codes which count once: too few bits for a hash that anybody can try."""
        return self._derive("code")

    def _purpose(self, generation: int, purpose: str) -> AESGCM:
        key = (generation, purpose)
        if key not in self._purposes:
            self._purposes[key] = AESGCM(_derive(self._roots[generation], "kek|" + purpose))
        return self._purposes[key]

    def _derive(self, label: str) -> bytes:
        if self._seed is None:
            raise VaultError("the vault has no seed", "restore the database from a backup")
        return _derive(self._seed, label)


def head_of(generation: int) -> bytes:
    """How everything begins that is sealed with its root key."""
    return _FORMAT + generation.to_bytes(_GENERATION)


def generation_of(sealed: bytes) -> int | None:
    """Of the root key that a sealed secret needs; None if it is none."""
    if sealed[:1] != _FORMAT or len(sealed) < HEAD + _NONCE + _WRAPPED + _NONCE + 16:
        return None
    return int.from_bytes(sealed[1:HEAD])


def _derive(key: Secret, label: str) -> bytes:
    info = b"bastion policy v1|" + label.encode()
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key.reveal())


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
