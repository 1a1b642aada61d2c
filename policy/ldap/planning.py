"""From who is in the directory and who is known here to what a sync changes, and whether it may. Pure.

# INVARIANT: a person whose origin is not the directory is never changed by it.

A name stands for one entry for ever, by its id: who comes later under the name of somebody who left is somebody else.
What was set here by hand, roles, keys, a disabled account, stays as it is set here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from policy.ldap.model import Directory, Found, Refused
from policy.names import look
from policy.naming import MAX_KEYS
from policy.records import DirectoryEntry, Person

DIRECTORY: Final = "directory"
"""`Person.origin` of those who come from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What becomes of one person; `entry` is what is remembered of the directory's entry afterwards."""

    name: str
    why: str
    entry: DirectoryEntry
    new: bool = False
    disable: bool | None = None  # False: it was the directory that disabled them, and they are back
    add_roles: tuple[str, ...] = ()
    remove_roles: tuple[str, ...] = ()
    add_keys: tuple[tuple[str, str], ...] = ()
    remove_keys: tuple[str, ...] = ()
    mail: str | None = None  # "": none any more

    @property
    def kind(self) -> str:
        """A word for people and the audit trail."""
        if self.new:
            return "add"
        return {True: "disable", False: "enable", None: "change"}[self.disable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    steps: tuple[Step, ...]
    refused: tuple[Refused, ...]
    persons: int  # of the directory, in use here
    losing: int  # of them, with this plan


def plan(
    directory: Directory,
    found: Mapping[str, Found],
    refused: Iterable[Refused],
    persons: Iterable[Person],
    entries: Mapping[str, DirectoryEntry],
) -> Plan:
    """`entries`: what was remembered by name."""
    known = {person.name: person for person in persons}
    owners = {key.fingerprint: person.name for person in known.values() for key in person.keys}
    looks = Counter(look(name) for name in {*known, *found})
    not_taken = list(refused)
    steps: list[Step] = []
    taken: set[str] = set()
    for name, one in sorted(found.items()):
        why = _objection(known.get(name), entries.get(name), one)
        if name not in known and looks[look(name)] > 1:
            # Those who left count too: their names stand in the trail.
            why = f"`{name}` looks like the name of somebody else"
        if why:
            not_taken.append(Refused(dn=one.dn, why=why))
            continue
        taken.add(name)
        if (step := _follow(directory, one, known.get(name), entries.get(name), owners)) is not None:
            steps.append(step)
    mine = [person for person in known.values() if person.origin == DIRECTORY and not person.disabled]
    for person in sorted(mine, key=lambda person: person.name):
        entry = entries.get(person.name)
        if person.name not in taken and entry is not None:
            steps.append(_away(person, entry, "is not in the directory any more"))
    names = {person.name for person in mine}
    losing = sum(_loses(directory, step) for step in steps if step.name in names)
    return Plan(steps=tuple(steps), refused=tuple(not_taken), persons=len(mine), losing=losing)


def loss(directory: Directory, wanted: Plan) -> str:
    """Why it must not be, if too many would lose something: a broken filter must not offboard the company.

    One person may always leave, however few there are.
    """
    if wanted.losing > max(1, int(wanted.persons * directory.most)):
        return f"would take something from {wanted.losing} of {wanted.persons} persons, more than {directory.most:.0%}"
    return ""


def _objection(person: Person | None, entry: DirectoryEntry | None, one: Found) -> str:
    """Why this entry is not the person of that name."""
    if person is None:
        return ""
    if person.origin != DIRECTORY:
        return f"`{person.name}` was made here, and is not taken over"
    if person.offboarded is not None:
        return f"`{person.name}` was offboarded; a name is never given to another person"
    if entry is None or entry.ident != one.ident:
        return f"`{person.name}` was another entry before; a name is never given to another person"
    return ""


def _follow(
    directory: Directory, one: Found, person: Person | None, entry: DirectoryEntry | None, owners: Mapping[str, str]
) -> Step | None:
    if one.disabled:
        if person is None or entry is None or person.disabled:
            return None  # nobody is made only to be disabled
        return _away(person, entry, one.disabled)
    keys = {print_: line for print_, line in one.keys if owners.get(print_, one.name) == one.name}
    if person is None or entry is None:
        return Step(
            name=one.name,
            why=one.dn,
            new=True,
            add_roles=tuple(sorted(one.roles)),
            add_keys=tuple(sorted(keys.items())),
            mail=one.mail or None,
            entry=_remembered(one, one.roles, keys),
        )
    back = person.disabled and entry.held  # who was disabled by hand is enabled by hand
    mine = {key.fingerprint for key in person.keys}
    own = len(mine - entry.keys)  # set here
    keys = dict(sorted(keys.items())[: max(0, MAX_KEYS - own)])
    step = Step(
        name=one.name,
        why=one.dn,
        disable=False if back else None,
        add_roles=tuple(sorted(one.roles - person.roles)),
        # Only what came from there is taken back.
        remove_roles=tuple(sorted((entry.roles - one.roles) & person.roles)),
        add_keys=tuple((print_, line) for print_, line in sorted(keys.items()) if print_ not in mine),
        remove_keys=tuple(sorted((entry.keys - keys.keys()) & mine)),
        mail=one.mail if directory.mail and one.mail != person.mail else None,
        entry=_remembered(
            one,
            # A role that was set here before stays one of here.
            (one.roles - person.roles) | (one.roles & entry.roles),
            {print_ for print_ in keys if print_ not in mine or print_ in entry.keys},
        ),
    )
    changes = (step.add_roles, step.remove_roles, step.add_keys, step.remove_keys)
    return step if back or any(changes) or step.mail is not None or step.entry != entry else None


def _remembered(one: Found, roles: Iterable[str], keys: Iterable[str]) -> DirectoryEntry:
    return DirectoryEntry(
        person=one.name, ident=one.ident, dn=one.dn, roles=frozenset(roles), keys=frozenset(keys), held=False
    )


def _away(person: Person, entry: DirectoryEntry, why: str) -> Step:
    """Roles and keys stay, and prove nothing while the person is disabled: who comes back has them again."""
    held = DirectoryEntry(
        person=person.name, ident=entry.ident, dn=entry.dn, roles=entry.roles, keys=entry.keys, held=True
    )
    return Step(name=person.name, why=why, disable=True, entry=held)


def _loses(directory: Directory, step: Step) -> bool:
    """Roles of groups that are not in the settings any more were taken away by whoever changed those."""
    set_here = {role for _, role in directory.roles}
    return step.disable is True or not set_here.isdisjoint(step.remove_roles)
