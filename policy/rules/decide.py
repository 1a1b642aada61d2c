"""May this person do this, here, now? One pure function over the rules and the facts.

Forbid wins over allow; nothing that matches is a denial; an error while deciding is a denial. A rule matches when
each of its conditions holds. `explain` shows the very conditions that `decide` looks at, so they cannot disagree.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from policy.model import CHANNELS, ChannelKind
from policy.rules.conditions import Check, Facts, GrantFact, Why, concerns, conditions, covers
from policy.rules.ruleset import Effect, Rule, RuleSet
from policy.rules.terms import PLAIN, Contradiction, Terms, combined
from policy.rules.windows import format_duration


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
    watched: bool = False  # nothing passes while nobody looks on
    grant: str = ""  # a use of it is counted, and the session ends with it
    break_glass: bool = False
    certificate: Terms = PLAIN  # what a certificate for the target has to say


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """`causes` has at least one, the most telling first."""

    causes: tuple[Cause, ...]


Decision = Allow | Deny


CURABLE: Final = frozenset({Why.MFA, Why.REASON, Why.TICKET, Why.APPROVAL, Why.BREAK_GLASS, Why.CLOSED})
"""What a person can bring along or wait for."""

_NEEDS: Final = {Why.MFA: "mfa", Why.REASON: "reason", Why.TICKET: "ticket", Why.APPROVAL: "approval"}

EXPLAIN_COLUMNS: Final = ("rule", "line", "effect", "condition", "holds", "detail")


def decide(rules: RuleSet, facts: Facts) -> Decision:
    """Allow with what the grant carries, or Deny with the causes. Never raises."""
    try:
        return _decide(rules, facts)
    except Exception as error:
        # INVARIANT: any error while deciding is a denial; the type alone, since the text might quote secrets.
        return Deny(causes=(Cause(why=Why.ERROR, text=f"{type(error).__name__} while deciding"),))


def attainable(decision: Decision) -> bool:
    """Whether it is yes, or would be by some rule once the person brings what that rule asks for, or waits."""
    if isinstance(decision, Allow):
        return True
    missing: dict[str, set[Why]] = {}
    for cause in decision.causes:
        missing.setdefault(cause.rule, set()).add(cause.why)
    return any(whys <= CURABLE for whys in missing.values())


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
    out = facts.channel is ChannelKind.CHECKOUT
    where = f"{'the password of ' if out else ''}`{facts.account}` on `{facts.target}`"
    match cause.why:
        case Why.MFA:
            hint = f"enter a new code: ssh -t {_take(facts)}" if out else "log in again and enter a new code"
            return f"{where} needs a second factor: {cause.text}", hint
        case Why.REASON:
            return f"{where} needs a reason", (
                f"say it: ssh {_take(facts)} --reason why" if out else "add: -o SetEnv=BASTION_REASON=why"
            )
        case Why.TICKET:
            hint = "name one that does" if facts.ticket.strip() else "add"
            return (
                f"{where} needs a ticket: {cause.text}",
                f"{hint}: {f'ssh {_take(facts)} --ticket NUMBER' if out else '-o SetEnv=BASTION_TICKET=NUMBER'}",
            )
        case Why.APPROVAL:
            return f"{where} needs leave: {cause.text}", f"ask for it: {_request(facts)} --reason why"
        case Why.BREAK_GLASS:
            how = f"{_request(facts)} --break-glass --reason why"
            return f"{where} is for emergencies alone", f"if this is one, and everybody may know: {how}"
        case Why.CLOSED:
            return f"{where} is not open now: {cause.text}", "try again within these hours"
        case Why.CONFLICT:
            return f"{where}: {cause.text}", "ask an administrator of this bastion"
        case Why.ERROR:
            return "the decision failed", "ask an administrator of this bastion, and name the id"
        case _ if facts.channel is not None and facts.known and not out:
            return f"`{facts.channel}` is not allowed for {where}", "ask an administrator of this bastion"
        case _:
            return f"{where} is not allowed or does not exist", "list what you may use: ssh bastion ls"


def need_of(denial: Deny) -> str:
    """What would turn it into leave, for `Refused.need`: mfa, reason, ticket, approval, or nothing of these."""
    return _NEEDS.get(denial.causes[0].why, "")


def denial_for_audit(denial: Deny) -> str:
    """Every cause with its rule, on one line."""
    return "; ".join(
        f"{cause.why}: {f'rule `{cause.rule}`: ' if cause.rule else ''}{cause.text}" for cause in denial.causes
    )


def _take(facts: Facts) -> str:
    return f"bastion vault checkout {facts.account}@{facts.target}"


def _request(facts: Facts) -> str:
    kinds = " --kinds checkout" if facts.channel is ChannelKind.CHECKOUT else ""
    return f"ssh bastion request {facts.account}@{facts.target}{kinds}"


# --- deciding ---------------------------------------------------------------------------------------


def _decide(rules: RuleSet, facts: Facts) -> Decision:
    if facts.now.utcoffset() is None:
        raise ValueError("time without a zone")
    if facts.disabled:
        return _deny(Why.DISABLED, f"person `{facts.person}` is disabled")
    token = next((one for one in facts.grants if one.id == facts.token and covers(one, facts)), None)
    if facts.token and token is None:
        # Attack: a token for one place, used for another, once more, or after it was revoked, where rules ask for none.
        return _deny(Why.TOKEN, f"the token of {facts.token} does not lead there, or not any more")
    # Most rules are about somebody or something else, which is cheap to see; only the others are looked at closely.
    checked = [(rule, conditions(rule, facts)) for rule in rules.rules if concerns(rule, facts)]
    if not facts.known:  # not before: the answer to a name that does not exist should take as long as any other
        return _deny(Why.NO_TARGET, f"`{facts.account}` on `{facts.target}` has no record")
    matching = [(rule, checks) for rule, checks in checked if all(check.ok for check in checks)]
    allowing = [_Offer.of(rule, checks) for rule, checks in matching if rule.effect is Effect.ALLOW]
    forbidding = [rule for rule, _ in matching if rule.effect is Effect.FORBID]
    asked = frozenset({facts.channel}) if facts.channel is not None else CHANNELS
    if not allowing:
        return Deny(causes=_misses(checked, asked, forbidding))
    forbidden = frozenset().union(*(rule.kinds for rule in forbidding))
    # What a rule offers without a grant is taken first: a use is counted only for what there is no other way to.
    standing = frozenset().union(*(offer.kinds for offer in allowing if offer.grant is None))
    allowing = [offer for offer in allowing if offer.grant is None or offer.kinds & asked - forbidden - standing]
    offered = frozenset().union(*(offer.kinds for offer in allowing)) & asked
    if not (left := offered - forbidden):
        return Deny(causes=tuple(_cause_of_forbid(rule) for rule in forbidding))
    if not (left := left - facts.withheld):
        return _deny(Why.WITHHELD, "the certificate of the person does not permit this")
    if not (left := left & token.kinds if token is not None else left):
        return _deny(Why.TOKEN, f"the token of {facts.token} is not for this")
    try:
        terms = combined((offer.rule.name, offer.rule.certificate) for offer in allowing)
    except Contradiction as error:
        return _deny(Why.CONFLICT, str(error))
    resting = token or next((offer.grant for offer in allowing if offer.grant is not None), None)
    return Allow(
        rule=allowing[0].rule.name,
        rules=tuple(offer.rule.name for offer in allowing),
        kinds=left,
        expires_in=_tightest(
            [
                *(offer.rule.session for offer in allowing),
                *(until - facts.now for offer in allowing for until in offer.until),
                token.ends - facts.now if token is not None else None,
            ]
        ),
        idle=_tightest(offer.rule.idle for offer in allowing),
        record_sync=any(offer.rule.record_sync for offer in allowing),
        keep_content=any(offer.rule.keep_content for offer in allowing),
        watched=any(offer.rule.require.watcher for offer in allowing),
        grant=resting.id if resting else "",
        break_glass=resting is not None and resting.break_glass,
        certificate=terms,
    )


@dataclass(frozen=True, slots=True)
class _Offer:
    """A rule that matched, and what it gives."""

    rule: Rule
    kinds: frozenset[ChannelKind]
    grant: GrantFact | None
    until: tuple[datetime, ...]  # moments after which it would not match any more

    @classmethod
    def of(cls, rule: Rule, checks: Sequence[Check]) -> "_Offer":
        grant = next((check.grant for check in checks if check.grant is not None), None)
        kinds = rule.kinds & grant.kinds if grant is not None else rule.kinds
        return cls(rule, kinds, grant, tuple(check.until for check in checks if check.until is not None))


def _deny(why: Why, text: str) -> Deny:
    return Deny(causes=(Cause(why=why, text=text),))


def _cause_of_forbid(rule: Rule) -> Cause:
    return Cause(why=Why.FORBIDDEN, text="forbidden by this rule", rule=rule.name)


def _misses(
    checked: Sequence[tuple[Rule, Sequence[Check]]], asked: frozenset[ChannelKind], forbidding: Sequence[Rule]
) -> tuple[Cause, ...]:
    """Why no rule allows: rules that are about this person, account and target but lack something, nearest first."""
    forbidden = frozenset().union(*(rule.kinds for rule in forbidding))
    found: list[tuple[bool, bool, int, list[Cause]]] = []
    for rule, checks in checked:
        failed = [check for check in checks if not check.ok]
        if rule.effect is Effect.FORBID or any(check.why is None for check in failed):
            continue
        if not rule.kinds & asked - forbidden:
            found.append((True, False, 0, [_cause_of_forbid(other) for other in forbidding]))
            continue
        causes = [Cause(why=check.why, text=check.detail, rule=rule.name) for check in failed if check.why]
        # Out of its networks a rule tells nothing else: a thief of a key must not learn where to try it.
        causes.sort(key=lambda cause: cause.why is not Why.SOURCE)
        # Nobody is told to break a glass while there is another way.
        glass = any(cause.why is Why.BREAK_GLASS for cause in causes)
        found.append((causes[0].why is Why.SOURCE, glass, len(causes), causes))
    found.sort(key=lambda entry: entry[:3])
    return tuple(cause for *_, causes in found for cause in causes) or (
        Cause(why=Why.NO_RULE, text="no rule allows it"),
    )


def _tightest(limits: Iterable[timedelta | None]) -> timedelta | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _summary(allow: Allow) -> str:
    words = [", ".join(kind for kind in ChannelKind if kind in allow.kinds)]
    if allow.expires_in is not None:
        words.append(f"for {format_duration(allow.expires_in)}")
    if allow.idle is not None:
        words.append(f"idle {format_duration(allow.idle)}")
    if terms := str(allow.certificate):
        words.append(f"certificate: {terms}")
    return f"{' '.join(words)} by {', '.join(f'`{name}`' for name in allow.rules)}"
