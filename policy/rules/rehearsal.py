"""Rules tried on what the database knows, before they are in force: `python -m policy test|diff`. Answers are JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policy.configuration import BadConfiguration, Configuration, read_rules, read_text
from policy.model import ChannelKind
from policy.roster import Roster, load
from policy.rules import cases, foresight
from policy.rules.foresight import Place, Subject
from policy.rules.ruleset import BadRules
from policy.store import open_store


class _Known:
    """Persons and targets of the roster, for `cases.parse_cases`."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def roles(self, person: str) -> frozenset[str] | None:
        found = self._roster.person(person)
        return found.roles if found else None

    def disabled(self, person: str) -> bool:
        found = self._roster.person(person)
        return found is not None and found.disabled

    def labels(self, target: str) -> Mapping[str, str] | None:
        found = self._roster.target(target)
        return found.labels if found else None

    def account(self, target: str, account: str) -> bool:
        return self._roster.account(target, account) is not None


def test(config: Configuration, file: Path, rules_file: Path | None) -> list[dict[str, Any]]:
    """The verdict on each case of a file, by the rules in force or by those of another file. BadConfiguration."""
    rules = read_rules(rules_file or config.rules)
    try:
        found = cases.parse_cases(read_text(file), _Known(_roster(config)), rules, str(file))
    except BadRules as error:
        raise BadConfiguration([str(problem) for problem in error.problems]) from None
    return [
        {
            "case": verdict.case.name,
            "line": verdict.case.line,
            "ok": verdict.ok,
            "want": verdict.case.expect,
            "got": verdict.got,
            "detail": verdict.detail,
        }
        for verdict in cases.run(found, rules)
    ]


def diff(config: Configuration, old: Path, new: Path | None) -> list[dict[str, Any]]:
    """Who gains or loses what when `new` follows `old`; `new` None: the rules in force. BadConfiguration."""
    roster = _roster(config)
    targets = {target.name: target for target in roster.targets()}
    subjects = [Subject(one.name, one.roles) for one in roster.persons() if not one.disabled]
    places = [
        Place(account=one.name, target=one.target, labels=targets[one.target].labels)
        for one in roster.accounts()
        if one.target in targets
    ]
    return [
        {
            "persons": list(one.persons),
            "places": list(one.places),
            "gained": _named(one.gained),
            "lost": _named(one.lost),
            "otherwise": _named(one.otherwise),
            "before": sorted(map(str, one.before)),
            "after": sorted(map(str, one.after)),
        }
        for one in foresight.changes(read_rules(old), read_rules(new or config.rules), subjects, places)
    ]


def _named(kinds: frozenset[ChannelKind]) -> list[str]:
    return [kind.value for kind in ChannelKind if kind in kinds]


def _roster(config: Configuration) -> Roster:
    store = open_store(config.policy.database, config.state)
    try:
        with store.read() as tables:
            return load(tables)
    finally:
        store.close()
