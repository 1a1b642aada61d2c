"""Passwords that people have, and had. On the connection of one transaction."""

from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from policy.records import Checkout
from policy.store import schema as s
from policy.store.conflict import Conflict

LIMIT: Final = 1000
"""Rows of one list: more do not fit one message."""


class CheckoutTables:
    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def add(self, checkout: Checkout) -> None:
        """Conflict if the account's password is out: of two at once one has it."""
        try:
            self._db.execute(insert(s.checkout).values(**asdict(checkout)))
        except IntegrityError:
            raise Conflict(f"the password of `{checkout.place}` is out") from None

    def give_back(self, ident: str, by: str, why: str, now: int) -> bool:
        """Compare and set: the first who does it, and the reason, stand."""
        mine = (s.checkout.c.id == ident, s.checkout.c.returned.is_(None))
        values = {"returned": now, "returned_by": by[:64], "returned_why": why[:512]}
        return bool(self._db.execute(update(s.checkout).where(*mine).values(**values)).rowcount)

    def out(self) -> list[Checkout]:
        """Those that nobody gave back, whether their time is over or not."""
        return self._checkouts(select(s.checkout).where(s.checkout.c.returned.is_(None)))

    def at(self, place: str) -> Checkout | None:
        """Who has the password of ACCOUNT@TARGET; None for any other name."""
        account, _, target = place.rpartition("@")
        row = self._db.execute(_AT, {"account": account, "target": target}).first()
        return None if row is None else Checkout(**row._mapping)

    def every(self, limit: int = LIMIT) -> list[Checkout]:
        """The newest."""
        return self._checkouts(select(s.checkout).limit(limit))

    def taken_back(self, person: str, since: int) -> list[Checkout]:
        """Those that this person had until somebody else, or policyd, brought them back; the newest first."""
        c = s.checkout.c
        query = select(s.checkout).where(c.person == person, c.returned >= since, c.returned_by != person)
        return self._checkouts(query)

    def still_known(self) -> list[Checkout]:
        """Those that came back while the password which was shown is still the one in force: they know it."""
        v = s.secret_version.c
        same = (s.secret.c.name == s.checkout.c.account + "@" + s.checkout.c.target, s.secret.c.id == v.secret)
        query = (
            select(s.checkout)
            .join(s.secret, same[0])
            .join(s.secret_version, same[1])
            .where(s.checkout.c.returned.is_not(None), v.state == "current", v.version == s.checkout.c.version)
            # An account that was removed and came back counts its versions anew: that password nobody was shown.
            .where(s.secret.c.created <= s.checkout.c.taken)
        )
        return self._checkouts(query)

    def _checkouts(self, query: Select[Any]) -> list[Checkout]:
        ordered = query.order_by(s.checkout.c.taken.desc(), s.checkout.c.id)
        return [Checkout(**row._mapping) for row in self._db.execute(ordered)]


# Asked at each read of an application, so built once.
_AT: Final = select(s.checkout).where(
    s.checkout.c.target == bindparam("target"), s.checkout.c.account == bindparam("account"),
    s.checkout.c.returned.is_(None),
)  # fmt: skip
