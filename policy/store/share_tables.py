"""Named secrets by who may see them, and what was lent to whom. On the connection of one transaction."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, insert, or_, select, update

from policy.records import SecretRecord, Share
from policy.store import schema as s

LIMIT: Final = 1000
"""Rows of one list: more do not fit one message."""
KEPT_KINDS: Final = ("generic", "password", "key")
"""Kinds of secrets that people keep under names of their own."""


class ShareTables:
    def __init__(self, connection: Connection) -> None:
        self._db = connection

    # --- shares -------------------------------------------------------------------------------------

    def add(self, share: Share) -> None:
        self._db.execute(insert(s.share).values(**asdict(share)))

    def share(self, ident: str) -> Share | None:
        found = self._shares(select(s.share).where(s.share.c.id == ident))
        return found[0] if found else None

    def end(self, ident: str, by: str, now: int) -> bool:
        """Compare and set: the first who does it stands."""
        mine = (s.share.c.id == ident, s.share.c.ended.is_(None))
        return bool(self._db.execute(update(s.share).where(*mine).values(ended=now, ended_by=by[:64])).rowcount)

    def about(self, scopes: Iterable[str]) -> list[Share]:
        """What was not ended of these very scopes. Who wants all that cover a secret names its folders, too."""
        return self._shares(select(s.share).where(s.share.c.ended.is_(None), s.share.c.scope.in_(list(scopes))))

    def within(self, folder: str) -> list[Share]:
        """What was not ended of a folder, and of all that lies in it."""
        inside = s.share.c.scope.startswith(folder, autoescape=True)
        return self._shares(select(s.share).where(s.share.c.ended.is_(None), inside))

    def with_subject(self, kind: str, name: str, roles: Iterable[str] = ()) -> list[Share]:
        """What was not ended of those with one person or application, and with these roles."""
        c = s.share.c
        whose = or_(
            and_(c.subject_kind == kind, c.subject == name),
            and_(c.subject_kind == "role", c.subject.in_(list(roles))),
        )
        return self._shares(select(s.share).where(c.ended.is_(None), whose))

    def made_by(self, person: str) -> list[Share]:
        return self._shares(select(s.share).where(s.share.c.ended.is_(None), s.share.c.made_by == person))

    def all(self, *, ended: bool = False) -> list[Share]:
        """Newest last; without `ended` those that were not ended, which may be over all the same."""
        query = select(s.share)
        return self._shares(query if ended else query.where(s.share.c.ended.is_(None)))

    # --- what people keep ---------------------------------------------------------------------------

    def named(self, prefix: str = "", *, after: str = "", limit: int = LIMIT) -> list[SecretRecord]:
        """Secrets with names of people's own, by name."""
        c = s.secret.c
        query = select(s.secret).where(c.kind.in_(KEPT_KINDS), c.name.contains("/"), c.name.not_like("%@%"))
        query = query.where(c.name.startswith(prefix, autoescape=True), c.name > after).order_by(c.name).limit(limit)
        return [SecretRecord(**row._mapping) for row in self._db.execute(query)]

    def owners_of(self, folder: str) -> set[str]:
        """Of all that lies in it."""
        c = s.secret.c
        query = select(c.owner).where(c.kind.in_(KEPT_KINDS), c.name.startswith(folder, autoescape=True)).distinct()
        return {row.owner for row in self._db.execute(query)}

    def owned_by(self, person: str) -> list[SecretRecord]:
        query = select(s.secret).where(s.secret.c.owner == person).order_by(s.secret.c.name)
        return [SecretRecord(**row._mapping) for row in self._db.execute(query)]

    def application(self, name: str) -> tuple[str, bool] | None:
        """Owner of an application, and whether it is disabled; None if there is none."""
        query = select(s.application.c.owner, s.application.c.disabled).where(s.application.c.name == name)
        row = self._db.execute(query).one_or_none()
        return (row.owner, row.disabled) if row is not None else None

    def _shares(self, query: Select[Any]) -> list[Share]:
        ordered = query.order_by(s.share.c.made, s.share.c.id)
        return [Share(**row._mapping) for row in self._db.execute(ordered)]
