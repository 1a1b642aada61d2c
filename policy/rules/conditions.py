"""The facts a decision rests on, and whether each condition of a rule holds for them. Pure."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

from policy.model import CHANNELS, ChannelKind
from policy.names import plain_address
from policy.rules.ruleset import Approval, Mfa, Rule
from policy.rules.windows import format_duration
from policy.rules.words import OWN_ACCOUNT, OWNER


class FactorKind(StrEnum):
    """Ways in which a person was proven."""

    KEY = "key"
    CERTIFICATE = "certificate"
    VERIFIED_KEY = "verified-key"  # security key that checked a PIN or a finger
    PASSWORD = "password"
    CODE = "code"  # one-time password
    TOKEN = "token"  # an access token: made by somebody who showed what the rule asks for


SECOND_FACTORS: Final = frozenset({FactorKind.CODE, FactorKind.VERIFIED_KEY})
"""What `mfa` in a rule asks for, and what is remembered. A token does for its own login, and is remembered nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """`age` counts to the session's authorisation: a session that lives does not lose its proof."""

    kind: FactorKind
    age: timedelta
    here: bool = True  # proven on this very connection


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalFact:
    """One person's yes. `roles` are those of that time; `counts` is false once the approver is disabled or gone."""

    approver: str
    roles: frozenset[str]
    owner: bool = False  # of the target, at that time
    given: bool = False  # gave the grant unasked: as owner or administrator, whom no rule needs to name
    counts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantFact:
    """A grant of this person for this account on this target that was not revoked; whether it counts, rules say."""

    id: str
    kinds: frozenset[ChannelKind]
    starts: datetime  # aware, as `ends`
    ends: datetime
    spent: bool = False  # no session more may begin with it
    approvals: tuple[ApprovalFact, ...] = ()
    break_glass: bool = False
    reason: str = ""
    ticket: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketFact:
    """What a ticket system said of a ticket, for this person and place."""

    system: str
    ticket: str
    ok: bool
    detail: str  # for people: what is wrong with it, or its title
    closes: datetime | None = None  # end of the change window


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a decision rests on, as the caller knows it now."""

    person: str
    roles: frozenset[str]
    account: str
    target: str
    labels: Mapping[str, str]
    now: datetime  # aware
    source: str  # address of the client
    channel: ChannelKind | None = None  # None: the session as a whole
    disabled: bool = False
    known: bool = True  # target and account have a record
    factors: tuple[Factor, ...] = ()
    ticket: str = ""
    reason: str = ""
    withheld: frozenset[ChannelKind] = frozenset()  # kinds that the person's certificate does not permit
    grants: tuple[GrantFact, ...] = ()
    using: str = ""  # the grant that the live session rests on: its use is counted already
    token: str = ""  # the grant whose secret logged this person in: nothing else is open to them
    tickets: tuple[TicketFact, ...] = ()  # of those in `ticket` and in the grants, as far as they were looked up


class Why(StrEnum):
    """Reason of a denial, a word for the audit trail."""

    NO_RULE = "no-rule"
    NO_TARGET = "no-target"
    DISABLED = "person-disabled"
    FORBIDDEN = "forbidden"
    WITHHELD = "withheld-by-certificate"
    MFA = "second-factor-needed"
    TICKET = "ticket-needed"
    REASON = "reason-needed"
    APPROVAL = "approval-needed"
    BREAK_GLASS = "glass-not-broken"
    TOKEN = "outside-of-token"
    CLOSED = "outside-of-hours"
    SOURCE = "outside-of-networks"
    CONFLICT = "rules-contradict"
    ERROR = "error-while-deciding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One condition of one rule against the facts."""

    name: str  # who, where, as, allow, from, when, require.*
    ok: bool
    detail: str
    why: Why | None = None  # what its failure tells; None: the rule is about somebody or something else
    grant: GrantFact | None = None  # by which it holds
    until: datetime | None = None  # after which it will not hold any more


def conditions(rule: Rule, facts: Facts) -> list[Check]:
    """Every condition that the rule sets, against the facts. Raises if the facts make no sense."""
    checks = [_who(rule, facts), _where(rule, facts), _as(rule, facts), _allow(rule, facts)]
    if rule.networks:
        address = plain_address(facts.source)
        inside = any(address in network for network in rule.networks)
        networks = ", ".join(map(str, rule.networks))
        checks.append(Check(name="from", ok=inside, detail=f"{address}, wants {networks}", why=Why.SOURCE))
    if rule.when is not None:
        open_now = rule.when.is_open(facts.now)
        until = rule.when.closes(facts.now) if open_now else None
        checks.append(Check(name="when", ok=open_now, detail=f"open {rule.when.text}", why=Why.CLOSED, until=until))
    need = rule.require
    if need.mfa is not None:
        checks.append(_mfa(need.mfa, facts.factors))
    if need.approval is not None:
        checks.append(_approval(need.approval, rule, facts))
    if rule.break_glass:
        checks.append(_broken_glass(rule, facts))
    grant = next((check.grant for check in checks if check.grant is not None), None)
    if need.reason:
        checks.append(_reason(facts, grant))
    if need.ticket:
        checks.append(_ticket(need.ticket, facts, grant))
    return checks


