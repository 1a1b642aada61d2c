"""Making a policyd's state, and opening it again: master key, database, certificate authorities, audit trail."""

import hmac
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from msgspec.structs import replace

from policy import naming, store
from policy.authorities import keeping
from policy.authorities.life import Authorities
from policy.configuration import Configuration
from policy.errors import PolicyError
from policy.outside.own_courier import own_courier
from policy.records import VaultKey
from policy.store import Store, Tables
from policy.trail import audit
from policy.trail.audit import Event, Head, HeadFile
from policy.vault import keyring
from policy.vault.envelope import SEED, Vault
from policy.vault.masters import Master, parse
from policy.vault.masters.passphrase import PassphraseMaster
from policy.vault.masters.transit import TransitMaster
from policy.vault.register import Broken, Register
from policy.vault.rekeying import MASTER
from policy.vault.secret import NotYet, Secret, VaultError, WrongPassphrase


class NotReady(PolicyError):
    """policyd cannot start, or cannot be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything at rest, opened and checked."""

    store: Store
    vault: Vault
    register: Register
    master: Master
    authorities: Authorities
    head_file: HeadFile
    head: Head


async def make_state(
    config: Configuration,
    admin: str,
    admin_keys: Sequence[str],
    passphrase: Secret | None = None,
) -> list[str]:
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
    root = keyring.new_root()
    async with master_at_hand(config, passphrase) as master:
        said = await master.make()
        first = await keyring.wrap(master, keyring.FIRST, root)
    database = store.create(config.policy.database, config.state)
    try:
        said += _fill(config, Vault({keyring.FIRST: root}), first, database, name, keys)
    finally:
        database.close()
    return said


async def open_state(config: Configuration, master: Master) -> State:
    """NotReady, StoreError or VaultError say why it cannot be."""
    database = store.open_store(config.policy.database, config.state)
    try:
        return await _open(config, master, database)
    except BaseException:
        database.close()
        raise


async def _open(config: Configuration, master: Master, database: Store) -> State:
    with database.read() as tables:
        vault, register = await _open_vault(tables, master)
        head_file = HeadFile(config.head, vault.audit_key())
        kept = head_file.load()
        head = audit.recover(kept, store.in_batches(tables, start=max(kept.seq, 1) if kept else 1))
    if head is None:
        raise NotReady(
            "the audit trail does not reach its kept head: it was cut or altered, or an old database was put back",
            "find out why; then accept the trail as it is with `bastion-policyd db accept-trail`",
        )
    if not hmac.compare_digest(register.mac(head.registered), head.register):
        raise NotReady(
            "the vault is not as policyd left it: rows of it were put back, taken away or exchanged in the database",
            "find out why; then accept it as it is with `bastion-policyd db accept-trail`",
        )
    with database.read() as tables:
        authorities = keeping.load(tables, vault)
    return State(
        store=database,
        vault=vault,
        register=register,
        master=master,
        authorities=authorities,
        head_file=head_file,
        head=head,
    )


async def accept_trail(config: Configuration, passphrase: Secret | None = None) -> str:
    """Go on from the trail and the vault as the database has them; that becomes an event. What was done, in words."""
    database = store.open_store(config.policy.database, config.state)
    async with master_at_hand(config, passphrase) as master:
        with database.read() as tables:
            vault, register = await _open_vault(tables, master)
    head_file = HeadFile(config.head, vault.audit_key())
    kept = head_file.load()
    with database.write() as tables:
        finding = audit.verify(store.in_batches(tables), kept)
        found = audit.recover(kept, store.in_batches(tables, start=max(kept.seq, 1))) if kept and finding.ok else None
        whole = found is not None and hmac.compare_digest(register.mac(found.registered), found.register)
        if finding.ok and whole:
            return f"the audit trail is whole, {finding.rows} rows, and so is the vault: nothing was changed"
        tail = tables.audit_tail()
        head = Head(seq=tail.seq, hash=tail.hash) if tail else audit.START
        detail = {"kept_rows": str(kept.seq) if kept else "", "kept_head": kept.hash.hex() if kept else ""}
        event = Event(
            event="audit-trail-accepted",
            who=f"uid {os.getuid()}",
            why=finding.problem or "the vault was altered",
            detail=detail,
            source="console",
            register=register.mac(head.seq + 1).hex(),
        )
        rows = audit.chain(head, [(time.time_ns(), event)])
        tables.add_audit(rows)
    if kept is None and not config.head.exists():
        head_file.make()
    head_file.force(audit.follow(head, rows))
    database.close()
    return f"accepted {rows[-1].seq - 1} rows and the vault as they are; row {rows[-1].seq} says so"


