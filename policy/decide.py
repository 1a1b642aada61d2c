"""May this person do this, here, now? One pure function over the rules and the facts.

Forbid wins over allow; nothing that matches is a denial; an error while deciding is a denial. A rule matches when
each of its conditions holds. `explain` shows the very conditions that `decide` looks at, so they cannot disagree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

from policy.model import ChannelKind
from policy.names import plain_address
from policy.rules import OWN_ACCOUNT, Approval, Effect, Mfa, Rule, RuleSet
from policy.windows import format_duration


class FactorKind(StrEnum):
    """Ways in which a person was proven."""

    KEY = "key"
    CERTIFICATE = "certificate"
    VERIFIED_KEY = "verified-key"  # security key that checked a PIN or a finger
    PASSWORD = "password"
    CODE = "code"  # one-time password


SECOND_FACTORS: Final = frozenset({FactorKind.CODE, FactorKind.VERIFIED_KEY})
"""What `mfa` in a rule asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """`age` counts to the session's authorisation: a session that lives does not lose its proof."""

    kind: FactorKind
    age: timedelta
    here: bool = True  # proven on this very connection


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
    CLOSED = "outside-of-hours"
    SOURCE = "outside-of-networks"
    ERROR = "error-while-deciding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    why: Why
    text: str
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """What a grant may carry. `rule` is the first of `rules`, all of which matched."""

    rule: str
    rules: tuple[str, ...]
    kinds: frozenset[ChannelKind]
    expires_in: timedelta | None  # tightest of session limits and of closing hours
    idle: timedelta | None
    record_sync: bool
    keep_content: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """`causes` has at least one, the most telling first."""

    causes: tuple[Cause, ...]


