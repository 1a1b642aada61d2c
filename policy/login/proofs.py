"""How long ago a person showed a second factor, for rules like `mfa = "15m"`.

Remembered per person and source address, in memory alone: after a restart everybody is asked again. A thief of a key
at another address gains nothing from the owner's code.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from policy.records import Person
from policy.rules.conditions import SECOND_FACTORS, Factor, FactorKind, Facts, Why, concerns, conditions
from policy.rules.decide import attainable, decide
from policy.rules.ruleset import Effect, Rule, RuleSet

MAX_REMEMBERED: Final = 20_000
"""(person, address) pairs, some 5 MB; the longest unused go first."""

Proven = Iterable[tuple[FactorKind, float]]


class Proofs:
    """Times are of trio's clock."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], dict[FactorKind, float]] = {}

    def remember(self, person: str, source: str, factors: Proven) -> None:
        for kind, at in factors:
            if kind in SECOND_FACTORS:
                known = self._seen.pop((person, source), {})
                known[kind] = max(at, known.get(kind, at))
                self._seen[person, source] = known
        if len(self._seen) > MAX_REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def newest(self, person: str, source: str, now: float) -> timedelta | None:
        """The age of the last second factor of this person from this address, if there was any."""
        seen = [at for at in self._seen.get((person, source), {}).values() if at <= now]
        return timedelta(seconds=now - max(seen)) if seen else None

    def forget(self, person: str) -> None:
        """Its second factor was taken away, or the person was."""
        for key in [key for key in self._seen if key[0] == person]:
            del self._seen[key]

    def factors(self, person: str, source: str, here: Proven, now: float) -> tuple[Factor, ...]:
        """Those of this connection, and what is remembered from others; ages count to `now`."""
        found = [Factor(kind=kind, age=timedelta(seconds=max(0.0, now - at))) for kind, at in here]
        found += [
            Factor(kind=kind, age=timedelta(seconds=now - at), here=False)
            for kind, at in self._seen.get((person, source), {}).items()
            if at <= now
        ]
        return tuple(found)


def allowed_age(rules: RuleSet, facts: Facts | None) -> timedelta | None:
    """How old the last code may be at a login for the place in `facts`; zero: always a new one; None: never asked.

    A place that this person cannot come to asks no more than one that does not exist: whether a code is asked for
    must not tell a thief of a key what there is.
    """
    wanted = [] if rules.login.max_age is None else [rules.login.max_age]
    if facts is not None and attainable(decide(rules, facts)):
        for rule in rules.rules:
            need = rule.require.mfa
            if rule.effect is Effect.ALLOW and need is not None and concerns(rule, facts) and _in_place(rule, facts):
                wanted.append(need.max_age or timedelta())
    return min(wanted, default=None)


def is_fresh(age: timedelta | None, allowed: timedelta | None) -> bool:
    """Whether nothing has to be asked: the last code is as young as it has to be."""
    if allowed is None:
        return True
    return age is not None and timedelta() < allowed and age <= allowed


def rules_ask(rules: RuleSet, person: Person) -> bool:
    """Whether a rule about this person asks for a second factor anywhere."""
    return any(
        rule.effect is Effect.ALLOW
        and rule.require.mfa is not None
        and (
            rule.who is None
            or person.name in rule.who.persons
            or "*" in rule.who.persons | rule.who.roles
            or not person.roles.isdisjoint(rule.who.roles)
        )
        for rule in rules.rules
    )


def _in_place(rule: Rule, facts: Facts) -> bool:
    """Out of its networks a rule asks nothing, as it tells nothing."""
    return all(check.ok for check in conditions(rule, facts) if check.why is Why.SOURCE)