def concerns(rule: Rule, facts: Facts) -> bool:
    """Whether the conditions hold that make a rule one about this person, target, account and kind of channel."""
    return (
        who_holds(rule, facts)
        and as_holds(rule, facts)
        and _allow_holds(rule, facts)
        and misplaced(rule, facts) is None
    )


def who_holds(rule: Rule, facts: Facts) -> bool:
    who = rule.who
    if who is None or facts.person in who.persons or not facts.roles.isdisjoint(who.roles):
        return True
    return "*" in who.roles or "*" in who.persons


def _who(rule: Rule, facts: Facts) -> Check:
    ok = who_holds(rule, facts)
    if rule.who is None or "*" in rule.who.roles | rule.who.persons:
        return Check(name="who", ok=ok, detail="everybody")
    if facts.person in rule.who.persons:
        return Check(name="who", ok=ok, detail=f"person {facts.person}")
    wanted = [f"role {role}" for role in sorted(rule.who.roles)] + [f"person {p}" for p in sorted(rule.who.persons)]
    has = ", ".join(sorted(facts.roles)) or "no role"
    roles = ", ".join(sorted(rule.who.roles & facts.roles))
    return Check(name="who", ok=ok, detail=f"role {roles}" if ok else f"wants {' or '.join(wanted)}; has {has}")


def misplaced(rule: Rule, facts: Facts) -> str | None:
    """The label that the target lacks, "" if its name does not fit, None if it is the right place."""
    where = rule.where
    if where is None:
        return None
    if where.targets and not any(fnmatchcase(facts.target, pattern) for pattern in where.targets):
        return ""
    for name, values in where.labels:
        value = facts.labels.get(name)
        if value is None or not (value in values or "*" in values):
            return name
    return None


def _where(rule: Rule, facts: Facts) -> Check:
    wrong = misplaced(rule, facts)
    if rule.where is None:
        return Check(name="where", ok=wrong is None, detail="everywhere")
    if wrong == "":
        detail = f"`{facts.target}` is none of {', '.join(rule.where.targets)}"
    elif wrong is not None:
        value = facts.labels.get(wrong)
        has = "has no such label" if value is None else f"has `{value}`"
        wanted = " or ".join(sorted(dict(rule.where.labels)[wrong]))
        detail = f"label {wrong}: wants {wanted}; `{facts.target}` {has}"
    else:
        detail = ", ".join(f"{name}={facts.labels[name]}" for name, _ in rule.where.labels) or f"target {facts.target}"
    return Check(name="where", ok=wrong is None, detail=detail)


def as_holds(rule: Rule, facts: Facts) -> bool:
    accounts = rule.accounts
    if accounts is None or "*" in accounts or (OWN_ACCOUNT in accounts and facts.account == facts.person):
        return True
    return facts.account in accounts and facts.account != OWN_ACCOUNT


def _as(rule: Rule, facts: Facts) -> Check:
    ok = as_holds(rule, facts)
    if rule.accounts is None or "*" in rule.accounts:
        return Check(name="as", ok=ok, detail="every account")
    wanted = ", ".join(sorted(rule.accounts))
    return Check(
        name="as", ok=ok, detail=f"account {facts.account}" if ok else f"wants {wanted}; got `{facts.account}`"
    )


def _allow_holds(rule: Rule, facts: Facts) -> bool:
    # Attack: who may check a password out, and nothing else, opens a session with it.
    return facts.channel in rule.kinds if facts.channel is not None else not rule.kinds.isdisjoint(CHANNELS)


def _allow(rule: Rule, facts: Facts) -> Check:
    ok = _allow_holds(rule, facts)
    kinds = ", ".join(kind for kind in ChannelKind if kind in rule.kinds)
    if facts.channel is None:
        return Check(name="allow", ok=ok, detail=kinds)
    return Check(name="allow", ok=ok, detail=f"{facts.channel}" if ok else f"got {facts.channel}, rule has {kinds}")


