"""Applications, their tokens, their leases, and what is shared with them. On the connection of one transaction."""

from dataclasses import asdict, fields
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, bindparam, case, delete, exists, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from policy.records import Application, BrokerToken, LeaseRecord, SecretRecord, SecretVersion
from policy.store import schema as s
from policy.store.conflict import Conflict
from policy.store.vault_tables import CURRENT

FORGET_AT_ONCE: Final = 5000
"""Leases deleted in one transaction: some 20 ms, and readers wait no longer."""


class ApplicationTables:
    def __init__(self, connection: Connection) -> None:
        self._db = connection

    # --- applications -------------------------------------------------------------------------------

    def all(self, only: str = "") -> list[Application]:
        query = select(s.application).order_by(s.application.c.name)
        if only:
            query = query.where(s.application.c.name == only)
        return [
            Application(**(dict(row._mapping) | {"addresses": tuple(row.addresses.split())}))
            for row in self._db.execute(query)
        ]

    def add(self, application: Application) -> None:
        """Conflict if the name is taken."""
        try:
            self._db.execute(insert(s.application).values(**_row(application)))
        except IntegrityError:
            raise Conflict(f"application `{application.name}` exists already") from None

    def put(self, application: Application) -> None:
        """As it is now."""
        mine = s.application.c.name == application.name
        self._db.execute(update(s.application).where(mine).values(**_row(application)))

    def remove(self, name: str, now: int) -> None:
        """With its tokens; its leases end, and what was shared with it ends as well: a name may come again."""
        self.end_leases(name, now)
        c = s.share.c
        theirs = (c.subject_kind == "application", c.subject == name, c.ended.is_(None))
        self._db.execute(update(s.share).where(*theirs).values(ended=now))
        self._db.execute(delete(s.application).where(s.application.c.name == name))

    def pass_on(self, owner: str, heir: str, now: int) -> int:
        """Applications of somebody who leaves are another's, or nobody's; tokens that they made end. How many it were.

        Attack: a token made on the last day, used from home.
        """
        mine, made = s.application.c.owner == owner, s.application_token.c
        self._db.execute(
            update(s.application_token).where(made.made_by == owner, made.revoked.is_(None)).values(revoked=now)
        )
        return self._db.execute(update(s.application).where(mine).values(owner=heir)).rowcount

    # --- tokens -------------------------------------------------------------------------------------

    def tokens(self, now: int) -> list[BrokerToken]:
        """Those that have not expired; revoked ones are among them."""
        query = select(s.application_token).where(s.application_token.c.expires > now)
        return [
            BrokerToken(**(dict(row._mapping) | {"addresses": tuple(row.addresses.split())}))
            for row in self._db.execute(query)
        ]

    def add_token(self, token: BrokerToken) -> None:
        """Those of the application that are over make room."""
        c = s.application_token.c
        self._db.execute(delete(s.application_token).where(c.application == token.application, c.expires <= token.made))
        self._db.execute(insert(s.application_token).values(**_row(token)))

    def renew_token(self, old: BrokerToken, new: BrokerToken, overlap: int) -> bool:
        """Compare and set: the new one beside the old one, which ends by `overlap`; false if that is over already."""
        c = s.application_token.c
        mine = (c.id == old.id, c.revoked.is_(None), c.expires > new.made)
        sooner = case((c.expires > overlap, overlap), else_=c.expires)
        if not self._db.execute(update(s.application_token).where(*mine).values(expires=sooner)).rowcount:
            return False
        self.add_token(new)
        return True

    def revoke_tokens(self, application: str, now: int, ident: str = "") -> None:
        """All of an application, or those that one and it came of by renewing."""
        c = s.application_token.c
        mine = [c.application == application, c.revoked.is_(None)]
        if ident:
            row = select(c.first).where(c.id == ident, c.application == application)
            mine.append(or_(c.first == ident, c.first.in_(row)))
        self._db.execute(update(s.application_token).where(*mine).values(revoked=now))

    # --- leases -------------------------------------------------------------------------------------

    def add_lease(self, lease: LeaseRecord) -> bool:
        """False if its secret is not shared with its application at this moment."""
        values = {f"new_{name}": getattr(lease, name) for name in _LEASE}
        asking = _asking(lease.application, lease.secret, lease.at)
        return bool(self._db.execute(_LEASED, {**asking, **values}).rowcount)

    def lease(self, ident: str) -> LeaseRecord | None:
        row = self._db.execute(select(s.lease).where(s.lease.c.id == ident)).first()
        return None if row is None else LeaseRecord(**row._mapping)

    def renew_lease(self, ident: str, expires: int, now: int) -> bool:
        """Compare and set: true while it has neither ended nor expired."""
        c = s.lease.c
        mine = (c.id == ident, c.ended.is_(None), c.expires > now)
        return bool(self._db.execute(update(s.lease).where(*mine).values(expires=expires)).rowcount)

    def end_leases(self, application: str, now: int, ident: str = "") -> int:
        """Those that stand, or that one of them; how many."""
        c = s.lease.c
        mine = [c.application == application, c.ended.is_(None), c.expires > now]
        if ident:
            mine.append(c.id == ident)
        return self._db.execute(update(s.lease).where(*mine).values(ended=now)).rowcount

    def leases(self, now: int, application: str = "", after: str = "", limit: int = 1000) -> list[LeaseRecord]:
        """Those that stand, by id."""
        c = s.lease.c
        query = select(s.lease).where(c.ended.is_(None), c.expires > now, c.id > after).order_by(c.id).limit(limit)
        if application:
            query = query.where(c.application == application)
        return [LeaseRecord(**row._mapping) for row in self._db.execute(query)]

    def forget_leases(self, before: int) -> int:
        """Some of those that were over by then; the trail keeps the reads."""
        c = s.lease.c
        over = select(c.id).where(or_(c.expires < before, c.ended < before)).limit(FORGET_AT_ONCE)
        return self._db.execute(delete(s.lease).where(c.id.in_(over))).rowcount

    # --- what is shared -----------------------------------------------------------------------------

    def usable(self, application: str, name: str, now: int) -> tuple[bool, int | None]:
        """Whether a share lets it use this secret, by name or by folder, and until when: None for without end."""
        ends = list(self._db.execute(_SHARED, _asking(application, name, now)).scalars())
        if not ends:
            return False, None
        return True, None if None in ends else max(end for end in ends if end is not None)

    def sealed(self, name: str) -> tuple[SecretRecord, SecretVersion] | None:
        """A secret by its name, with the version in force."""
        row = self._db.execute(_SEALED, {"name": name}).first()
        if row is None:
            return None
        values = tuple(row)
        record = SecretRecord(**dict(zip(_RECORD, values, strict=False)))
        return record, SecretVersion(**dict(zip(_VERSION, values[len(_RECORD) :], strict=True)))


