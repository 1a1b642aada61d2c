"""What nobody may do to persons: lock everybody out, raise themselves, or pass for another. Pure.

An operator on the bastion's machine stands outside of the second and third: who has its disk has everything. Even so
the last administrator stays, since that is never meant.
"""

from collections.abc import Iterable
from typing import Final

from policy.names import look
from policy.naming import CommandRefused
from policy.records import Person
from policy.rules.rights import Right, Rights

DENIED: Final = 77
BY_OPERATOR: Final = "let an operator do it on the bastion's machine"


def administrators(persons: Iterable[Person], rights: Rights, *, certificates: bool) -> set[str]:
    """Who could administer: has the right, is not disabled, and something proves them."""
    return {
        one.name
        for one in persons
        if not one.disabled
        and rights.has(Right.ADMINISTER, one.roles)
        and (one.keys or one.phc or certificates)  # of a CA that is trusted: any person may come with one
    }


def keep_an_administrator(before: set[str], after: set[str]) -> None:
    """The last who could administer stays so: without one, only the machine's operators could change anything."""
    if before and not after:
        raise CommandRefused(
            f"`{min(before)}` is the last person with the right `{Right.ADMINISTER}`",
            "give it to somebody else first: `bastion person set NAME --role admin`",
            code=DENIED,
        )


def not_for_oneself(speaker: str, person: str, what: str) -> None:
    """Attack: an administrator who may not see typed input takes the role that may. `speaker`: "" for an operator."""
    if speaker and speaker == person:
        raise CommandRefused(f"nobody gives {what} to themselves", f"ask another administrator, or {BY_OPERATOR}",
                             code=DENIED)  # fmt: skip


def not_above(speaker: Person | None, person: Person, rights: Rights, what: str) -> None:
    """Attack: a key of one's own for somebody who may more, to log in as them, with their name in the trail.

    `speaker` is None for an operator.
    """
    if speaker is None or speaker.name == person.name:
        return
    more = [right for right in Right if rights.has(right, person.roles) and not rights.has(right, speaker.roles)]
    if more:
        raise CommandRefused(f"`{person.name}` may do `{more[0]}`, and you may not: {what} is not yours to set",
                             BY_OPERATOR, code=DENIED)  # fmt: skip


def no_look_alike(name: str, persons: Iterable[Person]) -> None:
    """Those who left count too: their names stand in the trail."""
    shape = look(name)
    for one in persons:
        if one.name != name and look(one.name) == shape:
            raise CommandRefused(f"person name `{name}` looks like `{one.name}`, who is there already",
                                 "choose a name that nobody takes for the other")  # fmt: skip
