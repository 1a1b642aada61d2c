"""Secrets at rest: master key -> one key per purpose (HKDF-SHA256) -> one key per secret (AES-256-GCM).

A sealed secret is `version(1) | nonce(12) | wrapped data key(48) | nonce(12) | ciphertext+tag`. Both layers bind
`purpose | record id | version` as associated data, so that a ciphertext moved to another row, or an old one
put back under a new version, does not open.
"""

import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
_NONCE: Final = 12
_FORMAT: Final = b"\x01"
_WRAPPED: Final = KEY_BYTES + 16
MAX_SECRET: Final = 64 * 1024
"""Plaintext bytes; the longest real secret is an RSA private key of about 13 kB."""


class VaultError(Exception):
    """The vault cannot be opened, or a secret in it is not what it should be. `hint` says what to do."""

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint


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


_RESTORE: Final = "put the right key back from its copy, then start again"


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


def read_master_key(where: str, base: Path, environ: Mapping[str, str]) -> Secret:
    """The master key from `file:PATH` (relative to `base`) or `credential:NAME`. VaultError with the way out."""
    path = master_key_path(where, base, environ)
    try:
        # Not through a link: whoever may write the folder could point it at a key he knows.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise VaultError(f"master key `{path}` does not exist", "restore it, or run `bastion-policyd init`") from None
    except OSError as error:
        raise VaultError(f"master key `{path}`: {(error.strerror or '').lower()}", _RESTORE) from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise VaultError(f"master key `{path}` is not a regular file", _RESTORE)
        if where.startswith("file:"):
            _check_access(path, status)
        data = os.read(handle, KEY_BYTES + 1)
    finally:
        os.close(handle)
    if len(data) != KEY_BYTES:
        raise VaultError(f"master key `{path}`: got {status.st_size} bytes, want {KEY_BYTES}", _RESTORE)
    return Secret(data)


def make_master_key(path: Path) -> Secret:
    """A new random key in a new file of mode 0600, on disk when this returns. VaultError if the file exists."""
    key = Secret(secrets.token_bytes(KEY_BYTES))
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise VaultError(f"master key `{path}` exists already") from None
    with os.fdopen(handle, "wb") as file:
        file.write(key.reveal())
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return key


def master_key_path(where: str, base: Path, environ: Mapping[str, str]) -> Path:
    """Where the key is kept. VaultError if `where` names no place."""
    kind, _, name = where.partition(":")
    if kind == "file" and name:
        return base / name
    if kind == "credential" and name and "/" not in name:
        if folder := environ.get("CREDENTIALS_DIRECTORY"):
            return Path(folder) / name
        raise VaultError(
            f"master key `{where}`: $CREDENTIALS_DIRECTORY is not set",
            f"add `LoadCredentialEncrypted={name}` to the unit",
        )
    raise VaultError(f"master key `{where}`: want file:PATH or credential:NAME")


def _check_access(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise VaultError(f"master key `{path}` belongs to uid {status.st_uid}", f"run `chown {os.geteuid()} {path}`")
    if stat.S_IMODE(status.st_mode) not in (0o600, 0o400):
        raise VaultError(
            f"master key `{path}` has mode {stat.S_IMODE(status.st_mode):04o}: others may read it",
            f"run `chmod 600 {path}`, and replace the key if it may have been read",
        )


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
