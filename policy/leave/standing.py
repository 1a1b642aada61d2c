"""Grants and open requests in memory: what every decision reads beside the roster. Pure.

The database stays the truth, and alone counts uses. What was seen to be over stays over, whatever the clock says then.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from policy.leave.requests import approvals
from policy.model import ChannelKind
from policy.records import AccessGrant, AccessRequest
from policy.rules.conditions import GrantFact
from policy.store import Tables

OPERATOR: Final = "operator "
"""How the name of an operator begins; no person's name holds a blank."""

Place = tuple[str, str, str]  # person, account, target


class Standing:
    """Grants that are neither revoked nor over, and requests that wait."""

    def __init__(self, grants: Iterable[AccessGrant] = (), requests: Iterable[AccessRequest] = ()) -> None:
        self.requests = {request.id: request for request in requests}
        self._grants: dict[str, AccessGrant] = {}
        self._places: dict[Place, dict[str, None]] = {}
        self._tokens: dict[bytes, str] = {}
        self._over: set[str] = set()  # seen to have ended, and not yet dropped
        self.wake: Callable[[], None] = lambda: None
        """Called when there is one more whose end is to be waited for."""
        for grant in grants:
            self.put(grant)

    def put(self, grant: AccessGrant) -> None:
        self._grants[grant.id] = grant
        self._places.setdefault(_place(grant), {})[grant.id] = None
        if grant.token is not None:
            self._tokens[grant.token] = grant.id
        self.wake()

    def ask(self, request: AccessRequest) -> None:
        """It waits for votes, or has one more."""
        self.requests[request.id] = request
        self.wake()

    def drop(self, ident: str) -> AccessGrant | None:
        """It was revoked, or is over."""
        self._over.discard(ident)
        grant = self._grants.pop(ident, None)
        if grant is not None:
            of_place = self._places[_place(grant)]
            del of_place[ident]
            if not of_place:
                del self._places[_place(grant)]
            if grant.token is not None:
                del self._tokens[grant.token]
        return grant

    def used(self, ident: str, number: int = 1) -> None:
        """The database has counted uses."""
        if (grant := self._grants.get(ident)) is not None:
            self._grants[ident] = replace(grant, used=grant.used + number)

    def get(self, ident: str) -> AccessGrant | None:
        return self._grants.get(ident)

    def by_token(self, digest: bytes) -> AccessGrant | None:
        return self._grants.get(self._tokens.get(digest, ""))

    def of_person(self, person: str) -> list[AccessGrant]:
        return [grant for grant in self._grants.values() if grant.person == person]

    def at(self, person: str, account: str, target: str) -> list[AccessGrant]:
        return [self._grants[ident] for ident in self._places.get((person, account, target), ())]

    def all(self) -> list[AccessGrant]:
        return list(self._grants.values())

    def over(self, now: int) -> list[AccessGrant]:
        """Those that have ended at `now`, or were seen to have, and are still here."""
        self._over |= {grant.id for grant in self._grants.values() if grant.ends <= now}
        return [self._grants[ident] for ident in self._over]

    def requests_of(self, person: str) -> list[AccessRequest]:
        return [request for request in self.requests.values() if request.person == person]

    def next_end(self) -> int | None:
        return min((grant.ends for grant in self._grants.values()), default=None)

    def facts(
        self, person: str, account: str, target: str, now: int, counts: Callable[[str], bool], *, token: str = ""
    ) -> tuple[GrantFact, ...]:
        """What decisions know of a person's grants for a place; by a token, that one alone and otherwise none such."""
        if not (of_place := self.at(person, account, target)):
            return ()
        self._over |= {grant.id for grant in of_place if grant.ends <= now}
        return tuple(
            GrantFact(
                id=grant.id,
                kinds=frozenset(ChannelKind(kind) for kind in grant.kinds),
                starts=moment(grant.starts),
                ends=moment(grant.ends),
                spent=0 < grant.uses <= grant.used,
                approvals=approvals(grant.votes, counts),
                break_glass=grant.break_glass,
                reason=grant.reason,
                ticket=grant.ticket,
            )
            for grant in of_place
            if grant.id not in self._over and (grant.id == token if token else grant.token is None)
        )


def load(tables: Tables, now: int) -> Standing:
    """Everything, at start."""
    return Standing(tables.access.active_grants(now), tables.access.requests(limit=100_000))


def moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def _place(grant: AccessGrant) -> Place:
    return grant.person, grant.account, grant.target
