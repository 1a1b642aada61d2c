"""Making a backup: the head of the trail, then a snapshot of the database, then the files beside them, in one tar.

The head comes first: rows that are written after it are taken when the trail is opened, rows that are missing are not.
A database that was altered would be restored in good faith one day, so it is verified before, as a start does.
"""

import hashlib
import io
import os
import shutil
import socket
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Final

import msgspec
import trio

from policy import setup, store
from policy.backup import sealing
from policy.backup.manifest import MAX_FILES, MAX_SMALL, NAME, BadBackup, File, Manifest, member
from policy.configuration import Configuration, read_rules
from policy.model import PolicySettings
from policy.outside.secrets import named
from policy.store.snapshot import snapshot
from policy.trail import audit
from policy.vault.masters import parse
from policy.vault.masters.file import FileMaster
from policy.vault.secret import Secret

Say = Callable[[str], None]
PIECE: Final = 1024 * 1024  # bytes read at once
MASTER_KEY: Final = "master key"
APART: Final = {
    "file": "nothing: the master key is in it, so whoever has the identity has everything",
    "credential": "the systemd credential with the master key",
    "passphrase": "the passphrase of the vault",
    "pkcs11": "the token and its PIN",
    "transit": "the transit server with its key, and a token for it",
}


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path  # what is read
    name: str
    what: str


def make(
    config: Configuration, others: Sequence[tuple[str, Path]], to: Path, recipients: Sequence[str], say: Say,
    passphrase: Secret | None = None,
) -> Manifest:  # fmt: skip
    """A new file `to` of mode 0600, on disk at return. `others` are what of the other processes belongs to it.

    BadBackup, NotReady, VaultError, StoreError say why there is none; then nothing is left.
    """
    keys = sealing.recipients(recipients)
    if to.exists():
        raise BadBackup(f"`{to}` exists", "name another file: a backup overwrites none")
    try:
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=to.parent) as stage:  # 0700, on the same disk
            sources, about = _gather(config, others, Path(stage), say, passphrase)
            part = Path(stage) / "backup.age"
            manifests: list[Manifest] = []
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
                sealing.encrypt(lambda pipe: manifests.append(_pack(pipe, sources, about, say)), out, keys)
                out.flush()
                os.fsync(out.fileno())
            os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))  # the name is ours now
            os.replace(part, to)
            _sync(to.parent)
    except sqlite3.Error as error:
        raise BadBackup(f"database: {error}", "look at it: bastion-policyd db status") from None
    except FileExistsError:
        raise BadBackup(f"`{to}` exists", "name another file: a backup overwrites none") from None
    return manifests[0]


def _gather(
    config: Configuration, others: Sequence[tuple[str, Path]], stage: Path, say: Say, passphrase: Secret | None
) -> tuple[list[_Source], Manifest]:
    folder = config.path.parent.resolve()
    database = store.path_of(config.policy.database, config.state)
    copy, head = stage / "bastion.db", stage / "audit.head"
    shutil.copyfile(config.head, head)
    snapshot(database, copy, lambda done, of: say(f"database: {100 * done // max(of, 1)} %"))
    verified, rows = _verify(config, stage, copy, say, passphrase)
    placed = {
        "config": (config.path, config.path, "bastion.toml"),
        "database": (copy, database, "database"),
        "head": (head, config.head, "head of the audit trail"),
    }
    sources = [_Source(path, member(belongs.resolve(), folder), what) for path, belongs, what in placed.values()]
    names = dict(zip(placed, (source.name for source in sources), strict=True))
    for what, path in _beside(config, others):
        name = member(path.resolve(), folder)
        if path.is_file() and name not in {source.name for source in sources}:
            sources.append(_Source(path, name, what))
    if len(sources) > MAX_FILES:
        raise BadBackup(f"{len(sources)} files belong to it, at most {MAX_FILES}")
    kind = config.policy.master_key.partition(":")[0]
    about = Manifest(
        bastion=version("bastion"), schema=store.status(config.policy.database, config.state)[1],
        made=datetime.now(UTC).isoformat(timespec="seconds"), host=socket.gethostname(), rows=rows, verified=verified,
        apart=APART.get(kind, ""), files=[], config=names["config"], database=names["database"], head=names["head"],
    )  # fmt: skip
    return sources, about


