"""Cases that rules have to answer as written: what `bastion policy test` runs. Pure.

[[case]]
name    = "a dba on production needs a ticket"      # optional
person  = "dora"              # with `roles`, need not exist
roles   = ["dba"]
to      = "postgres@db1"
labels  = { env = "prod" }    # with them, the target need not exist
channel = "shell"             # left out: the session as a whole
at      = "2026-11-25T10:00:00+01:00"               # left out: noon of a Wednesday, UTC
from    = "10.0.0.7"          # left out: 127.0.0.1
mfa     = "5m"                # age of the second factor; "here": on this connection; left out: none
ticket  = "OPS-1"             # one that its system finds in order
reason  = "index is broken"
approved-by = ["lena"]        # persons whose roles are known, or "lena:lead,security"
break-glass = true
expect  = "allow"             # deny, or needs-mfa | needs-ticket | needs-reason | needs-approval | closed | ...
rule    = "dba on production databases"             # optional: the rule that allows it
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from policy.model import ChannelKind
from policy.names import plain_address
from policy.rules.conditions import ApprovalFact, Factor, FactorKind, Facts, GrantFact, TicketFact, Why
from policy.rules.decide import Allow, decide, denial_for_audit
from policy.rules.ruleset import MAX_TEXT, BadRules, RuleSet
from policy.rules.windows import parse_duration
from policy.toml_lines import key_lines, line_of
from policy.toml_tables import Problem, Reading, Table

NOON: Final = datetime(2026, 11, 25, 12, tzinfo=UTC)
_ANY_DENIAL: Final = "deny"
_WORDS: Final[dict[str, Why]] = {
    "needs-mfa": Why.MFA,
    "needs-ticket": Why.TICKET,
    "needs-reason": Why.REASON,
    "needs-approval": Why.APPROVAL,
    "needs-breaking-glass": Why.BREAK_GLASS,
    "closed": Why.CLOSED,
    "wrong-network": Why.SOURCE,
    "forbidden": Why.FORBIDDEN,
    "no-rule": Why.NO_RULE,
    "no-target": Why.NO_TARGET,
    "disabled": Why.DISABLED,
}
EXPECTED: Final = ("allow", _ANY_DENIAL, *_WORDS)


class Known(Protocol):
    """Persons and targets that cases may name without describing them."""

    def roles(self, person: str) -> frozenset[str] | None: ...

    def disabled(self, person: str) -> bool: ...

    def labels(self, target: str) -> Mapping[str, str] | None: ...

    def account(self, target: str, account: str) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    line: int
    facts: Facts
    expect: str  # one of EXPECTED
    rule: str  # "" for any


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    case: Case
    ok: bool
    got: str  # in the words of `expect`
    detail: str


def parse_cases(text: str, known: Known, rules: RuleSet, file: str = "cases.toml") -> list[Case]:
    """BadRules with every problem at once."""
    if len(text) > MAX_TEXT:
        raise BadRules([Problem(file=file, line=1, rule="", key="", text=f"more than {MAX_TEXT} characters")])
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise BadRules([Problem(file=file, line=1, rule="", key="", text=f"not TOML: {error}")]) from None
    reading = Reading(file, key_lines(text))
    Table(reading, document, "").known("case")
    entries = document.get("case", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or not entries:
        reading.problem("case", "want at least one table that begins with `[[case]]`")
        entries = []
    cases = [_case(reading, number, entry, known, rules) for number, entry in enumerate(entries)]
    if reading.problems:
        raise BadRules(sorted(reading.problems, key=lambda problem: problem.line))
    return cases


def run(cases: list[Case], rules: RuleSet) -> list[Verdict]:
    """What the rules say to each, and whether that was expected."""
    return [_judge(case, rules) for case in cases]


def _judge(case: Case, rules: RuleSet) -> Verdict:
    decision = decide(rules, case.facts)
    if isinstance(decision, Allow):
        ok = case.expect == "allow" and case.rule in ("", *decision.rules)
        return Verdict(case=case, ok=ok, got="allow", detail=f"by {', '.join(decision.rules)}")
    whys = {cause.why for cause in decision.causes}
    ok = case.expect == _ANY_DENIAL or _WORDS.get(case.expect) in whys
    got = next((word for word, why in _WORDS.items() if why is decision.causes[0].why), _ANY_DENIAL)
    return Verdict(case=case, ok=ok, got=got, detail=denial_for_audit(decision))


def _case(reading: Reading, number: int, entry: dict[str, Any], known: Known, rules: RuleSet) -> Case:
    reading.at, reading.rule = ("case", number), str(number + 1)
    table = Table(reading, entry, "")
    table.known(
        "name", "person", "roles", "to", "labels", "channel", "at", "from", "mfa", "ticket", "reason", "approved-by",
        "break-glass", "expect", "rule",
    )  # fmt: skip
    name = table.text("name")
    reading.rule = name or reading.rule
    expect = table.choice("expect", table.text("expect"), list(EXPECTED)) or _ANY_DENIAL
    rule = table.text("rule")
    if rule and rule not in {one.name for one in rules.rules}:
        table.problem("rule", f"no rule is called `{rule[:40]}`")
    facts = _facts(table, known, rules)
    return Case(name=name or f"case {number + 1}", line=line_of(reading.lines, reading.at), facts=facts, expect=expect,
                rule=rule)  # fmt: skip


def _facts(table: Table, known: Known, rules: RuleSet) -> Facts:
    person = table.text("person")
    if "roles" in table.entry:
        roles = frozenset(table.words("roles", str)) if table.entry["roles"] else frozenset()
    elif (found := known.roles(person)) is not None:
        roles = found
    else:
        table.problem("person", f"`{person[:40]}` is not known here; with `roles` that does not matter")
        roles = frozenset()
    account, at, target = table.text("to").rpartition("@")
    if not (account and at and target):
        table.problem("to", "want ACCOUNT@TARGET")
    described = "labels" in table.entry
    inner = table.table("labels")
    labels = {key: inner.text(key) for key in inner.entry} if described else known.labels(target) or {}
    now = table.parsed("at", _instant) or NOON
    reason, ticket = table.text("reason"), table.text("ticket")
    return Facts(
        person=person, roles=roles, account=account, target=target, labels=labels, now=now,
        source=table.parsed("from", lambda text: str(plain_address(text))) or "127.0.0.1",
        channel=table.choice("channel", table.text("channel"), list(ChannelKind)) if "channel" in table.entry else None,
        disabled="roles" not in table.entry and known.disabled(person),
        known=described or known.account(target, account),
        factors=_factors(table), reason=reason, ticket=ticket,
        tickets=tuple(
            TicketFact(system=system, ticket=ticket, ok=True, detail="in order, as the case says")
            for system in sorted({rule.require.ticket for rule in rules.rules} - {""})
        ),
        grants=_grants(table, known, now),
    )  # fmt: skip


def _factors(table: Table) -> tuple[Factor, ...]:
    word = table.text("mfa")
    if not word:
        return ()
    if word == "here":
        return (Factor(kind=FactorKind.CODE, age=timedelta()),)
    age = table.parsed("mfa", parse_duration) or timedelta()
    return (Factor(kind=FactorKind.CODE, age=age, here=False),)


def _grants(table: Table, known: Known, now: datetime) -> tuple[GrantFact, ...]:
    hour, every = timedelta(hours=1), frozenset(ChannelKind)
    grants = []
    if "approved-by" in table.entry:
        words = table.words("approved-by", str) if table.entry["approved-by"] else []  # asked for, and granted at once
        approvals = tuple(_approval(word, known) for word in words)
        grants.append(GrantFact(id="g-case", kinds=every, starts=now - hour, ends=now + hour, approvals=approvals))
    if table.flag("break-glass"):
        grants.append(GrantFact(id="g-glass", kinds=every, starts=now - hour, ends=now + hour, break_glass=True))
    return tuple(grants)


def _approval(word: str, known: Known) -> ApprovalFact:
    name, colon, roles = word.partition(":")
    owner = "owner" in roles.split(",")
    return ApprovalFact(
        approver=name,
        roles=frozenset(roles.split(",")) if colon else known.roles(name) or frozenset(),
        owner=owner,
        counts=bool(colon) or not known.disabled(name),
    )


def _instant(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"got `{text[:40]}`, want a time like 2026-11-25T10:00:00+01:00") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