# The statements of a read are built once: building one takes as long as SQLite does to answer it.


def _shared() -> list[ColumnElement[bool]]:
    """Of a share: that it gives `subject` the use of one of `scopes`, at `at`."""
    c = s.share.c
    return [
        c.subject_kind == "application", c.subject == bindparam("subject"),
        c.scope.in_(bindparam("scopes", expanding=True)), c.ended.is_(None),
        or_(c.expires.is_(None), c.expires > bindparam("now")), (" " + c.rights + " ").contains(" use "),
    ]  # fmt: skip


def _asking(application: str, name: str, now: int) -> dict[str, object]:
    folders = [name[: at + 1] for at, char in enumerate(name) if char == "/"]
    return {"subject": application, "scopes": [name, *folders], "now": now}


_SHARED: Final = select(s.share.c.expires).where(*_shared())
_LEASE: Final = tuple(column.name for column in s.lease.columns)
_LEASED: Final = insert(s.lease).from_select(
    _LEASE,
    select(*(bindparam(f"new_{column.name}", type_=column.type) for column in s.lease.columns)).where(
        exists().where(*_shared())
    ),
)
_RECORD: Final = tuple(one.name for one in fields(SecretRecord))
_VERSION: Final = tuple(one.name for one in fields(SecretVersion))
_SEALED: Final = (
    select(*(s.secret.c[one] for one in _RECORD), *(s.secret_version.c[one] for one in _VERSION))
    .join(s.secret_version, s.secret_version.c.secret == s.secret.c.id)
    .where(s.secret.c.name == bindparam("name"), s.secret_version.c.state == CURRENT)
)


def _row(record: Application | BrokerToken) -> dict[str, Any]:
    return asdict(record) | {"addresses": " ".join(record.addresses)}