def _beside(config: Configuration, others: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    """Every file that this bastion reads, and is not made anew at its start."""
    base, settings = config.path.parent, config.policy
    yield "rules", config.rules
    kind, _, name = settings.master_key.partition(":")
    if kind == "file":
        yield MASTER_KEY, config.state / name
    if kind in ("transit", "pkcs11"):
        for part in settings.master_key.replace("?", "&").split("&"):
            key, _, place = part.partition("=")
            if key == "share" and place.startswith("file:"):
                yield "share of the master key", config.state / place.removeprefix("file:")
    for what, where in (("CAs of persons", settings.trusted_user_cas), ("revoked keys", settings.revoked_keys)):
        if where:
            yield what, base / where
    if settings.radius.secret.startswith("file:"):
        yield "RADIUS secret", base / settings.radius.secret.removeprefix("file:")
    for what, place in named(read_rules(config.rules)):
        if place.startswith("file:"):
            yield what, base / place.removeprefix("file:")
    yield from others


def _verify(config: Configuration, stage: Path, copy: Path, say: Say, passphrase: Secret | None) -> tuple[str, int]:
    """As at a start where the vault can be opened, else the chain alone. BadBackup, NotReady if it does not hold."""
    say("verifying")
    staged = replace(config, state=stage, policy=_elsewhere(config, copy))
    master = parse(config.policy.master_key, config.state, os.environ)
    by_itself = isinstance(master, FileMaster) and (master.kind == "file" or "CREDENTIALS_DIRECTORY" in os.environ)
    if by_itself or passphrase is not None:
        state = trio.run(setup.open_state, staged, setup.supplied(master, passphrase))
        try:
            with state.store.read() as tables:
                finding = audit.verify(store.in_batches(tables), state.head_file.load())
        finally:
            state.store.close()
        said = "trail, vault and register"
    else:
        opened = store.open_store(staged.policy.database, stage)
        try:
            with opened.read() as tables:
                finding = audit.verify(store.in_batches(tables), None)
        finally:
            opened.close()
        finding = replace(finding, ok=finding.seq == finding.rows)  # the head needs the vault's key
        said = "the chain of the trail; the vault was not opened"
    if not finding.ok:
        raise BadBackup(f"the audit trail is not whole: {finding.problem}", "see: bastion audit verify")
    for left in stage.glob("bastion.db-*"):
        left.unlink()
    return said, finding.rows


def _elsewhere(config: Configuration, copy: Path) -> PolicySettings:
    return msgspec.structs.replace(config.policy, database=f"sqlite:///{copy}")


def _pack(pipe: IO[bytes], sources: Sequence[_Source], about: Manifest, say: Say) -> Manifest:
    """The tar. A file that changes while it is read counts as what was read."""
    files: list[File] = []
    with tarfile.open(fileobj=pipe, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for source in sources:
            say(source.what)
            files.append(_add(tar, source))
        manifest = msgspec.structs.replace(about, files=files)
        data = msgspec.json.encode(manifest)
        tar.addfile(_entry(NAME, len(data), 0o600), io.BytesIO(data))
    return manifest


def _add(tar: tarfile.TarFile, source: _Source) -> File:
    with open(source.path, "rb") as file:
        status = os.fstat(file.fileno())
        if source.what != "database" and status.st_size > MAX_SMALL:
            raise BadBackup(f"`{source.path}` has {status.st_size} bytes, at most {MAX_SMALL}")
        reading = _Hashed(file, status.st_size)
        tar.addfile(_entry(source.name, status.st_size, status.st_mode & 0o777), reading)
    return File(
        name=source.name, size=status.st_size, sha256=reading.digest.hexdigest(), mode=status.st_mode & 0o777,
        what=source.what,
    )  # fmt: skip


class _Hashed(io.RawIOBase):
    """The first `size` bytes of a file; a log may grow meanwhile."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left, self.digest = file, size, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size if size >= 0 else PIECE, self._left))
        self._left -= len(data)
        self.digest.update(data)
        return data


def _entry(name: str, size: int, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    return entry


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
