"""Secrets, their versions, and the root keys that seal them. On the connection of one transaction.

The only writer of sealed rows: what it does to one is told in `changes`, for the register.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from policy.records import SecretRecord, SecretVersion, VaultKey
from policy.store import schema as s
from policy.store.conflict import Conflict
from policy.vault.envelope import HEAD, generation_of, head_of
from policy.vault.register import Change, Entry, entry

LIMIT: Final = 1000
"""Rows of one list: more do not fit one message."""

CURRENT: Final = "current"
PENDING: Final = "pending"
PREVIOUS: Final = "previous"
RETIRED: Final = "retired"


# What every login waits for: made once, since building a statement takes as long as asking it.
_OPENING: Final = select(s.secret, s.secret_version).join(s.secret_version, s.secret_version.c.secret == s.secret.c.id)
_MINE: Final = _OPENING.where(s.secret.c.id == bindparam("ident"))
# Of two that say so one is somebody else's: the register tells, and not an exception.
_IN_FORCE: Final = _MINE.where(s.secret_version.c.state == CURRENT).order_by(s.secret_version.c.version.desc()).limit(1)
_NUMBERED: Final = _MINE.where(s.secret_version.c.version == bindparam("number"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    by_kind: dict[str, int]
    by_state: dict[str, int]
    by_generation: dict[int, int]
    oldest_name: str = ""  # of what opens accounts, and named secrets
    oldest: int = 0


class VaultTables:
    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self.changes: list[Change] = []

    def take_changes(self) -> list[Change]:
        """What was done to sealed rows since this was asked last."""
        taken, self.changes = self.changes, []
        return taken

    # --- root keys ----------------------------------------------------------------------------------

    def keys(self) -> list[VaultKey]:
        """Oldest generation first."""
        query = select(s.vault_key).order_by(s.vault_key.c.generation)
        return [_key(row) for row in self._db.execute(query)]

    def add_key(self, key: VaultKey) -> None:
        """Conflict if there is one of that generation."""
        self._insert(s.vault_key, f"generation {key.generation} exists", **asdict(key))
        self.changes.append(Change(None, key_entry(key)))

    def wrap_key(self, generation: int, wrapped: bytes) -> None:
        """The same root key, wrapped anew. KeyError if there is none."""
        before = {key.generation: key for key in self.keys()}[generation]
        after = VaultKey(generation=generation, wrapped=wrapped, made=before.made)
        mine = s.vault_key.c.generation == generation
        self._db.execute(update(s.vault_key).where(mine).values(wrapped=wrapped))
        self.changes.append(Change(key_entry(before), key_entry(after)))

    def remove_key(self, generation: int) -> None:
        for key in self.keys():
            if key.generation == generation:
                self._db.execute(delete(s.vault_key).where(s.vault_key.c.generation == generation))
                self.changes.append(Change(key_entry(key), None))

    # --- secrets ------------------------------------------------------------------------------------

    def opening(self, ident: str, number: int = 0) -> tuple[SecretRecord | None, SecretVersion | None]:
        """A secret and that version of it, or the one in force; each None if it is not there."""
        parameters: dict[str, object] = {"ident": ident} | ({"number": number} if number else {})
        row = self._db.execute(_NUMBERED if number else _IN_FORCE, parameters).first()
        if row is None:
            return self.secret(ident), None
        record = SecretRecord(
            id=str(row.id), kind=str(row.kind), name=str(row.name), owner=str(row.owner), note=str(row.note),
            created=_number(row.created), changed=_number(row.changed),
        )  # fmt: skip
        return record, _version(row)

    def secret(self, ident: str) -> SecretRecord | None:
        found = self._secrets(select(s.secret).where(s.secret.c.id == ident))
        return found[0] if found else None

    def named(self, name: str) -> SecretRecord | None:
        found = self._secrets(select(s.secret).where(s.secret.c.name == name))
        return found[0] if found else None

    def secrets(self, kind: str = "", *, prefix: str = "", after: str = "", limit: int = LIMIT) -> list[SecretRecord]:
        """By name, of one kind, of one folder, after one name: what is left out holds for all."""
        query = select(s.secret).order_by(s.secret.c.name).limit(limit).where(s.secret.c.name > after)
        if kind:
            query = query.where(s.secret.c.kind == kind)
        if prefix:
            query = query.where(s.secret.c.name.startswith(prefix, autoescape=True))
        return self._secrets(query)

    def add_secret(self, secret: SecretRecord, first: SecretVersion) -> None:
        """Conflict if the name is taken."""
        self._insert(s.secret, f"secret `{secret.name}` exists", **asdict(secret))
        self.add_version(first)

    def set_secret(self, ident: str, *, owner: str, note: str, now: int) -> None:
        """What is not sealed, and not part of where it is sealed."""
        self._db.execute(
            update(s.secret).where(s.secret.c.id == ident).values(owner=owner, note=note, changed=now)
        )  # fmt: skip

    def remove_secret(self, ident: str) -> bool:
        """With all of its versions."""
        secret = self.secret(ident)
        if secret is None:
            return False
        self.changes += [Change(version_entry(secret, one), None) for one in self.versions(ident)]
        self._db.execute(delete(s.secret_version).where(s.secret_version.c.secret == ident))
        self._db.execute(delete(s.secret).where(s.secret.c.id == ident))
        return True

    # --- versions -----------------------------------------------------------------------------------

    def versions(self, ident: str) -> list[SecretVersion]:
        """Oldest first."""
        query = select(s.secret_version).where(s.secret_version.c.secret == ident).order_by(s.secret_version.c.version)
        return [_version(row) for row in self._db.execute(query)]

    def version(self, ident: str, number: int = 0) -> SecretVersion | None:
        """That one, or the one in force."""
        mine = [s.secret_version.c.secret == ident]
        mine.append(s.secret_version.c.version == number if number else s.secret_version.c.state == CURRENT)
        row = self._db.execute(
            select(s.secret_version).where(*mine).order_by(s.secret_version.c.version.desc())
        ).first()
        return _version(row) if row is not None else None

    def add_version(self, version: SecretVersion) -> None:
        """Conflict if there is one of that number, KeyError if there is no such secret."""
        secret, generation = self._must(version.secret), generation_of(version.sealed)
        # It was sealed before the vault was sealed anew, and comes after its end: nothing would ever open it.
        if generation is not None and generation not in {key.generation for key in self.keys()}:
            raise Conflict("sealed with a root key that is gone")
        self._insert(s.secret_version, f"version {version.version} exists", **asdict(version))
        self.changes.append(Change(None, version_entry(secret, version)))

    def promote(self, ident: str, number: int, now: int) -> None:
        """This version is in force from now on; what was before it stays as the previous one, older ones retire.

        KeyError if there is no such version.
        """
        if number not in {one.version for one in self.versions(ident)}:
            raise KeyError(number)
        for one in self.versions(ident):
            if one.version == number:
                self._set_state(one, CURRENT)
            elif one.state == CURRENT:
                self._set_state(one, PREVIOUS)
            elif one.state == PREVIOUS:
                self._set_state(one, RETIRED)
        self._db.execute(update(s.secret).where(s.secret.c.id == ident).values(changed=now))

    def retire(self, ident: str, number: int) -> None:
        """A version that never came into force, or never will again."""
        for one in self.versions(ident):
            if one.version == number:
                self._set_state(one, RETIRED)

    def remove_version(self, ident: str, number: int) -> None:
        secret = self._must(ident)
        for one in self.versions(ident):
            if one.version == number:
                mine = (s.secret_version.c.secret == ident, s.secret_version.c.version == number)
                self._db.execute(delete(s.secret_version).where(*mine))
                self.changes.append(Change(version_entry(secret, one), None))

    def reseal(self, version: SecretVersion, sealed: bytes) -> None:
        """The same secret, sealed anew."""
        self._replace(version, sealed=sealed, state=version.state)

    def all_versions(self, after: tuple[str, int] = ("", 0), limit: int = LIMIT) -> list[SecretVersion]:
        """Every sealed secret, in pages by (secret, version)."""
        c = s.secret_version.c
        query = (
            select(s.secret_version)
            .where((c.secret > after[0]) | ((c.secret == after[0]) & (c.version > after[1])))
            .order_by(c.secret, c.version)
            .limit(limit)
        )
        return [_version(row) for row in self._db.execute(query)]

    def sealed_before(self, generation: int, limit: int) -> list[tuple[SecretRecord, SecretVersion]]:
        """Some of what is sealed with the root key of another generation than this one."""
        c = s.secret_version.c
        query = select(s.secret_version).where(func.substr(c.sealed, 1, HEAD) != head_of(generation))
        versions = [_version(row) for row in self._db.execute(query.order_by(c.secret, c.version).limit(limit))]
        return [(self._must(one.secret), one) for one in versions]

    def retired_beyond(self, keep: int, limit: int = LIMIT) -> list[SecretVersion]:
        """Retired versions, but for the `keep` newest of each secret. Authorities stay: what is forgotten of them is no
        longer in the list of what is revoked."""
        c = s.secret_version.c
        rank = func.row_number().over(partition_by=c.secret, order_by=c.version.desc())
        forgettable = (c.state == RETIRED) & c.secret.in_(select(s.secret.c.id).where(s.secret.c.kind != "ca"))
        ranked = select(s.secret_version, rank.label("rank")).where(forgettable).subquery()
        rows = self._db.execute(select(ranked).where(ranked.c.rank > keep).limit(limit))
        return [_version(row) for row in rows]

    def counts(self) -> "Counts":
        """How much there is of what."""
        c = s.secret_version.c
        kinds = self._db.execute(select(s.secret.c.kind, func.count()).group_by(s.secret.c.kind))
        states = self._db.execute(select(c.state, func.count()).group_by(c.state))
        heads = self._db.execute(select(func.substr(c.sealed, 1, HEAD).label("head"), func.count()).group_by("head"))
        generations = {int.from_bytes(_blob(head)[1:]): number for head, number in heads}
        oldest = self._db.execute(
            select(s.secret.c.name, c.made)
            .join(s.secret, s.secret.c.id == c.secret)
            .where(c.state == CURRENT, s.secret.c.kind.in_(("password", "key", "generic")))
            .order_by(c.made)
            .limit(1)
        ).first()
        return Counts(
            by_kind={str(kind): number for kind, number in kinds},
            by_state={str(state): number for state, number in states},
            by_generation=generations,
            oldest_name=str(oldest[0]) if oldest else "",
            oldest=_number(oldest[1]) if oldest else 0,
        )

    def entries(self) -> list[Entry]:
        """Every sealed row, for the register."""
        named = {secret.id: secret for secret in self._secrets(select(s.secret))}
        rows = self._db.execute(select(s.secret_version))
        versions = [_version(row) for row in rows]
        # A version whose secret is gone is no row of ours: its entry fits no register.
        secrets = [version_entry(named[one.secret], one) if one.secret in named else orphan(one) for one in versions]
        return secrets + [key_entry(key) for key in self.keys()]

    def _set_state(self, version: SecretVersion, state: str) -> None:
        if version.state != state:
            self._replace(version, sealed=version.sealed, state=state)

    def _replace(self, version: SecretVersion, *, sealed: bytes, state: str) -> None:
        secret = self._must(version.secret)
        after = SecretVersion(**(asdict(version) | {"sealed": sealed, "state": state}))
        mine = (s.secret_version.c.secret == version.secret, s.secret_version.c.version == version.version)
        self._db.execute(update(s.secret_version).where(*mine).values(sealed=sealed, state=state))
        self.changes.append(Change(version_entry(secret, version), version_entry(secret, after)))

    def _must(self, ident: str) -> SecretRecord:
        if (secret := self.secret(ident)) is None:
            raise KeyError(ident)
        return secret

    def _secrets(self, query: Select[Any]) -> list[SecretRecord]:
        return [_record(row) for row in self._db.execute(query)]

    def _insert(self, table: Any, otherwise: str, **values: object) -> None:
        try:
            self._db.execute(insert(table).values(**values))
        except IntegrityError:
            raise Conflict(otherwise) from None


# SQLite keeps any type in any column, and whoever writes to the file chooses it. What is of another type than ours is
# made one of ours that nobody wrote: the register, and not a TypeError, is to tell.


def _record(row: Any) -> SecretRecord:
    texts = {name: str(row._mapping[name]) for name in ("id", "kind", "name", "owner", "note")}
    return SecretRecord(**texts, created=_number(row.created), changed=_number(row.changed))


def _version(row: Any) -> SecretVersion:
    return SecretVersion(
        secret=str(row.secret), version=_number(row.version), state=str(row.state), sealed=_blob(row.sealed),
        made=_number(row.made), made_by=str(row.made_by),
    )  # fmt: skip


def _key(row: Any) -> VaultKey:
    return VaultKey(generation=_number(row.generation), wrapped=_blob(row.wrapped), made=_number(row.made))


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1


def _blob(value: object) -> bytes:
    return value if isinstance(value, bytes) else repr(value).encode()


def version_entry(secret: SecretRecord, version: SecretVersion) -> Entry:
    return entry("secret", secret.record, version.version, version.state, version.sealed)


def orphan(version: SecretVersion) -> Entry:
    return entry("orphan", version.secret, version.version, version.state, version.sealed)


def key_entry(key: VaultKey) -> Entry:
    return entry("key", str(key.generation), 0, "", key.wrapped)
