"""Persons, targets and accounts in memory: what every decision reads, read again after every change of one.

The database stays the truth. `policy.persons.directory` is the only writer; it puts what it changed here before it
answers, so a decision made after the answer sees the change.
"""

from collections.abc import Iterable
from typing import Final

from policy.records import Account, Authenticator, Person, Target
from policy.store import Tables

TOTP: Final = "totp"


class Roster:
    """Lookups by name, by key and by target; None or empty for what is not there."""

    def __init__(self, persons: Iterable[Person], targets: Iterable[Target], accounts: Iterable[Account]) -> None:
        self._persons: dict[str, Person] = {}
        self._owners: dict[str, str] = {}  # fingerprint -> person
        self._targets = {target.name: target for target in targets}
        self._accounts: dict[str, dict[str, Account]] = {}
        for person in persons:
            self._put(person)
        for account in accounts:
            self._accounts.setdefault(account.target, {})[account.name] = account

    def person(self, name: str) -> Person | None:
        return self._persons.get(name)

    def persons(self) -> list[Person]:
        return sorted(self._persons.values(), key=lambda person: person.name)

    def owner(self, fingerprint: str) -> Person | None:
        """The person whose key this is."""
        return self._persons.get(self._owners.get(fingerprint, ""))

    def totp(self, person: str) -> Authenticator | None:
        found = self._persons.get(person)
        return next((one for one in found.totp if one.kind == TOTP), None) if found else None

    def target(self, name: str) -> Target | None:
        return self._targets.get(name)

    def targets(self) -> list[Target]:
        return sorted(self._targets.values(), key=lambda target: target.name)

    def account(self, target: str, name: str) -> Account | None:
        return self._accounts.get(target, {}).get(name)

    def accounts(self, target: str = "") -> list[Account]:
        """Those of one target, or all, by target and name."""
        groups = [self._accounts.get(target, {})] if target else [self._accounts[one] for one in sorted(self._accounts)]
        return [group[name] for group in groups for name in sorted(group)]

    def put_person(self, name: str, found: Person | None) -> None:
        """Take over what the database says now; None: gone."""
        if (old := self._persons.pop(name, None)) is not None:
            for key in old.keys:
                self._owners.pop(key.fingerprint, None)
        if found is not None:
            self._put(found)

    def put_target(self, name: str, found: Target | None, accounts: Iterable[Account]) -> None:
        """Take over a target and all its accounts; None: gone."""
        self._targets.pop(name, None)
        self._accounts.pop(name, None)
        if found is not None:
            self._targets[name] = found
            self._accounts[name] = {account.name: account for account in accounts}

    def _put(self, person: Person) -> None:
        self._persons[person.name] = person
        for key in person.keys:
            self._owners[key.fingerprint] = person.name


def load(tables: Tables) -> Roster:
    """Everything, at start."""
    return Roster(tables.persons(), tables.targets(), tables.accounts())
