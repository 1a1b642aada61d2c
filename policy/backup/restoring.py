"""Restoring: everything is put beside, checked and opened there, and only then given its name.

A restored state is an old state: it fits its own head, so policyd alone would not notice. Whoever restores must say
that they know, and that becomes an event of the restored trail.
"""

import hashlib
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Final

import msgspec
import trio

from policy import setup, store
from policy.backup import sealing
from policy.backup.making import MASTER_KEY, PIECE
from policy.backup.manifest import MAX_FILES, MAX_MANIFEST, MAX_SMALL, NAME, BadBackup, Manifest, checked, decode, place
from policy.configuration import Configuration, read_configuration
from policy.trail import audit
from policy.trail.audit import Event
from policy.vault.secret import Secret

Say = Callable[[str], None]
KINDS: Final = (tarfile.REGTYPE, tarfile.AREGTYPE)


def restore(
    backup: Path, identity: Path, into: Path | None, say: Say, *, older: bool, passphrase: Secret | None = None,
    ask_master: bool = False,
) -> tuple[Manifest, dict[str, str]]:  # fmt: skip
    """What it says of itself, and what was found. `into` None: a rehearsal, of which nothing is left. `ask_master`:
    the token or server that the backup names may be used.

    BadBackup, NotReady, VaultError, StoreError: nothing was put anywhere.
    """
    keys = sealing.identities(identity)
    if into is not None:
        if into.exists():
            raise BadBackup(f"`{into}` exists", "name a new folder: restoring overwrites nothing")
        if not older:
            raise BadBackup(
                "what is restored is an old state: what happened since the backup is not in it",
                "try it first: --rehearse; then say so: --accept-older",
            )
    parent = into.absolute().parent if into is not None else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=parent) as stage:  # 0700
        folder = Path(stage) / "bastion"
        folder.mkdir(0o700)
        unpacked: list[Manifest] = []
        with open(backup, "rb") as source:
            sealing.decrypt(source, lambda pipe: unpacked.append(_unpack(pipe, folder, say)), keys)
        manifest = unpacked[0]
        say("opening")
        found = _open(manifest, folder, passphrase, ask_master=ask_master, note=into is not None)
        if into is not None:
            _sync(folder)
            # Both lie in one folder; a rename to what came meanwhile fails, unless that is an empty folder.
            os.rename(folder, into)
    return manifest, found


def _unpack(pipe: IO[bytes], folder: Path, say: Say) -> Manifest:
    """Attack: a backup of a stranger's, with links, devices, names that lead elsewhere, or files without end."""
    seen: dict[str, tuple[int, str]] = {}
    raw = b""
    try:
        with tarfile.open(fileobj=pipe, mode="r|") as tar:
            for entry in tar:
                if raw or len(seen) > MAX_FILES or entry.type not in KINDS:
                    raise BadBackup(f"`{entry.name[:120]}` does not belong into a backup")
                content = tar.extractfile(entry)
                assert content is not None  # a regular file
                if entry.name == NAME:
                    if entry.size > MAX_MANIFEST:
                        raise BadBackup("its manifest is too long")
                    raw = content.read(MAX_MANIFEST)
                    continue
                if entry.name in seen:
                    raise BadBackup(f"`{entry.name[:120]}` stands twice in it")
                say(checked(entry.name))
                seen[entry.name] = _write(content, entry.size, place(entry.name, folder))
        while pipe.read(PIECE):  # to its end: the last bytes are authenticated as well
            pass
    except tarfile.TarError:
        raise BadBackup("it holds no tar") from None
    manifest = decode(raw)
    if {file.name: (file.size, file.sha256) for file in manifest.files} != seen:
        raise BadBackup("the files in it are not those of its manifest", "take another copy")
    for file in manifest.files:
        if file.name != manifest.database and file.size > MAX_SMALL:
            raise BadBackup(f"`{file.name}` is too long")
        place(file.name, folder).chmod(file.mode & 0o777)
    return manifest


def _write(content: IO[bytes], size: int, path: Path) -> tuple[int, str]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest, written = hashlib.sha256(), 0
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        while data := content.read(PIECE):
            written += len(data)
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if written != size:
        raise BadBackup("it ends before its end")
    return written, digest.hexdigest()


def _open(
    manifest: Manifest, folder: Path, passphrase: Secret | None, *, ask_master: bool, note: bool
) -> dict[str, str]:
    """What a start would find; where `note` says so, the trail gets its event."""
    config = _configuration(manifest, folder)
    found = {"made": manifest.made, "host": manifest.host, "files": str(len(manifest.files)), "apart": manifest.apart}
    missing = _missing(config.policy.master_key, passphrase, ask_master=ask_master)
    if missing and note:
        raise BadBackup("the vault in it was not opened, so nothing is known of what is restored", missing)
    if missing:
        return found | {"vault": f"not opened: {missing}", "trail": f"{manifest.rows} rows, says the backup"}
    state = trio.run(setup.open_at_hand, config, passphrase)
    try:
        with state.store.read() as tables:
            finding = audit.verify(store.in_batches(tables), state.head_file.load())
            tail = tables.audit_tail()
        if not finding.ok or tail is None:
            raise BadBackup(f"the audit trail in it is not whole: {finding.problem}", "take an older backup")
        found |= {
            "vault": f"opens, {len(state.register)} sealed rows as they were written", "trail": f"{finding.rows} rows",
        }  # fmt: skip
        if note:
            detail = {"made": manifest.made, "host": manifest.host, "row": str(tail.seq)}
            event = Event(event="restored", who=f"uid {os.getuid()}", source="console", detail=detail,
                          why="an older state, accepted by whoever restored it")  # fmt: skip
            with state.store.write() as tables:
                rows = audit.chain(state.head, [(time.time_ns(), event)])
                tables.add_audit(rows)
            state.store.sync()
            state.head_file.save(audit.follow(state.head, rows))
            found["trail"] += f"; row {rows[-1].seq} says that it was restored"
    finally:
        state.store.close()
    return found


def _missing(where: str, passphrase: Secret | None, *, ask_master: bool) -> str:
    """What is not at hand that would open the vault of `master_key = where`, as the way to it."""
    match where.partition(":")[0]:
        case "passphrase" if passphrase is None:
            return "give its passphrase: --passphrase-stdin"
        case "credential" if "CREDENTIALS_DIRECTORY" not in os.environ:
            return "name the folder that holds the master key: CREDENTIALS_DIRECTORY=DIR bastion restore ..."
        case "pkcs11" | "transit" if not ask_master:
            # Attack: a stranger's backup names a module for root to load, or a server to be sent a file of this
            # machine as its token.
            return f"if the backup is yours, and so is `{audit.clean(where, 512)}`: --ask-master"
    return ""


def _configuration(manifest: Manifest, folder: Path) -> Configuration:
    """That of the backup, as it would be with `folder` in the place of its own and `folder/root` in that of `/`."""
    config = read_configuration(place(manifest.config, folder))
    database, head = place(manifest.database, folder), place(manifest.head, folder)
    policy = msgspec.structs.replace(config.policy, database=f"sqlite:///{database}")
    for file in manifest.files:
        if file.what == MASTER_KEY:  # it may stand anywhere, and is the one out of the backup
            policy = msgspec.structs.replace(policy, master_key=f"file:{place(file.name, folder)}")
    return replace(config, state=head.parent, policy=policy)


def _sync(folder: Path) -> None:
    for path in (folder, *(one for one in folder.rglob("*") if one.is_dir())):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
