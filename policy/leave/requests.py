"""One request for access: what may be asked, who may decide, what the votes come to, what is granted. Pure.

    pending --enough approvals--> approved      pending --one denial--> denied
    pending --taken back--------> cancelled     pending --waited too long--> expired

A request is for one rule, which says how many of whom have to approve, for how long at most, and how long they may
take. Votes are judged by the rule as it stands when they are given, and a grant again at each use (`conditions`).
Times are nanoseconds since the epoch.
"""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Final

from policy.model import CHANNELS, ChannelKind
from policy.naming import CommandRefused, instant
from policy.records import AccessGrant, AccessRequest, Vote
from policy.rules.conditions import ApprovalFact, Facts, Why, concerns, conditions, named, yeses
from policy.rules.ruleset import LONGEST, Approval, Effect, Rule, RuleSet
from policy.rules.windows import format_duration
from policy.rules.words import GIVEN, OWNER

SECOND: Final = 1_000_000_000
MAX_USES: Final = 1000
"""Sessions of one grant that are counted; for more than that, let them be uncounted."""
MAX_AHEAD: Final = timedelta(days=90)
"""How far ahead a start may lie: change windows are planned by the quarter."""
MAX_SECONDS: Final = 366 * 86_400
"""Of any grant, whatever a rule says: what is for ever belongs into a rule."""
MAX_TEXT: Final = 500
"""Characters of a reason, a comment, a ticket: they stand in lists, mails and the trail."""
MAX_TICKET: Final = 128
PENDING_EACH: Final = 20
"""Open requests of one person: more cannot be meant, and each is shown to every approver."""