Decision = Allow | Deny


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One condition of one rule against the facts."""

    name: str  # who, where, as, allow, from, when, require.*
    ok: bool
    detail: str
    why: Why | None = None  # what its failure tells; None: the rule is about somebody or something else


EXPLAIN_COLUMNS: Final = ("rule", "line", "effect", "condition", "holds", "detail")


def decide(rules: RuleSet, facts: Facts) -> Decision:
    """Allow with what the grant carries, or Deny with the causes. Never raises."""
    try:
        return _decide(rules, facts)
    except Exception as error:
        # INVARIANT: any error while deciding is a denial; the type alone, since the text might quote secrets.
        return Deny(causes=(Cause(why=Why.ERROR, text=f"{type(error).__name__} while deciding"),))


def explain(rules: RuleSet, facts: Facts) -> list[list[str]]:
    """Rows under EXPLAIN_COLUMNS: each condition of each rule, then the decision. Raises nothing."""
    try:
        rows = [
            [rule.name, str(rule.line), rule.effect.value, check.name, "yes" if check.ok else "no", check.detail]
            for rule in rules.rules
            for check in conditions(rule, facts)
        ]
    except Exception as error:
        rows = [["", "", "", "error", "no", f"{type(error).__name__} while deciding"]]
    match decide(rules, facts):
        case Allow() as allow:
            rows.append(["", "", "allow", "decision", "yes", _summary(allow)])
        case Deny(causes=causes):
            rows += [[cause.rule, "", "deny", "decision", "no", f"{cause.why}: {cause.text}"] for cause in causes]
    return rows


def denial_for_person(denial: Deny, facts: Facts) -> tuple[str, str]:
    """Cause and hint. Whoever is not entitled learns nothing: no rule, no target, forbidden, disabled look alike."""
    cause = denial.causes[0]
    where = f"`{facts.account}` on `{facts.target}`"
    match cause.why:
        case Why.MFA:
            return f"{where} needs a second factor: {cause.text}", "log in again and enter a new code"
        case Why.REASON:
            return f"{where} needs a reason", "add: -o SetEnv=BASTION_REASON=why"
        case Why.TICKET | Why.APPROVAL:
            return f"{where} needs more: {cause.text}", "ask an administrator of this bastion"
        case Why.CLOSED:
            return f"{where} is not open now: {cause.text}", "try again within these hours"
        case Why.ERROR:
            return "the decision failed", "ask an administrator of this bastion, and name the id"
        case _ if facts.channel is not None and facts.known:
            return f"`{facts.channel}` is not allowed for {where}", "ask an administrator of this bastion"
        case _:
            return f"{where} is not allowed or does not exist", "list what you may use: ssh bastion ls"


def denial_for_audit(denial: Deny) -> str:
    """Every cause with its rule, on one line."""
    return "; ".join(
        f"{cause.why}: {f'rule `{cause.rule}`: ' if cause.rule else ''}{cause.text}" for cause in denial.causes
    )


# --- deciding ---------------------------------------------------------------------------------------


def _decide(rules: RuleSet, facts: Facts) -> Decision:
    if facts.now.utcoffset() is None:
        raise ValueError("time without a zone")
    if facts.disabled:
        return _deny(Why.DISABLED, f"person `{facts.person}` is disabled")
    if not facts.known:
        return _deny(Why.NO_TARGET, f"`{facts.account}` on `{facts.target}` has no record")
    # Most rules are about somebody or something else, which is cheap to see; only the others are looked at closely.
    checked = [(rule, conditions(rule, facts)) for rule in rules.rules if _concerns(rule, facts)]
    matching = [rule for rule, checks in checked if all(check.ok for check in checks)]
    allowing = [rule for rule in matching if rule.effect is Effect.ALLOW]
    forbidding = [rule for rule in matching if rule.effect is Effect.FORBID]
    asked = frozenset({facts.channel}) if facts.channel is not None else frozenset(ChannelKind)
    if not allowing:
        return Deny(causes=_misses(checked, asked, forbidding))
    offered = frozenset().union(*(rule.kinds for rule in allowing)) & asked
    forbidden = frozenset().union(*(rule.kinds for rule in forbidding))
    if not (left := offered - forbidden):
        return Deny(causes=tuple(_cause_of_forbid(rule) for rule in forbidding))
    if not (left := left - facts.withheld):
        return _deny(Why.WITHHELD, "the certificate of the person does not permit this")
    return Allow(
        rule=allowing[0].name,
        rules=tuple(rule.name for rule in allowing),
        kinds=left,
        expires_in=_tightest(
            [*(rule.session for rule in allowing), *(_until_closing(rule, facts) for rule in allowing)]
        ),
        idle=_tightest(rule.idle for rule in allowing),
        record_sync=any(rule.record_sync for rule in allowing),
        keep_content=any(rule.keep_content for rule in allowing),
    )


def _deny(why: Why, text: str) -> Deny:
    return Deny(causes=(Cause(why=why, text=text),))


def _cause_of_forbid(rule: Rule) -> Cause:
    return Cause(why=Why.FORBIDDEN, text="forbidden by this rule", rule=rule.name)


def _misses(
    checked: Sequence[tuple[Rule, Sequence[Check]]], asked: frozenset[ChannelKind], forbidding: Sequence[Rule]
) -> tuple[Cause, ...]:
    """Why no rule allows: rules that are about this person, account and target but lack something, nearest first."""
    forbidden = frozenset().union(*(rule.kinds for rule in forbidding))
    found: list[tuple[bool, int, list[Cause]]] = []
    for rule, checks in checked:
        failed = [check for check in checks if not check.ok]
        if rule.effect is Effect.FORBID or any(check.why is None for check in failed):
            continue
        if not rule.kinds & asked - forbidden:
            found.append((True, 0, [_cause_of_forbid(other) for other in forbidding]))
            continue
        causes = [Cause(why=check.why, text=check.detail, rule=rule.name) for check in failed if check.why]
        # Out of its networks a rule tells nothing else: a thief of a key must not learn where to try it.
        causes.sort(key=lambda cause: cause.why is not Why.SOURCE)
        found.append((causes[0].why is Why.SOURCE, len(causes), causes))
    found.sort(key=lambda entry: entry[:2])
    return tuple(cause for _, _, causes in found for cause in causes) or (
        Cause(why=Why.NO_RULE, text="no rule allows it"),
    )


def _until_closing(rule: Rule, facts: Facts) -> timedelta | None:
    closing = rule.when.closes(facts.now) if rule.when else None
    return closing - facts.now if closing else None


def _tightest(limits: Iterable[timedelta | None]) -> timedelta | None:
    return min((limit for limit in limits if limit is not None), default=None)


# --- conditions -------------------------------------------------------------------------------------


def conditions(rule: Rule, facts: Facts) -> list[Check]:
    """Every condition that the rule sets, against the facts. Raises if the facts make no sense."""
    checks = [_who(rule, facts), _where(rule, facts), _as(rule, facts), _allow(rule, facts)]
    if rule.networks:
        address = plain_address(facts.source)
        inside = any(address in network for network in rule.networks)
        networks = ", ".join(map(str, rule.networks))
        checks.append(Check(name="from", ok=inside, detail=f"{address}, wants {networks}", why=Why.SOURCE))
    if rule.when is not None:
        checks.append(
            Check(name="when", ok=rule.when.is_open(facts.now), detail=f"open {rule.when.text}", why=Why.CLOSED)
        )
    need = rule.require
    if need.mfa is not None:
        checks.append(_mfa(need.mfa, facts.factors))
    if need.reason:
        given = bool(facts.reason.strip())
        checks.append(
            Check(
                name="require.reason",
                ok=given,
                detail="a reason is given" if given else "no reason is given",
                why=Why.REASON,
            )
        )
    if need.ticket:
        detail = f"a ticket of `{need.ticket}` cannot be checked: this bastion is connected to no ticket system"
        checks.append(Check(name="require.ticket", ok=False, detail=detail, why=Why.TICKET))
    if need.approval is not None:
        checks.append(_approval(need.approval))
    return checks


def _concerns(rule: Rule, facts: Facts) -> bool:
    """Whether the conditions hold that make a rule one about this person, target, account and kind of channel."""
    return (
        _who_holds(rule, facts)
        and _as_holds(rule, facts)
        and _allow_holds(rule, facts)
        and _misplaced(rule, facts) is None
    )


def _who_holds(rule: Rule, facts: Facts) -> bool:
    who = rule.who
    if who is None or facts.person in who.persons or not facts.roles.isdisjoint(who.roles):
        return True
    return "*" in who.roles or "*" in who.persons


def _who(rule: Rule, facts: Facts) -> Check:
    ok = _who_holds(rule, facts)
    if rule.who is None or "*" in rule.who.roles | rule.who.persons:
        return Check(name="who", ok=ok, detail="everybody")
    if facts.person in rule.who.persons:
        return Check(name="who", ok=ok, detail=f"person {facts.person}")
    wanted = [f"role {role}" for role in sorted(rule.who.roles)] + [f"person {p}" for p in sorted(rule.who.persons)]
    has = ", ".join(sorted(facts.roles)) or "no role"
    roles = ", ".join(sorted(rule.who.roles & facts.roles))
    return Check(name="who", ok=ok, detail=f"role {roles}" if ok else f"wants {' or '.join(wanted)}; has {has}")


def _misplaced(rule: Rule, facts: Facts) -> str | None:
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
    wrong = _misplaced(rule, facts)
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


def _as_holds(rule: Rule, facts: Facts) -> bool:
    accounts = rule.accounts
    if accounts is None or "*" in accounts or (OWN_ACCOUNT in accounts and facts.account == facts.person):
        return True
    return facts.account in accounts and facts.account != OWN_ACCOUNT


def _as(rule: Rule, facts: Facts) -> Check:
    ok = _as_holds(rule, facts)
    if rule.accounts is None or "*" in rule.accounts:
        return Check(name="as", ok=ok, detail="every account")
    wanted = ", ".join(sorted(rule.accounts))
    return Check(
        name="as", ok=ok, detail=f"account {facts.account}" if ok else f"wants {wanted}; got `{facts.account}`"
    )


def _allow_holds(rule: Rule, facts: Facts) -> bool:
    return facts.channel in rule.kinds if facts.channel is not None else bool(rule.kinds)


def _allow(rule: Rule, facts: Facts) -> Check:
    ok = _allow_holds(rule, facts)
    kinds = ", ".join(kind for kind in ChannelKind if kind in rule.kinds)
    if facts.channel is None:
        return Check(name="allow", ok=ok, detail=kinds)
    return Check(name="allow", ok=ok, detail=f"{facts.channel}" if ok else f"got {facts.channel}, rule has {kinds}")


def _mfa(need: Mfa, factors: Iterable[Factor]) -> Check:
    proven = [factor for factor in factors if factor.kind in SECOND_FACTORS and factor.age >= timedelta()]
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


def _approval(need: Approval) -> Check:
    people = f"{need.count} of {' or '.join(need.by)}"
    detail = f"an approval by {people} cannot be given: this bastion takes no approvals"
    return Check(name="require.approval", ok=False, detail=detail, why=Why.APPROVAL)


def _summary(allow: Allow) -> str:
    words = [", ".join(kind for kind in ChannelKind if kind in allow.kinds)]
    if allow.expires_in is not None:
        words.append(f"for {format_duration(allow.expires_in)}")
    if allow.idle is not None:
        words.append(f"idle {format_duration(allow.idle)}")
    return f"{' '.join(words)} by {', '.join(f'`{name}`' for name in allow.rules)}"
