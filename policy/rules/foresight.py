"""Who could come where, by which rule and with what in hand: the rules over everybody and everything. Pure.

No time, source or proof is known here, so a rule is taken apart: *who*, *where*, *as* and *allow* hold or do not; what
else it asks for is said in words (`Way.needs`). A forbid rule without hours and networks takes its kinds away; one with
them is named among what is needed ("not while ...").

A thousand persons and ten thousand targets are twenty million pairs, but few sorts of either: persons whom the same
rules name are one class, and so are accounts that the same rules reach. Only classes are looked at pair by pair.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from policy.model import ChannelKind
from policy.rules.conditions import Facts, as_holds, misplaced, who_holds
from policy.rules.ruleset import Effect, Rule, RuleSet
from policy.rules.windows import format_duration
from policy.rules.words import OWN_ACCOUNT, OWNER


@dataclass(frozen=True, slots=True)
class Subject:
    person: str
    roles: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    account: str
    target: str
    labels: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.account}@{self.target}"


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """One rule by which a kind of channel is reached, and what it asks for."""

    rule: str
    needs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.rule} ({', '.join(self.needs)})" if self.needs else self.rule


Reach = dict[ChannelKind, frozenset[Way]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What some persons gain, lose or get otherwise at some places, when one set of rules follows another."""

    persons: tuple[str, ...]
    places: tuple[str, ...]
    gained: frozenset[ChannelKind]
    lost: frozenset[ChannelKind]
    otherwise: frozenset[ChannelKind]  # by other rules, or with other things in hand
    before: frozenset[Way]
    after: frozenset[Way]


def reach(rules: RuleSet, subject: Subject, place: Place) -> Reach:
    """Every kind of channel this person could open there, and each way to it."""
    classes = _Classes(rules)
    return classes.reach(classes.who(subject), classes.where(place), own=subject.person == place.account)


def who_can(
    rules: RuleSet, subjects: Iterable[Subject], places: Iterable[Place], kind: ChannelKind | None = None
) -> Iterator[tuple[Subject, Place, Reach]]:
    """Each person and place with any way from one to the other; only by `kind`, if one is given."""
    classes = _Classes(rules)
    places = list(places)
    for subject in subjects:
        who = classes.who(subject)
        for place in places:  # each looked at when its turn comes: who wants a page pays for a page
            found = classes.reach(who, classes.where(place), own=subject.person == place.account)
            if kind is not None:
                found = {kind: found[kind]} if kind in found else {}
            if found:
                yield subject, place, found


def changes(old: RuleSet, new: RuleSet, subjects: Iterable[Subject], places: Iterable[Place]) -> list[Change]:
    """What differs, persons and places of one class together, most gained first."""
    before, after = _Classes(old), _Classes(new)
    subjects, places = list(subjects), list(places)
    # Where a rule says `$person`, whoever has an account of the own name is a class alone, and so is that account.
    own = before.own | after.own
    shared = {one.person for one in subjects} & {one.account for one in places} if own else set()
    people: dict[tuple[int, int, str], list[Subject]] = defaultdict(list)
    spots: dict[tuple[_Where, _Where, str], list[Place]] = defaultdict(list)
    for subject in subjects:
        name = subject.person if subject.person in shared else ""
        people[before.who(subject), after.who(subject), name].append(subject)
    for place in places:
        name = place.account if place.account in shared else ""
        spots[before.where(place), after.where(place), name].append(place)
    result = []
    for (who_before, who_after, person), alike in people.items():
        for (where_before, where_after, account), there in spots.items():
            same = bool(person) and person == account
            was = before.reach(who_before, where_before, own=same)
            will = after.reach(who_after, where_after, own=same)
            if was != will:
                result.append(_change(alike, there, was, will))
    return sorted(result, key=lambda one: (-len(one.gained), -len(one.lost), one.persons, one.places))


def _change(alike: list[Subject], there: list[Place], was: Reach, will: Reach) -> Change:
    return Change(
        persons=tuple(sorted(one.person for one in alike)),
        places=tuple(sorted(map(str, there))),
        gained=frozenset(will.keys() - was.keys()),
        lost=frozenset(was.keys() - will.keys()),
        otherwise=frozenset(kind for kind in was.keys() & will.keys() if was[kind] != will[kind]),
        before=frozenset().union(*was.values()),
        after=frozenset().union(*will.values()),
    )


