"""Since when authorities sign, until when they were trusted, and what was revoked. On one transaction's connection.

Their keys and stages are in the vault; nothing here decides what is trusted. What is revoked is not sealed, for it is
no secret; but it is registered as what is sealed, for a revocation that was taken away makes a certificate valid again.
"""

from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, update

from policy.store import schema as s
from policy.store import vault_schema as v
from policy.store.vault_tables import VaultTables
from policy.vault.register import Change, Entry, entry

KRL: Final = "krl"
"""The setting that holds version and time of the revocation list."""


class AuthorityTables:
    def __init__(self, connection: Connection, vault: VaultTables) -> None:
        self._db = connection
        self._vault = vault  # it tells the register

    def times(self) -> list[tuple[str, int, int | None, int | None]]:
        """Secret, version, since, until."""
        c = v.authority.c
        rows = self._db.execute(select(c.secret, c.version, c.since, c.until))
        return [(row.secret, row.version, row.since, row.until) for row in rows]

    def signs(self, secret: str, version: int, now: int) -> None:
        """It signs from now on."""
        mine = (v.authority.c.secret == secret) & (v.authority.c.version == version)
        self._db.execute(delete(v.authority).where(mine))
        self._db.execute(insert(v.authority).values(secret=secret, version=version, since=now))

    def ended(self, secret: str, version: int, now: int) -> None:
        """It is trusted no more; one that never signed has no row yet."""
        mine = (v.authority.c.secret == secret) & (v.authority.c.version == version)
        if not self._db.execute(update(v.authority).where(mine).values(until=now)).rowcount:
            self._db.execute(insert(v.authority).values(secret=secret, version=version, until=now))

    def revoked(self, oldest: int, limit: int) -> list[tuple[str, str, int, str, str]]:
        """Kind, what, at, by, reason; keys for ever, the others from `oldest` on."""
        c = v.revoked_certificate.c
        query = (
            select(c.kind, c.what, c.at, c.by, c.reason)
            .where((c.kind == "key") | (c.at >= oldest))
            .order_by(c.id)
            .limit(limit)
        )
        return [(row.kind, row.what, row.at, row.by, row.reason) for row in self._db.execute(query)]

    def revoke(self, kind: str, what: str, at: int, by: str, reason: str) -> None:
        row = insert(v.revoked_certificate).values(kind=kind, what=what, at=at, by=by, reason=reason)
        made = self._db.execute(row.returning(*v.revoked_certificate.c)).one()
        self._vault.changes.append(Change(None, _entry(made)))

    def krl(self) -> tuple[int, int]:
        """Version of the revocation list, and when it last changed, in Unix seconds."""
        value = self._krl()
        return (int.from_bytes(value[:8]), int.from_bytes(value[8:])) if value else (1, 0)

    def krl_changed(self, seconds: int) -> None:
        """A version that no list had before, not even one that was made after the backup this database may be of."""
        version = max(self.krl()[0] + 1, seconds)
        before, after = self._krl(), version.to_bytes(8) + seconds.to_bytes(8)
        self._db.execute(delete(s.setting).where(s.setting.c.name == KRL))
        self._db.execute(insert(s.setting).values(name=KRL, value=after))
        self._vault.changes.append(Change(None if before is None else _version(before), _version(after)))

    def entries(self) -> list[Entry]:
        """All that was ever revoked, and the version of the list, for the register."""
        rows = self._db.execute(select(v.revoked_certificate))
        version = self._krl()
        return [_entry(row) for row in rows] + ([] if version is None else [_version(version)])

    def _krl(self) -> bytes | None:
        return self._db.execute(select(s.setting.c.value).where(s.setting.c.name == KRL)).scalar()


REGISTERED: Final = frozenset({"revoked", "krl"})
"""Tables, by their names in the register, of `AuthorityTables.entries`."""


def _entry(row: Any) -> Entry:
    """`repr`, because in SQLite a column holds any type: what somebody else wrote is another text, and no error."""
    return entry("revoked", str(row.id), 0, "", repr((row.kind, row.what, row.at, row.by, row.reason)).encode())


def _version(value: object) -> Entry:
    return entry("krl", "", 0, "", value if isinstance(value, bytes) else repr(value).encode())