class State(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Beside(Exception):
    """No rule would let this person in with a grant: `allowed`, or not entitled at all."""

    def __init__(self, *, allowed: bool) -> None:
        super().__init__("allowed without" if allowed else "not allowed with it")
        self.allowed = allowed


# --- asking -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody asks for, as far as it makes sense by itself."""

    kinds: frozenset[ChannelKind]  # empty: all that the rule gives, and no password
    start: int | None  # None: as soon as it is granted
    seconds: int  # 0: the most that the rule gives
    uses: int  # 0: any number
    reason: str
    ticket: str

    @classmethod
    def of(
        cls, *, kinds: Iterable[str], start: str, seconds: int, uses: int, reason: str, ticket: str = "", now: int
    ) -> "Wish":
        """From a message. CommandRefused says what is wrong with it."""
        when = instant(start) if start else None
        if when is not None and not now <= when <= now + MAX_AHEAD // timedelta(microseconds=1) * 1000:
            raise CommandRefused(
                f"start `{text(start, 'start', 40)}` is over, or more than {MAX_AHEAD.days} days ahead"
            )
        if not 0 <= seconds <= MAX_SECONDS:
            raise CommandRefused(f"{seconds} seconds, want 1 to {MAX_SECONDS}, or 0 for the most there is")
        if not 0 <= uses <= MAX_USES:
            raise CommandRefused(f"{uses} uses, want 1 to {MAX_USES}, or 0 for any number")
        wanted = channel_kinds(kinds)
        if ChannelKind.CHECKOUT in wanted and len(wanted) > 1:
            raise CommandRefused("a password is asked for by itself", "ask twice: once with --kinds checkout alone")
        return cls(
            kinds=wanted, start=when, seconds=seconds, uses=uses,
            reason=text(reason, "reason"), ticket=text(ticket, "ticket", MAX_TICKET),
        )  # fmt: skip


def asks_about(kinds: AbstractSet[str]) -> ChannelKind | None:
    """The kind that rules are looked at for: a password is no part of a session, and has rules of its own."""
    return ChannelKind.CHECKOUT if set(kinds) == {ChannelKind.CHECKOUT} else None


def channel_kinds(words: Iterable[str]) -> frozenset[ChannelKind]:
    try:
        return frozenset(ChannelKind(word) for word in words)
    except ValueError as error:
        raise CommandRefused(f"channel kind {error}"[:120], f"one of {', '.join(ChannelKind)}") from None


def text(words: str, what: str, most: int = MAX_TEXT) -> str:
    """One printable line; the rest of what people might send is refused and not bent."""
    words = words.strip()
    if len(words) > most:
        raise CommandRefused(f"{what} has {len(words)} characters, at most {most}")
    if not words.isprintable():
        raise CommandRefused(f"{what} holds a character that cannot be printed")
    return words


def rule_for(
    rules: RuleSet, facts: Facts, kinds: AbstractSet[ChannelKind], *, glass: bool, anywhere: bool = False
) -> Rule:
    """The first rule that a grant would fulfil for what is asked. Beside if there is none.

    `anywhere`: whoever gives it does not know from where it will be used.
    """
    about = [rule for rule in rules.rules if facts.known and not facts.disabled and concerns(rule, facts)]
    failed = {rule.name: [check.why for check in conditions(rule, facts) if not check.ok] for rule in about}
    forbidden = frozenset[ChannelKind]().union(
        *(rule.kinds for rule in about if rule.effect is Effect.FORBID and not failed[rule.name])
    )
    free = False
    for rule in about:
        # Out of its networks a rule tells nothing, as in `decide`.
        if rule.effect is Effect.FORBID or (Why.SOURCE in failed[rule.name] and not anywhere):
            continue
        gives = rule.kinds - forbidden
        if not gives or not kinds <= gives:
            continue
        if rule.break_glass if glass else rule.require.approval is not None:
            return rule
        free |= not rule.break_glass and rule.require.approval is None
    raise Beside(allowed=free)


def drawn_up(
    wish: Wish,
    rule: Rule,
    facts: Facts,
    *,
    ident: str,
    now: int,
    asked_by: AbstractSet[str],
    votes: tuple[Vote, ...] = (),
) -> AccessRequest:
    """The request as it is kept. CommandRefused if it asks for more than the rule can give."""
    need = need_of(rule)
    longest = int(need.longest.total_seconds())
    if wish.seconds > longest:
        asked, most = format_duration(timedelta(seconds=wish.seconds)), format_duration(need.longest)
        raise CommandRefused(f"{asked} is too long for this: at most {most}", f"ask for less: --for {most}")
    if not wish.reason:
        raise CommandRefused(
            "a reason is needed: whoever decides reads it, and the audit trail keeps it", "--reason why"
        )
    if rule.require.ticket and not wish.ticket:
        raise CommandRefused(f"a ticket of `{rule.require.ticket}` is needed", "--ticket ID", need="ticket")
    seconds = wish.seconds or longest
    starts = now if wish.start is None else wish.start
    expires = now + need.wait // timedelta(microseconds=1) * 1000
    if wish.start is not None:
        expires = min(expires, starts + seconds * SECOND)  # leave for an hour that has passed is worth nothing
    return AccessRequest(
        id=ident, person=facts.person, account=facts.account, target=facts.target,
        kinds=frozenset(wish.kinds or rule.kinds & CHANNELS), starts=starts, seconds=seconds, uses=wish.uses,
        ticket=wish.ticket, reason=wish.reason, rule=rule.name, source=facts.source, asked_by=frozenset(asked_by),
        asked=now, expires=expires, votes=votes,
    )  # fmt: skip


def need_of(rule: Rule) -> Approval:
    """What a rule demands of a request; a glass is broken by oneself, for a working day at most."""
    return rule.require.approval or Approval(by=(), count=0, longest=min(rule.session or LONGEST, LONGEST))


def same(one: AccessRequest, other: AccessRequest) -> bool:
    """Whether one asks what the other asks: a message that came twice, or an impatient person."""
    ignored = {"id": "", "asked": 0, "expires": 0, "votes": (), "source": "", "state": "", "asked_by": frozenset()}
    fixed = one.starts > one.asked, other.starts > other.asked
    if fixed[0] != fixed[1]:
        return False
    if not any(fixed):
        ignored["starts"] = 0
    return replace(one, **ignored) == replace(other, **ignored)  # type: ignore[arg-type]


# --- deciding ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Approver:
    """Who wants to decide. `names` are all the persons that this one may be: by key, or by login on this machine."""

    name: str
    names: frozenset[str]
    roles: frozenset[str]
    owner: bool = False  # of the target
    approves: bool = True  # has the right to approve

    @property
    def marked(self) -> frozenset[str]:
        """The roles as a vote keeps them."""
        return self.roles | {OWNER} if self.owner else self.roles


def objection(request: AccessRequest, need: Approval, who: Approver, now: int) -> str:
    """Why this one may not decide this request, or nothing."""
    if request.state != State.PENDING:
        return f"request `{request.id}` is {request.state} already"
    if now >= request.expires:
        return f"request `{request.id}` has waited too long"
    if who.names & behind(request):
        return "nobody decides what they asked for themselves, under whatever name"
    if any(vote.approver == who.name for vote in request.votes):
        return "you have decided already"
    if not who.approves or not named(need, who.roles, owner=who.owner):
        return f"you are not among those who decide this: {' or '.join(need.by)}"
    return ""


def behind(request: AccessRequest) -> frozenset[str]:
    """Persons who gain by a request or stand behind it."""
    return request.asked_by | {request.person}


def tally(request: AccessRequest, need: Approval, counts: Callable[[str], bool]) -> State:
    """What the votes come to. `counts`: whether a person's vote still does (not once they are disabled or gone)."""
    if any(not vote.approve for vote in request.votes):
        return State.DENIED
    enough = yeses(need, approvals(request.votes, counts), behind(request)) >= need.count
    return State.APPROVED if enough else State.PENDING


def missing(request: AccessRequest, need: Approval, counts: Callable[[str], bool]) -> int:
    return max(0, need.count - yeses(need, approvals(request.votes, counts), behind(request)))


def approvals(votes: Iterable[Vote], counts: Callable[[str], bool]) -> tuple[ApprovalFact, ...]:
    """The yeses among the votes, as a decision looks at them."""
    return tuple(
        ApprovalFact(
            approver=vote.approver, roles=vote.roles - {OWNER, GIVEN}, owner=OWNER in vote.roles,
            given=GIVEN in vote.roles, counts=counts(vote.approver),
        )
        for vote in votes
        if vote.approve
    )  # fmt: skip


def granted(
    request: AccessRequest, need: Approval,
    *, ident: str, now: int, by: str, glass: bool = False, token: bytes | None = None,
) -> AccessGrant:  # fmt: skip
    """What an approved request leads to: from its own start, else from now on."""
    fixed = request.starts > request.asked
    starts = max(now, request.starts) if fixed else now
    seconds = min(request.seconds, int(need.longest.total_seconds()))  # the rule may have become stricter meanwhile
    ends = (request.starts if fixed else now) + seconds * SECOND
    return AccessGrant(
        id=ident, request=request.id, person=request.person, account=request.account, target=request.target,
        kinds=request.kinds, starts=starts, ends=ends, uses=request.uses, ticket=request.ticket,
        reason=request.reason, made=now, made_by=by, break_glass=glass, token=token, votes=request.votes,
    )  # fmt: skip


def owns(scopes: Iterable[str], target: str, labels: Mapping[str, str]) -> bool:
    """Whether one of these scopes (a target, `label=value`, `*`) takes the target in."""
    return any(
        scope in ("*", target) or ("=" in scope and labels.get(scope.partition("=")[0]) == scope.partition("=")[2])
        for scope in scopes
    )
