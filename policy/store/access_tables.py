"""Requests for access, the votes on them, the grants they lead to, and reviews. On the connection of one transaction.

Whatever must happen once is a compare-and-set: true for the one who did it, false for everybody after.
"""

from dataclasses import fields
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from policy.records import AccessGrant, AccessRequest, Review, Vote
from policy.store import schema as s
from policy.store.conflict import Conflict

LIMIT: Final = 1000
"""Rows of one list: more do not fit one message."""


class AccessTables:
    def __init__(self, connection: Connection) -> None:
        self._db = connection

    # --- requests and votes -------------------------------------------------------------------------

    def add_request(self, request: AccessRequest) -> None:
        values = {name: getattr(request, name) for name in _REQUEST}
        values |= {"kinds": _joined(request.kinds), "asked_by": _joined(request.asked_by)}
        self._db.execute(insert(s.request).values(**values))
        for vote in request.votes:
            self.add_vote(request.id, vote)

    def request(self, ident: str) -> AccessRequest | None:
        found = self._requests(select(s.request).where(s.request.c.id == ident))
        return found[0] if found else None

    def requests(self, *, all: bool = False, limit: int = LIMIT) -> list[AccessRequest]:  # noqa: A002 - the word of the command
        """Newest first; without `all` only those that wait."""
        query = select(s.request).order_by(s.request.c.asked.desc(), s.request.c.id).limit(limit)
        return self._requests(query if all else query.where(s.request.c.state == "pending"))

    def add_vote(self, request: str, vote: Vote) -> None:
        """Conflict if this person has voted already."""
        values = {name: getattr(vote, name) for name in _VOTE} | {"roles": _joined(vote.roles)}
        try:
            self._db.execute(insert(s.vote).values(request=request, **values))
        except IntegrityError:
            raise Conflict(f"`{vote.approver}` has decided already") from None

    def is_pending(self, ident: str) -> bool:
        query = select(s.request.c.state).where(s.request.c.id == ident)
        return bool(self._db.execute(query).scalar() == "pending")

    def close_request(self, ident: str, state: str, by: str, now: int) -> bool:
        """Compare and set: a request is closed once, and stays so."""
        mine = (s.request.c.id == ident, s.request.c.state == "pending")
        changed = update(s.request).where(*mine).values(state=state, closed=now, closed_by=by[:64])
        return bool(self._db.execute(changed).rowcount)

    def _requests(self, query: Select[Any]) -> list[AccessRequest]:
        rows = self._db.execute(query).all()
        votes = self._votes([row.id for row in rows])
        return [
            AccessRequest(
                **{
                    **row._mapping,
                    "kinds": frozenset(row.kinds.split()),
                    "asked_by": frozenset(row.asked_by.split()),
                    "votes": votes.get(row.id, ()),
                }
            )
            for row in rows
        ]

    def _votes(self, requests: list[str]) -> dict[str, tuple[Vote, ...]]:
        found: dict[str, tuple[Vote, ...]] = {}
        for at in range(0, len(requests), 500):  # SQLite takes at most 999 variables
            query = select(s.vote).where(s.vote.c.request.in_(requests[at : at + 500])).order_by(s.vote.c.at)
            for row in self._db.execute(query):
                values = {name: getattr(row, name) for name in _VOTE} | {"roles": frozenset(row.roles.split())}
                found[row.request] = (*found.get(row.request, ()), Vote(**values))
        return found

    # --- grants -------------------------------------------------------------------------------------

    def add_grant(self, grant: AccessGrant) -> None:
        values = {name: getattr(grant, name) for name in _GRANT} | {"kinds": _joined(grant.kinds)}
        self._db.execute(insert(s.access_grant).values(**values))

    def active_grants(self, now: int) -> list[AccessGrant]:
        """Neither revoked nor over at `now`, with the votes of their requests."""
        return self._grants(
            select(s.access_grant).where(s.access_grant.c.revoked.is_(None), s.access_grant.c.ends > now)
        )

    def grants(self, person: str = "", *, limit: int = LIMIT) -> list[AccessGrant]:
        """Of one person or all, those that are over too, newest first."""
        query = select(s.access_grant).order_by(s.access_grant.c.made.desc(), s.access_grant.c.id).limit(limit)
        return self._grants(query.where(s.access_grant.c.person == person) if person else query)

    def use_grant(self, ident: str, now: int) -> bool:
        """Compare and set: count one use; false if there is none left, or it is revoked, not begun, or over."""
        return bool(self._db.execute(_USE, {"ident": ident, "now": now}).rowcount)

    def return_use(self, ident: str) -> bool:
        """One use less, for a session that came to nothing. False for a grant that has none counted."""
        c = s.access_grant.c
        return bool(
            self._db.execute(update(s.access_grant).where(c.id == ident, c.used > 0).values(used=c.used - 1)).rowcount
        )

    def take_uses(self, ident: str, number: int, now: int) -> bool:
        """Compare and set: hand `number` uses on to another grant; only where uses are counted."""
        c = s.access_grant.c
        mine = (c.id == ident, c.revoked.is_(None), c.ends > now, c.uses > 0, c.used + number <= c.uses)
        return bool(self._db.execute(update(s.access_grant).where(*mine).values(used=c.used + number)).rowcount)

    def revoke_grant(self, ident: str, by: str, why: str, now: int) -> bool:
        """Compare and set: the first who does it, and the reason, stand."""
        mine = (s.access_grant.c.id == ident, s.access_grant.c.revoked.is_(None))
        values = {"revoked": now, "revoked_by": by[:64], "revoked_why": why}
        return bool(self._db.execute(update(s.access_grant).where(*mine).values(**values)).rowcount)

    def _grants(self, query: Select[Any]) -> list[AccessGrant]:
        rows = self._db.execute(query).all()
        votes = self._votes([row.request for row in rows if row.request])
        return [
            AccessGrant(
                **{**row._mapping, "kinds": frozenset(row.kinds.split()), "votes": votes.get(row.request or "", ())}
            )
            for row in rows
        ]

    # --- reviews ------------------------------------------------------------------------------------

    def add_review(self, grant: str, now: int) -> None:
        """One is owed from now on."""
        self._db.execute(insert(s.review).values(grant=grant, opened=now, written=None, author="", text=""))

    def write_review(self, grant: str, author: str, text: str, now: int) -> bool:
        """Compare and set: written once."""
        mine = (s.review.c.grant == grant, s.review.c.written.is_(None))
        changed = update(s.review).where(*mine).values(written=now, author=author[:64], text=text)
        return bool(self._db.execute(changed).rowcount)

    def reviews(self, *, all: bool = False, limit: int = LIMIT) -> list[Review]:  # noqa: A002 - the word of the command
        """Oldest first; without `all` those that are still owed."""
        query = select(s.review).order_by(s.review.c.opened).limit(limit)
        rows = self._db.execute(query if all else query.where(s.review.c.written.is_(None))).all()
        names = [row.grant for row in rows]
        grants: dict[str, AccessGrant] = {}
        for at in range(0, len(names), 500):
            wanted = select(s.access_grant).where(s.access_grant.c.id.in_(names[at : at + 500]))
            grants |= {grant.id: grant for grant in self._grants(wanted)}
        return [
            Review(grant=grants[row.grant], opened=row.opened, written=row.written, author=row.author, text=row.text)
            for row in rows
        ]


def _joined(words: frozenset[str]) -> str:
    return " ".join(sorted(words))


_REQUEST: Final = tuple(field.name for field in fields(AccessRequest) if field.name != "votes")
_VOTE: Final = tuple(field.name for field in fields(Vote))
_GRANT: Final = tuple(field.name for field in fields(AccessGrant) if field.name != "votes")
_USE: Final = (
    update(s.access_grant)
    .where(
        s.access_grant.c.id == bindparam("ident"),
        s.access_grant.c.revoked.is_(None),
        s.access_grant.c.starts <= bindparam("now"),
        s.access_grant.c.ends > bindparam("now"),
        or_(s.access_grant.c.uses == 0, s.access_grant.c.used < s.access_grant.c.uses),
    )
    .values(used=s.access_grant.c.used + 1)
)
