"""Reads and changes, each on the connection of one transaction."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from typing import Any, Final

from sqlalchemy import Connection, Table, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from policy.records import (
    Account,
    AuditRow,
    Authenticator,
    Code,
    DirectoryEntry,
    Person,
    PersonKey,
    Session,
    Target,
)
from policy.store import schema as s
from policy.store.access_tables import AccessTables
from policy.store.application_tables import ApplicationTables
from policy.store.authority_tables import AuthorityTables
from policy.store.checkout_tables import CheckoutTables
from policy.store.conflict import Conflict as Conflict
from policy.store.proof_tables import ProofTables
from policy.store.rotation_tables import RotationTables
from policy.store.share_tables import ShareTables
from policy.store.vault_tables import VaultTables


class Tables:
    """One transaction's view. Nothing here commits; `Store.write` does."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self.access = AccessTables(connection)  # requests, votes, grants, reviews
        self.vault = VaultTables(connection)  # secrets, and the keys that seal them
        self.authorities = AuthorityTables(connection, self.vault)  # certificate authorities, and what was revoked
        self.applications = ApplicationTables(connection)  # their tokens and leases, too
        self.shares = ShareTables(connection)  # what of the vault was lent to whom
        self.checkouts = CheckoutTables(connection)
        self.rotations = RotationTables(connection)  # their journal
        self.proofs = ProofTables(connection, self.vault)  # second factors, codes, invitations

    def nested(self) -> AbstractContextManager[object]:
        """A part of the transaction that is undone alone if its block raises."""
        return self._db.begin_nested()

    # --- settings -----------------------------------------------------------------------------------

    def setting(self, name: str) -> bytes | None:
        return self._db.execute(select(s.setting.c.value).where(s.setting.c.name == name)).scalar()

    def put_setting(self, name: str, value: bytes) -> None:
        if not self._db.execute(update(s.setting).where(s.setting.c.name == name).values(value=value)).rowcount:
            self._insert(s.setting, name=name, value=value)

    # --- persons ------------------------------------------------------------------------------------

    def persons(self, only: str | None = None) -> list[Person]:
        """All persons by name, or the one named `only`."""
        roles: dict[str, set[str]] = defaultdict(set)
        keys: dict[str, list[PersonKey]] = defaultdict(list)
        totp: dict[str, list[Authenticator]] = defaultdict(list)
        for row in self._of(s.role, only):
            roles[row.person].add(row.role)
        for row in self._of(s.key, only):
            keys[row.person].append(PersonKey(fingerprint=row.fingerprint, line=row.line))
        for row in self._of(s.authenticator, only):
            totp[row.person].append(
                Authenticator(id=row.id, kind=row.kind, created=row.created, confirmed=row.confirmed)
            )
        owns: dict[str, list[str]] = defaultdict(list)
        for row in self._of(s.owner, only):
            owns[row.person].append(row.scope)
        phc = {row.person: row.phc for row in self._of(s.password, only)}
        codes: dict[str, list[Code]] = defaultdict(list)
        for code in self.proofs.codes(only):
            codes[code.person].append(code)
        query = select(s.person).order_by(s.person.c.name)
        if only is not None:
            query = query.where(s.person.c.name == only)
        return [
            Person(
                name=row.name,
                roles=frozenset(roles[row.name]),
                keys=tuple(sorted(keys[row.name], key=lambda key: key.fingerprint)),
                disabled=row.disabled,
                offboarded=row.offboarded,
                phc=phc.get(row.name, ""),
                totp=tuple(totp[row.name]),
                codes=tuple(codes[row.name]),
                created=row.created,
                origin=row.origin,
                owns=tuple(sorted(owns[row.name])),
                mail=row.mail,
            )
            for row in self._db.execute(query)
        ]

    def add_person(self, name: str, now: int, *, origin: str = "local", mail: str = "") -> None:
        self._insert(s.person, name=name, disabled=False, offboarded=None, created=now, origin=origin, mail=mail)

    def set_mail(self, name: str, mail: str) -> None:
        self._db.execute(update(s.person).where(s.person.c.name == name).values(mail=mail))

    def set_disabled(self, name: str, disabled: bool) -> None:
        """By hand, until `put_directory_entry` says otherwise: the directory does not undo what people do here."""
        self._db.execute(update(s.person).where(s.person.c.name == name).values(disabled=disabled))
        self._db.execute(update(s.directory_entry).where(s.directory_entry.c.person == name).values(held=False))

    def offboard(self, name: str, now: int) -> None:
        """Keep the name, so that nobody inherits its history; drop every way to prove it, and where to tell them."""
        person = update(s.person).where(s.person.c.name == name)
        self._db.execute(person.values(disabled=True, offboarded=now, mail=""))
        self.proofs.remove_authenticators(name)
        for table in (s.role, s.key, s.password, s.code, s.invitation, s.owner, s.directory_entry):
            self._db.execute(delete(table).where(table.c.person == name))

    def add_owner(self, person: str, scope: str) -> None:
        self._insert(s.owner, person=person, scope=scope)

    def remove_owner(self, person: str, scope: str) -> bool:
        return self._gone(delete(s.owner).where(s.owner.c.person == person, s.owner.c.scope == scope))

    def add_role(self, person: str, role: str) -> None:
        self._insert(s.role, person=person, role=role)

    def remove_role(self, person: str, role: str) -> bool:
        return self._gone(delete(s.role).where(s.role.c.person == person, s.role.c.role == role))

    def add_key(self, person: str, fingerprint: str, line: str, now: int) -> None:
        self._insert(s.key, person=person, fingerprint=fingerprint, line=line, created=now)

    def remove_key(self, person: str, fingerprint: str) -> bool:
        return self._gone(delete(s.key).where(s.key.c.person == person, s.key.c.fingerprint == fingerprint))

    def put_password(self, person: str, phc: str, now: int) -> None:
        self._db.execute(delete(s.password).where(s.password.c.person == person))
        self._insert(s.password, person=person, phc=phc, changed=now)

    def directory_entries(self, only: str | None = None) -> dict[str, DirectoryEntry]:
        """By person."""
        return {
            row.person: DirectoryEntry(
                person=row.person,
                ident=row.ident,
                dn=row.dn,
                roles=frozenset(row.roles.split()),
                keys=frozenset(row.keys.split()),
                held=row.held,
            )
            for row in self._of(s.directory_entry, only)
        }

    def put_directory_entry(self, entry: DirectoryEntry) -> None:
        self._db.execute(delete(s.directory_entry).where(s.directory_entry.c.person == entry.person))
        words = {"roles": " ".join(sorted(entry.roles)), "keys": " ".join(sorted(entry.keys))}
        self._insert(s.directory_entry, person=entry.person, ident=entry.ident, dn=entry.dn, held=entry.held, **words)

    # --- second factors -----------------------------------------------------------------------------

    def last_step(self, authenticator: str) -> int:
        """The newest accepted time step; -1 before the first."""
        query = select(func.max(s.step.c.last_step)).where(s.step.c.authenticator == authenticator)
        found: int | None = self._db.execute(query).scalar()
        return -1 if found is None else found

    def use_step(self, authenticator: str, step: int, now: int) -> bool:
        """Compare and set: true for the first use of a step later than all used ones, false for any other."""
        if step <= self.last_step(authenticator):
            return False
        try:
            self._db.execute(insert(s.step).values(authenticator=authenticator, last_step=step, used=now))
        except IntegrityError:  # SQLite undoes the one statement, the transaction goes on
            return False
        self._db.execute(delete(s.step).where(s.step.c.authenticator == authenticator, s.step.c.last_step < step))
        return True

    # --- failed attempts ----------------------------------------------------------------------------

    def add_failure(self, kind: str, subject: str, now: int) -> None:
        self._insert(s.failure, kind=kind, subject=subject, at=now)

    def failures(self, since: int) -> list[tuple[str, str, int]]:
        """(kind, subject, when) of every failure after `since`, oldest first."""
        query = select(s.failure.c.kind, s.failure.c.subject, s.failure.c.at).where(s.failure.c.at > since)
        return [(row.kind, row.subject, row.at) for row in self._db.execute(query.order_by(s.failure.c.at))]

    def clear_failures(self, kind: str, subject: str) -> None:
        self._db.execute(delete(s.failure).where(s.failure.c.kind == kind, s.failure.c.subject == subject))

    def forget_failures(self, before: int) -> None:
        self._db.execute(delete(s.failure).where(s.failure.c.at <= before))

    # --- targets ------------------------------------------------------------------------------------

    def targets(self, only: str | None = None) -> list[Target]:
        labels: dict[str, dict[str, str]] = defaultdict(dict)
        pins: dict[str, list[bytes]] = defaultdict(list)
        for row in self._of(s.label, only, column="target"):
            labels[row.target][row.key] = row.value
        for row in self._of(s.host_key, only, column="target"):
            pins[row.target].append(row.blob)
        query = select(s.target).order_by(s.target.c.name)
        if only is not None:
            query = query.where(s.target.c.name == only)
        return [
            Target(
                name=row.name,
                address=row.address,
                port=row.port,
                protocol=row.protocol,
                labels=labels[row.name],
                host_keys=tuple(pins[row.name]),
                created=row.created,
            )
            for row in self._db.execute(query)
        ]

    def add_target(self, target: Target) -> None:
        """The record and its labels; pins are added by `pin`."""
        self._insert(
            s.target,
            name=target.name,
            address=target.address,
            port=target.port,
            protocol=target.protocol,
            created=target.created,
        )
        for key, value in target.labels.items():
            self._insert(s.label, target=target.name, key=key, value=value)

    def set_target(self, name: str, address: str, port: int, labels: dict[str, str]) -> None:
        self._db.execute(update(s.target).where(s.target.c.name == name).values(address=address, port=port))
        self._db.execute(delete(s.label).where(s.label.c.target == name))
        for key, value in labels.items():
            self._insert(s.label, target=name, key=key, value=value)

    def remove_target(self, name: str) -> bool:
        for account in self.accounts(name):
            self.remove_account(name, account.name)
        return self._gone(delete(s.target).where(s.target.c.name == name))

    def pin(self, target: str, fingerprint: str, blob: bytes, now: int) -> None:
        self._insert(s.host_key, target=target, fingerprint=fingerprint, blob=blob, pinned=now)

    def unpin(self, target: str, fingerprint: str) -> bool:
        return self._gone(
            delete(s.host_key).where(s.host_key.c.target == target, s.host_key.c.fingerprint == fingerprint)
        )

    # --- accounts -----------------------------------------------------------------------------------

    def accounts(self, target: str | None = None) -> list[Account]:
        query = select(s.account).order_by(s.account.c.target, s.account.c.name)
        if target is not None:
            query = query.where(s.account.c.target == target)
        return [Account(**row._mapping) for row in self._db.execute(query)]

    def add_account(self, account: Account) -> None:
        self._insert(s.account, **asdict(account))

    def set_public(self, target: str, name: str, public: bytes) -> None:
        """The public half of another key that opens an account."""
        mine = (s.account.c.target == target, s.account.c.name == name)
        self._db.execute(update(s.account).where(*mine).values(public=public))

    def remove_account(self, target: str, name: str) -> bool:
        """The account and its secret."""
        mine = (s.account.c.target == target, s.account.c.name == name)
        secret = self._db.execute(select(s.account.c.secret).where(*mine)).scalar()
        gone = self._gone(delete(s.account).where(*mine))
        if secret is not None:
            self.vault.remove_secret(secret)
        return gone

    # --- sessions -----------------------------------------------------------------------------------

    def add_session(self, session: Session) -> None:
        self._insert(s.session, **{name: getattr(session, name) for name in _SESSION})

    def start_session(self, ident: str, recording: str, now: int) -> None:
        self._db.execute(_START, {"ident": ident, "started": now, "recording": recording})

    def end_session(
        self, ident: str, now: int, *, reason: str, by: str = "", bytes_in: int = 0, bytes_out: int = 0
    ) -> bool:
        """False if it had ended before: the first reason stands."""
        values = {"ended": now, "reason": reason, "ended_by": by, "bytes_in": bytes_in, "bytes_out": bytes_out}
        return bool(self._db.execute(_END, {"ident": ident, **values}).rowcount)

    def count_bytes(self, ident: str, bytes_in: int, bytes_out: int) -> None:
        """What an ended session moved; only the first count is taken."""
        self._db.execute(
            update(s.session)
            .where(s.session.c.id == ident, s.session.c.bytes_in == 0, s.session.c.bytes_out == 0)
            .values(bytes_in=bytes_in, bytes_out=bytes_out)
        )

    def last_use(self, target: str, account: str) -> int | None:
        """When a session on this account was granted last."""
        query = select(func.max(s.session.c.granted))
        found: int | None = self._db.execute(
            query.where(s.session.c.target == target, s.session.c.account == account)
        ).scalar()
        return found

    def sessions(self, *, all: bool = False, after: str = "", limit: int = 1000) -> list[Session]:  # noqa: A002
        """Newest first, those older than `after`, an id; without `all` (the word of the command) only live ones."""
        c = s.session.c
        query = select(s.session).order_by(c.granted.desc(), c.id.desc()).limit(limit)
        if after:
            since = select(c.granted).where(c.id == after).scalar_subquery()
            query = query.where(or_(c.granted < since, and_(c.granted == since, c.id < after)))
        if not all:
            query = query.where(s.session.c.ended.is_(None))
        return [Session(**row._mapping) for row in self._db.execute(query)]

    def session(self, ident: str) -> Session | None:
        """One, ended or not."""
        row = self._db.execute(select(s.session).where(s.session.c.id == ident)).first()
        return None if row is None else Session(**row._mapping)

    # --- audit --------------------------------------------------------------------------------------

    def audit_tail(self) -> AuditRow | None:
        """The newest row."""
        return next(iter(self._audit_rows(select(s.audit).order_by(s.audit.c.seq.desc()).limit(1))), None)

    def add_audit(self, rows: Sequence[AuditRow]) -> None:
        if rows:  # past the compiler: every answer of policyd waits for this statement
            values = [(row.seq, row.at, row.event, row.body, row.hash) for row in rows]
            self._db.exec_driver_sql("INSERT INTO audit (seq, at, event, body, hash) VALUES (?, ?, ?, ?, ?)", values)

    def audit_from(self, seq: int, limit: int) -> list[AuditRow]:
        """Rows from `seq` on, in order."""
        return self._audit_rows(select(s.audit).where(s.audit.c.seq >= seq).order_by(s.audit.c.seq).limit(limit))

    def audit_before(self, seq: int | None, *, since: int = 0, event: str = "", limit: int = 100) -> list[AuditRow]:
        """Rows before `seq`, or the newest, newest first."""
        query = select(s.audit).where(s.audit.c.at >= since).order_by(s.audit.c.seq.desc()).limit(limit)
        if seq is not None:
            query = query.where(s.audit.c.seq < seq)
        if event:
            query = query.where(s.audit.c.event == event)
        return self._audit_rows(query)

    def audit_of(self, kinds: Sequence[str], *, after: int, before: int, since: int, limit: int) -> list[AuditRow]:
        """Rows of these kinds of events between two others, from a time on, oldest first."""
        c = s.audit.c
        query = select(s.audit).where(c.event.in_(kinds), c.seq > after, c.seq < before, c.at >= since)
        return self._audit_rows(query.order_by(c.seq).limit(limit))

    def audit_ref(self, ref: str) -> AuditRow | None:
        """The newest row with this ref, of eight hexadecimal digits."""
        query = select(s.audit).where(func.instr(s.audit.c.body, f'"ref":"{ref}"') > 0)
        return next(iter(self._audit_rows(query.order_by(s.audit.c.seq.desc()).limit(1))), None)

    # --- how ----------------------------------------------------------------------------------------

    def _audit_rows(self, query: Any) -> list[AuditRow]:
        return [AuditRow(**row._mapping) for row in self._db.execute(query)]

    def _of(self, table: Table, only: str | None, *, column: str = "person") -> Iterable[Any]:
        query = select(table)
        return self._db.execute(query if only is None else query.where(table.c[column] == only))

    def _insert(self, table: Table, **values: object) -> None:
        """Conflict ends the whole change: whoever asked for it undoes its transaction or its nested part."""
        try:
            self._db.execute(insert(table), values)
        except IntegrityError as error:
            raise Conflict(f"{table.name}: {error.orig}") from None

    def _gone(self, statement: Any) -> bool:
        return bool(self._db.execute(statement).rowcount)


# Built once: every session goes through these, and building a statement costs more than SQLite's work on it.
_START: Final = update(s.session).where(s.session.c.id == bindparam("ident"))
_END: Final = _START.where(s.session.c.ended.is_(None))
_SESSION: Final = tuple(field.name for field in fields(Session))


def in_batches(tables: Tables, *, start: int = 0, size: int = 1000) -> Iterator[AuditRow]:
    """Every audit row from `start` on, in order, `size` at a time in memory."""
    seq = start
    while rows := tables.audit_from(seq, size):
        yield from rows
        seq = rows[-1].seq + 1
