"""A master key of 32 bytes in a file of its own, or in a credential that systemd hands over."""

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from policy.vault.masters import wrapping
from policy.vault.secret import KEY_BYTES, Secret, VaultError

_RESTORE: Final = "put the right key back from its copy, then start again"


class FileMaster:
    """Reads the key anew for each use, so that it lives in memory no longer than one call."""

    def __init__(self, where: str, base: Path, environ: Mapping[str, str]) -> None:
        self.kind = where.partition(":")[0]
        self._where, self._base, self._environ = where, base, environ

    async def make(self) -> list[str]:
        """A key file, if there is none."""
        path = master_key_path(self._where, self._base, self._environ)
        if self.kind != "file" or path.exists():
            return []
        make_master_key(path)
        return [f"master key `{path}`: keep a copy elsewhere, without it every secret is lost"]

    async def wrap(self, root: Secret, bound: bytes) -> bytes:
        """AES-256-GCM under a key derived from the file's."""
        return wrapping.wrap(wrapping.KEY_FILE, self._key(), root, bound)

    async def unwrap(self, wrapped: bytes, bound: bytes) -> Secret:
        """The root, or VaultError if the file holds another key."""
        root = wrapping.unwrap(wrapping.KEY_FILE, self._key(), wrapped, bound)
        if root is None:
            raise VaultError("master key: it is not the key this database was sealed with", _RESTORE)
        return root

    def _key(self) -> Secret:
        return read_master_key(self._where, self._base, self._environ)


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
    """A new random key in a new file of mode 0600, on disk when this returns. VaultError if the file exists.

    It has its name once it is whole: who dies before leaves no empty file that the next try takes for the key.
    """
    key, part = Secret(secrets.token_bytes(KEY_BYTES)), path.with_name(f"{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # of one that died
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key.reveal())
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # unlike a rename it replaces nothing
    except FileExistsError:
        part.unlink(missing_ok=True)
        raise VaultError(f"master key `{path}` exists already") from None
    except OSError as error:
        why = (error.strerror or "cannot be made").lower()
        raise VaultError(f"master key `{path}`: {why}", f"look at it: ls -ld {path.parent}") from None
    part.unlink()
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