_Where = tuple[int, int]
"""The rules that reach a place for everybody they name, and those for who has the account's name."""


class _Classes:
    """Sets of rules as bits of integers: those that name a person, and those that reach a place."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules.rules
        self._ways = [Way(rule.name, needs(rule)) for rule in self._rules]
        self._whose: dict[tuple[str, frozenset[str]], int] = {}
        self._located: dict[str, int] = {}
        self._named: dict[str, int] = {}
        self._reach: dict[int, Reach] = {}
        self.own = self._bits(lambda rule: rule.accounts is not None and OWN_ACCOUNT in rule.accounts)

    def who(self, subject: Subject) -> int:
        key = subject.person, subject.roles
        if key not in self._whose:
            facts = _facts(person=subject.person, roles=subject.roles)
            self._whose[key] = self._bits(lambda rule: who_holds(rule, facts))
        return self._whose[key]

    def where(self, place: Place) -> _Where:
        if place.target not in self._located:
            facts = _facts(target=place.target, labels=place.labels)
            self._located[place.target] = self._bits(lambda rule: misplaced(rule, facts) is None)
        if place.account not in self._named:
            facts = _facts(account=place.account)
            self._named[place.account] = self._bits(lambda rule: as_holds(rule, facts))
        located = self._located[place.target]
        return located & self._named[place.account], located & self.own

    def reach(self, who: int, where: _Where, *, own: bool) -> Reach:
        """`own`: the account has the person's name."""
        bits = who & (where[0] | where[1] if own else where[0])
        if bits not in self._reach:
            self._reach[bits] = self._reached([number for number in range(len(self._rules)) if bits >> number & 1])
        return self._reach[bits]

    def _reached(self, numbers: list[int]) -> Reach:
        rules = [(self._rules[number], self._ways[number]) for number in numbers]
        forbidding = [(rule, way) for rule, way in rules if rule.effect is Effect.FORBID]
        found: dict[ChannelKind, set[Way]] = defaultdict(set)
        for rule, way in rules:
            for kind in rule.kinds if rule.effect is Effect.ALLOW else ():
                against = [forbidden for other, forbidden in forbidding if kind in other.kinds]
                if all(forbidden.needs for forbidden in against):  # one without hours or networks holds always
                    but = tuple(f"not {need} (`{forbidden.rule}`)" for forbidden in against for need in forbidden.needs)
                    found[kind].add(Way(way.rule, way.needs + but))
        return {kind: frozenset(ways) for kind, ways in found.items()}

    def _bits(self, holds: Callable[[Rule], bool]) -> int:
        return sum(1 << number for number, rule in enumerate(self._rules) if holds(rule))


def needs(rule: Rule) -> tuple[str, ...]:
    """What a rule asks for beside who, where, as and allow, in words."""
    need, words = rule.require, []
    if rule.break_glass:
        words.append("breaking the glass")
    if need.approval is not None:
        by = " or ".join("owner" if role == OWNER else role for role in need.approval.by)
        words.append(f"approval by {need.approval.count} of {by}" if need.approval.count else "a request")
    if need.mfa is not None:
        age = need.mfa.max_age
        words.append("second factor" if age is None else f"second factor of {format_duration(age)}")
    if need.ticket:
        words.append(f"ticket of {need.ticket}")
    if need.reason:
        words.append("reason")
    if need.watcher:
        words.append("watcher")
    if rule.when is not None:
        words.append(f"within {rule.when.text}")
    if rule.networks:
        words.append(f"from {' or '.join(map(str, rule.networks))}")
    return tuple(words)


def _facts(
    *, person: str = "", roles: frozenset[str] = frozenset(), account: str = "", target: str = "",
    labels: Mapping[str, str] = MappingProxyType({}),
) -> Facts:  # fmt: skip
    """Facts of which one part alone is looked at. An empty account is nobody's, not even an unnamed person's."""
    return Facts(
        person=person, roles=roles, account=account or OWN_ACCOUNT, target=target, labels=labels, now=_NEVER, source=""
    )


_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
