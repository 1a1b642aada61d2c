"""Making a policyd's state, and opening it again: master key, database, certificate authorities, audit trail."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from policy import naming, store
from policy.configuration import Configuration
from policy.keys import sshkeys
from policy.keys.sshkeys import PrivateKey
from policy.store import Store, Tables
from policy.trail import audit
from policy.trail.audit import Event, Head, HeadFile
from policy.vault.envelope import Vault, open_vault
from policy.vault.masters.file import make_master_key, master_key_path, read_master_key
from policy.vault.secret import Secret, VaultError

CHECK: Final = "vault-check"
CA: Final = "certificate-authority"
HOST_CA: Final = "host-ca"
USER_CA: Final = "user-ca"


class NotReady(Exception):
    """policyd cannot start, or cannot be made: cause, then the command that helps."""

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything at rest, opened and checked."""

    store: Store
    vault: Vault
    host_ca: PrivateKey = field(repr=False)
    user_ca: PrivateKey = field(repr=False)
    head_file: HeadFile
    head: Head


def make_state(config: Configuration, admin: str, admin_keys: Sequence[str]) -> list[str]:
    """A new state; what was made, in words. NotReady or naming.CommandRefused if there is one, or it cannot be."""
    name = naming.person_name(admin) if admin else ""
    keys = naming.person_keys(list(admin_keys))
    if bool(name) != bool(keys):
        raise NotReady("an administrator needs both a name and a key")
    config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    if _has_database(config) or config.head.exists():
        raise NotReady(
            f"state `{config.state}` exists already: nothing was changed", "use it, or choose another folder"
        )
    said = []
    where = config.policy.master_key
    path = master_key_path(where, config.state, os.environ)
    if where.startswith("file:") and not path.exists():
        master = make_master_key(path)
        said.append(f"master key `{path}`: keep a copy elsewhere, without it every secret is lost")
    else:
        master = read_master_key(where, config.state, os.environ)
    vault = Vault(master)
    database = store.create(config.policy.database, config.state)
    try:
        said += _fill(config, vault, database, name, keys)
    finally:
        database.close()
    return said


def open_state(config: Configuration) -> State:
    """NotReady, StoreError or VaultError say why it cannot be."""
    master = read_master_key(config.policy.master_key, config.state, os.environ)
    database = store.open_store(config.policy.database, config.state)
    with database.read() as tables:
        vault = open_vault(master, tables.setting(CHECK))
        host_ca, user_ca = _open_ca(tables, vault, HOST_CA), _open_ca(tables, vault, USER_CA)
        head_file = HeadFile(config.head, vault.audit_key())
        kept = head_file.load()
        head = audit.recover(kept, store.in_batches(tables, start=max(kept.seq, 1) if kept else 1))
    if head is None:
        raise NotReady(
            "the audit trail does not reach its kept head: it was cut or altered, or an old database was put back",
            "find out why; then accept the trail as it is with `bastion-policyd db accept-trail`",
        )
    return State(store=database, vault=vault, host_ca=host_ca, user_ca=user_ca, head_file=head_file, head=head)


def accept_trail(config: Configuration) -> str:
    """Go on from the trail as the database has it; the break itself becomes an event. What was done, in words."""
    vault = Vault(read_master_key(config.policy.master_key, config.state, os.environ))
    database = store.open_store(config.policy.database, config.state)
    head_file = HeadFile(config.head, vault.audit_key())
    kept = head_file.load()
    with database.write() as tables:
        open_vault(read_master_key(config.policy.master_key, config.state, os.environ), tables.setting(CHECK))
        finding = audit.verify(store.in_batches(tables), kept)
        if finding.ok:
            return f"the audit trail is whole, {finding.rows} rows: nothing was changed"
        tail = tables.audit_tail()
        head = Head(seq=tail.seq, hash=tail.hash) if tail else audit.START
        detail = {"kept_rows": str(kept.seq) if kept else "", "kept_head": kept.hash.hex() if kept else ""}
        event = Event(
            event="audit-trail-accepted", who=f"uid {os.getuid()}", why=finding.problem, detail=detail, source="console"
        )
        rows = audit.chain(head, [(time.time_ns(), event)])
        tables.add_audit(rows)
    if kept is None and not config.head.exists():
        head_file.make()
    head_file.force(Head(seq=rows[-1].seq, hash=rows[-1].hash))
    database.close()
    return f"accepted {rows[-1].seq - 1} rows as they are; row {rows[-1].seq} says so"


def _has_database(config: Configuration) -> bool:
    try:
        found, _ = store.status(config.policy.database, config.state)
    except store.StoreError:
        return False
    return found is not None


def _fill(config: Configuration, vault: Vault, database: Store, admin: str, keys: dict[str, str]) -> list[str]:
    now = time.time_ns()
    authorities = {name: sshkeys.generate_private_key() for name in (HOST_CA, USER_CA)}
    events = [Event(event="init", who=f"uid {os.getuid()}", source="console")]
    head_file = HeadFile(config.head, vault.audit_key())
    with database.write() as tables:
        tables.put_setting(CHECK, vault.check_value())
        for name, key in authorities.items():
            tables.put_setting(name, vault.seal(CA, name, 1, Secret(sshkeys.write_private_key(key))))
        if admin:
            tables.add_person(admin, now)
            tables.add_role(admin, "admin")
            for fingerprint, line in keys.items():
                tables.add_key(admin, fingerprint, line, now)
            detail = {"roles": "admin", "keys": " ".join(keys)}
            events.append(
                Event(event="person-add", who=f"uid {os.getuid()}", what=admin, source="console", detail=detail)
            )
        rows = audit.chain(audit.START, [(now, event) for event in events])
        tables.add_audit(rows)
    # If we die here, the next `init` finds the database and refuses; `db accept-trail` makes the head file.
    head_file.make()
    head_file.save(Head(seq=rows[-1].seq, hash=rows[-1].hash))
    said = [f"database `{config.policy.database}` in `{config.state}`"]
    said += [f"{name} {key.public.fingerprint}" for name, key in authorities.items()]
    if admin:
        said.append(f"person `{admin}` with role admin, key {' '.join(keys)}")
    return said


def _open_ca(tables: Tables, vault: Vault, name: str) -> PrivateKey:
    sealed = tables.setting(name)
    if sealed is None:
        raise VaultError(f"{name} is missing from the database", "restore it from a backup")
    return sshkeys.parse_private_key(vault.open(CA, name, 1, sealed).reveal())
