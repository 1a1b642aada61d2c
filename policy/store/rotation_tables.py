"""The journal of rotations. On the connection of one transaction."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from policy.records import RotationRow
from policy.store import schema as s

LIMIT: Final = 1000
"""Rows of one list: more do not fit one message."""
EVERY_OPEN: Final = 100_000
"""Rotations that are not ended: one for each account at most."""


class RotationTables:
    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def add(self, *rows: RotationRow) -> None:
        self._db.execute(insert(s.rotation), [asdict(row) for row in rows])

    def put(self, row: RotationRow) -> None:
        """The row as it is now. KeyError if there is none of this id."""
        values = asdict(row)
        ident = values.pop("id")
        if not self._db.execute(update(s.rotation).where(s.rotation.c.id == ident).values(**values)).rowcount:
            raise KeyError(ident)

    def open(self) -> list[RotationRow]:
        """All that are not ended, oldest first."""
        c = s.rotation.c
        query = select(s.rotation).where(c.ended.is_(None)).order_by(c.began, c.id).limit(EVERY_OPEN)
        return [RotationRow(**row._mapping) for row in self._db.execute(query)]

    def by_id(self, idents: Sequence[str]) -> list[RotationRow]:
        query = select(s.rotation).where(s.rotation.c.id.in_(idents)).order_by(s.rotation.c.id)
        return [RotationRow(**row._mapping) for row in self._db.execute(query)]

    def newest(
        self, *, after: tuple[int, str] | None = None, place: tuple[str, str] | None = None, ended: bool = True,
        limit: int = LIMIT,
    ) -> list[RotationRow]:  # fmt: skip
        """Newest first, those that follow the one of this time and id; of one target and account, if it is given."""
        c = s.rotation.c
        query = select(s.rotation).order_by(c.began.desc(), c.id.desc()).limit(limit)
        if after is not None:
            query = query.where(or_(c.began < after[0], and_(c.began == after[0], c.id < after[1])))
        if place is not None:
            query = query.where(c.target == place[0], c.account == place[1])
        if not ended:
            query = query.where(c.ended.is_(None))
        return [RotationRow(**row._mapping) for row in self._db.execute(query)]

    def forget(self, before: int) -> int:
        """Rows that ended before this time: the audit trail has them for longer."""
        gone = delete(s.rotation).where(s.rotation.c.ended.is_not(None), s.rotation.c.ended < before)
        return int(self._db.execute(gone).rowcount)

    def made(self) -> dict[tuple[str, str], int]:
        """When the secret in force of each account was made, by target and account."""
        a, v = s.account.c, s.secret_version.c
        joined = s.account.join(s.secret_version, and_(a.secret == v.secret, v.state == "current"))
        return {
            (target, name): made
            for target, name, made in self._db.execute(select(a.target, a.name, v.made).select_from(joined))
        }

    def last_ends(self) -> dict[tuple[str, str], int]:
        """When a session on each account ended last, by target and account; of people, not of policyd itself."""
        c = s.session.c
        query = select(c.target, c.account, func.max(c.ended)).where(c.via != MACHINE).group_by(c.target, c.account)
        return {(target, account): ended for target, account, ended in self._db.execute(query) if ended}


MACHINE: Final = "worker"
"""Way of a session that policyd itself has a worker open."""
