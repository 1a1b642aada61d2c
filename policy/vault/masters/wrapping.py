"""One wrapped root key: `kind(1) | length of parameters(2) | parameters | nonce(12) | AES-256-GCM ciphertext and tag`.

The parameters say how the wrapping key comes about (salt and cost, a label on a token); they and the kind are
authenticated together with `bound`, so nobody makes them cheaper or points them elsewhere.
"""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from policy.vault.secret import KEY_BYTES, Secret, VaultError

KEY_FILE: Final = 1
PASSPHRASE: Final = 2
PKCS11: Final = 3
TRANSIT: Final = 4
_KINDS: Final = {KEY_FILE: "a key file", PASSPHRASE: "a passphrase", PKCS11: "a PKCS#11 token", TRANSIT: "transit"}
_NONCE: Final = 12
MAX_PARAMETERS: Final = 2048
"""Bytes; the longest are the ciphertext of a transit server, some 300, and the names beside it."""


def wrap(kind: int, key: Secret, root: Secret, bound: bytes, parameters: bytes = b"") -> bytes:
    """`root` under `key`, any secret of 256 bits; the key that encrypts is derived from it and the kind."""
    if len(parameters) > MAX_PARAMETERS:
        raise VaultError(f"master key: {len(parameters)} bytes of parameters, want at most {MAX_PARAMETERS}")
    head = bytes([kind]) + len(parameters).to_bytes(2, "big") + parameters
    nonce = os.urandom(_NONCE)
    return head + nonce + _cipher(kind, key).encrypt(nonce, root.reveal(), _authenticated(head, bound))


def unwrap(kind: int, key: Secret, wrapped: bytes, bound: bytes) -> Secret | None:
    """The root; None if it does not open: another key, damage, or another generation's."""
    parameters = read_parameters(kind, wrapped)
    at = 3 + len(parameters)
    try:
        root = _cipher(kind, key).decrypt(
            wrapped[at : at + _NONCE], wrapped[at + _NONCE :], _authenticated(wrapped[:at], bound)
        )
    except (InvalidTag, ValueError):
        return None
    return Secret(root) if len(root) == KEY_BYTES else None


def read_parameters(kind: int, wrapped: bytes) -> bytes:
    """The parameters, NOT authenticated yet: `unwrap` does that. VaultError if another kind of master wrapped it."""
    if len(wrapped) < 3 or wrapped[0] not in _KINDS:
        raise VaultError("wrapped root key: it is damaged", "restore the database from a backup")
    if wrapped[0] != kind:
        raise VaultError(
            f"master key: this database was wrapped by {_KINDS[wrapped[0]]}, but [policy] master_key says otherwise",
            "write the old master_key back; to change it: bastion vault rekey --master WHERE",
        )
    size = int.from_bytes(wrapped[1:3], "big")
    if size > MAX_PARAMETERS or len(wrapped) < 3 + size + _NONCE + 16:
        raise VaultError("wrapped root key: it is damaged", "restore the database from a backup")
    return wrapped[3 : 3 + size]


def _authenticated(head: bytes, bound: bytes) -> bytes:
    return head + bound  # `head` says its own length


def _cipher(kind: int, key: Secret) -> AESGCM:
    info = b"bastion master v1|" + str(kind).encode()
    return AESGCM(HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key.reveal()))