async def _open_vault(tables: Tables, master: Master) -> tuple[Vault, Register]:
    """The vault with the keys it has, and the register of what it holds, which nobody has vouched for yet."""
    roots = await _unwrapped(tables, master)
    seed = tables.vault.named(SEED)
    sealed = tables.vault.version(seed.id) if seed else None
    if seed is None or sealed is None:
        raise VaultError("the seed of the vault is missing from the database", "restore it from a backup")
    vault = Vault(roots, Vault(roots).open(SEED, seed.record, sealed.version, sealed.sealed))
    try:
        return vault, _register(vault, tables)
    except Broken as error:
        raise VaultError(f"the vault was altered: {error}", "restore the database from a backup") from None


def _register(vault: Vault, tables: Tables) -> Register:
    return Register(vault.register_key(), [*tables.vault.entries(), *tables.authorities.entries()])


async def _unwrapped(tables: Tables, master: Master) -> dict[int, Secret]:
    """The root keys. Where another master has wrapped them, the error says which one it was."""
    try:
        return await keyring.unwrap(master, tables.vault.keys())
    except (NotYet, WrongPassphrase):
        raise
    except VaultError as error:
        if (place := tables.setting(MASTER)) is None:
            raise
        shown = audit.clean(place.decode(errors="replace"), 256)
        raise VaultError(
            error.cause, f"{error.hint}; it was `{shown}` that wrapped the root keys: [policy] master_key"
        ) from None


@asynccontextmanager
async def master_at_hand(config: Configuration, passphrase: Secret | None) -> AsyncIterator[Master]:
    """For a command of an operator's, who has the passphrase at hand, and waits for no server that may come back."""
    master = parse(config.policy.master_key, config.state, os.environ)
    if not isinstance(master, TransitMaster):
        yield supplied(master, passphrase)
        return
    try:
        async with own_courier(config.path) as courier:
            yield parse(config.policy.master_key, config.state, os.environ, courier.http)
    except NotYet as error:
        raise VaultError(error.cause, "nothing was changed: put it right, then say this again") from None


async def open_at_hand(config: Configuration, passphrase: Secret | None) -> State:
    """As `open_state`, for a command."""
    async with master_at_hand(config, passphrase) as master:
        return await open_state(config, master)


def supplied(master: Master, passphrase: Secret | None) -> Master:
    """The master, once it has been told the passphrase, if it wants one."""
    if isinstance(master, PassphraseMaster) and passphrase is not None:
        master.supply(passphrase)
    return master


def _has_database(config: Configuration) -> bool:
    try:
        found, _ = store.status(config.policy.database, config.state)
    except store.StoreError:
        return False
    return found is not None


def _fill(
    config: Configuration, bare: Vault, first: VaultKey, database: Store, admin: str, keys: dict[str, str]
) -> list[str]:
    now = time.time_ns()
    seed, record, version = keyring.make_seed(bare, now)
    vault = Vault({keyring.FIRST: bare.root(keyring.FIRST)}, seed)
    events = [Event(event="init", who=f"uid {os.getuid()}", source="console")]
    if admin:
        detail = {"roles": "admin", "keys": " ".join(keys)}
        events.append(Event(event="person-add", who=f"uid {os.getuid()}", what=admin, source="console", detail=detail))
    head_file = HeadFile(config.head, vault.audit_key())
    with database.write() as tables:
        tables.vault.add_key(first)
        tables.put_setting(MASTER, config.policy.master_key.encode())
        tables.vault.add_secret(record, version)
        authorities = keeping.make_first(tables, vault, now)
        register = _register(vault, tables)
        events[-1] = replace(events[-1], register=register.mac(len(events)).hex())
        if admin:
            tables.add_person(admin, now)
            tables.add_role(admin, "admin")
            for fingerprint, line in keys.items():
                tables.add_key(admin, fingerprint, line, now)
        rows = audit.chain(audit.START, [(now, event) for event in events])
        tables.add_audit(rows)
    # If we die here, the next `init` finds the database and refuses; `db accept-trail` makes the head file.
    head_file.make()
    head_file.save(audit.follow(audit.START, rows))
    said = [f"database `{config.policy.database}` in `{config.state}`"]
    said += authorities
    if admin:
        said.append(f"person `{admin}` with role admin, key {' '.join(keys)}")
    return said