def _mfa(need: Mfa, factors: Iterable[Factor]) -> Check:
    enough = SECOND_FACTORS | {FactorKind.TOKEN}
    proven = [factor for factor in factors if factor.kind in enough and factor.age >= timedelta()]
    if need.max_age is None:
        fresh = [factor for factor in proven if factor.here]
        wanted = "a code on this connection"
    else:
        fresh = [factor for factor in proven if factor.age <= need.max_age]
        wanted = f"a code at most {format_duration(need.max_age)} old"
    if fresh:
        best = min(fresh, key=lambda factor: factor.age)
        return Check(name="require.mfa", ok=True, detail=f"{best.kind}, {format_duration(best.age)} old")
    newest = min((factor.age for factor in proven), default=None)
    has = "none was entered" if newest is None else f"the newest is {format_duration(newest)} old"
    return Check(name="require.mfa", ok=False, detail=f"wants {wanted}, {has}", why=Why.MFA)


def _reason(facts: Facts, grant: GrantFact | None) -> Check:
    given = bool(facts.reason.strip()) or bool(grant and grant.reason.strip())
    detail = "a reason is given" if given else "no reason is given"
    return Check(name="require.reason", ok=given, detail=detail, why=Why.REASON)


def _ticket(system: str, facts: Facts, grant: GrantFact | None) -> Check:
    ticket = facts.ticket.strip() or (grant.ticket.strip() if grant else "")
    if not ticket:
        return Check(name="require.ticket", ok=False, detail=f"no ticket of `{system}` is given", why=Why.TICKET)
    fact = next((one for one in facts.tickets if (one.system, one.ticket) == (system, ticket)), None)
    if fact is None:
        detail = f"ticket `{ticket}` was not looked up in `{system}`"
        return Check(name="require.ticket", ok=False, detail=detail, why=Why.TICKET)
    ok = fact.ok and (fact.closes is None or facts.now < fact.closes)
    detail = fact.detail if fact.ok == ok else f"the change window of `{ticket}` is over"
    return Check(name="require.ticket", ok=ok, detail=detail, why=Why.TICKET, until=fact.closes)


def _approval(need: Approval, rule: Rule, facts: Facts) -> Check:
    """A grant that covers this moment and this kind, with as many yeses as the rule wants of those it names."""
    approved = [
        grant
        for grant in _covering(rule, facts)
        if not grant.break_glass and yeses(need, grant.approvals, {facts.person}) >= need.count
    ]
    if not approved:
        people = f"an approval by {need.count} of {' or '.join(need.by)}" if need.count else "a request for access"
        return Check(name="require.approval", ok=False, detail=f"wants {people}", why=Why.APPROVAL)
    best = max(approved, key=lambda grant: grant.ends)
    detail = f"grant {best.id} until {best.ends:%Y-%m-%d %H:%M} UTC"
    return Check(name="require.approval", ok=True, detail=detail, why=Why.APPROVAL, grant=best, until=best.ends)


def _broken_glass(rule: Rule, facts: Facts) -> Check:
    broken = [grant for grant in _covering(rule, facts) if grant.break_glass]
    if not broken:
        detail = "the glass was not broken"
        return Check(name="break-glass", ok=False, detail=detail, why=Why.BREAK_GLASS)
    best = max(broken, key=lambda grant: grant.ends)
    detail = f"broken with {best.id} until {best.ends:%Y-%m-%d %H:%M} UTC"
    return Check(name="break-glass", ok=True, detail=detail, why=Why.BREAK_GLASS, grant=best, until=best.ends)


def _covering(rule: Rule, facts: Facts) -> list[GrantFact]:
    return [
        grant
        for grant in facts.grants
        if covers(grant, facts) and (facts.channel is not None or not grant.kinds.isdisjoint(rule.kinds & CHANNELS))
    ]


def covers(grant: GrantFact, facts: Facts) -> bool:
    """Whether this grant holds for this moment and this kind of channel, with a use left or counted before."""
    return (
        grant.starts <= facts.now < grant.ends
        and (grant.id == facts.using if facts.using else not grant.spent)
        and (facts.channel is None or facts.channel in grant.kinds)
    )


def yeses(need: Approval, approvals: Iterable[ApprovalFact], asked_by: AbstractSet[str]) -> int:
    """How many of the persons a rule names said yes: each once, and never one of those who gain by it."""
    return len(
        {
            one.approver
            for one in approvals
            if one.counts and one.approver not in asked_by and (one.given or named(need, one.roles, owner=one.owner))
        }
    )


def named(need: Approval, roles: AbstractSet[str], *, owner: bool) -> bool:
    """Whether `approval.by` names somebody with these roles."""
    return not roles.isdisjoint(need.by) or "*" in need.by or (OWNER in need.by and owner)
