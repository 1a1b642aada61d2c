"""Who may do what with a secret: its owner everything, others what was shared with them. Pure.

    use     it is injected, or read by an application; never shown to a person, who sees that it exists
    view    shown to a person
    share   to give on what one has oneself, for no longer than one has it

Shares add up: the one that is most to the point does not hide another one. A share of a folder covers what is put
there later. What opens an account (ACCOUNT@TARGET) is shared with applications alone, to use: which person may use it
say the rules of policy.toml, and its password is seen by checkout only.

Times are nanoseconds since the epoch; an end of None is none.
"""

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from policy.naming import CommandRefused
from policy.records import Share
from policy.vault.names import ScopeKind, scope_of, shown

PERSON: Final = "person"
ROLE: Final = "role"
APPLICATION: Final = "application"


class SecretRight(StrEnum):
    USE = "use"
    VIEW = "view"
    SHARE = "share"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who wants something. A person counts with their roles; one who is disabled is not asked about."""

    kind: str = PERSON  # or APPLICATION
    name: str
    roles: frozenset[str] = frozenset()


Held = Mapping[SecretRight, float]
"""Each right that somebody has, and until when; infinite without an end."""
EVERYTHING: Final[Held] = MappingProxyType(dict.fromkeys(SecretRight, math.inf))


def is_for(share: Share, subject: Subject) -> bool:
    """Whether a share is with this very person or application, or with a role of the person."""
    if share.subject_kind == ROLE:
        return subject.kind == PERSON and share.subject in subject.roles
    return (share.subject_kind, share.subject) == (subject.kind, subject.name)


def in_force(share: Share, now: int) -> bool:
    return share.ended is None and (share.expires is None or now < share.expires)


def held(subject: Subject, shares: Iterable[Share], owner: str, name: str, now: int) -> Held:
    """What this subject has of a secret, or (a name that ends in `/`) of all that lies and will lie in a folder.

    `owner` is the secret's; "" for what nobody owns, a folder or what opens an account.
    """
    if owner and subject.kind == PERSON and subject.name == owner:
        return EVERYTHING
    found: dict[SecretRight, float] = {}
    for share in shares:
        if in_force(share, now) and is_for(share, subject) and scope_of(share.scope).covers(name):
            until = math.inf if share.expires is None else share.expires
            for right in rights_of(share):
                found[right] = max(found.get(right, 0), until)
    return found


def may(subject: Subject, shares: Iterable[Share], owner: str, name: str, right: SecretRight, now: int) -> bool:
    """Whether the subject has this right on the secret of that name now. `shares` may be more than those about it."""
    return right in held(subject, shares, owner, name, now)


def rights_of(share: Share) -> frozenset[SecretRight]:
    return frozenset(right for right in SecretRight if right in share.rights.split())


def parse_rights(words: Iterable[str]) -> frozenset[SecretRight]:
    try:
        found = frozenset(SecretRight(word) for word in words)
    except ValueError:
        raise CommandRefused(f"rights `{shown(' '.join(words))}`", f"one or more of {', '.join(SecretRight)}") from None
    if not found:
        raise CommandRefused("no right is named", f"--rights {','.join(SecretRight)}")
    return found


def given_on(have: Held, wanted: AbstractSet[SecretRight], until: int | None, now: int) -> int | None:
    """The end of a share that somebody with these rights gives. CommandRefused if it is more than they have.

    Attack: who may view for an hour gives it to a friend, for ever, who gives it back.
    """
    if SecretRight.SHARE not in have:
        raise CommandRefused("you may not share this", "ask its owner", code=77)
    if more := sorted(wanted - have.keys()):
        raise CommandRefused(
            f"you may not `{more[0]}` this yourself, so it is not yours to give", "ask its owner", code=77
        )
    most = min(have[right] for right in (*wanted, SecretRight.SHARE))
    if most <= now:
        raise CommandRefused("you may not share this", "ask its owner", code=77)
    if until is None:
        return None if most == math.inf else int(most)
    if until > most:
        raise CommandRefused(
            "nobody gives longer than they have it themselves", "leave --for out, or ask its owner", code=77
        )
    return until


def check_account_share(subject_kind: str, rights: AbstractSet[SecretRight]) -> None:
    """What opens an account goes to applications, to be used. CommandRefused otherwise."""
    if subject_kind != APPLICATION:
        raise CommandRefused(
            "who may use an account is said by the rules of policy.toml, and its password is checked out",
            "share it with an application: application:NAME --rights use",
        )
    if rights != {SecretRight.USE}:
        raise CommandRefused("what opens an account is used by applications, and not viewed or shared on",
                             "--rights use")  # fmt: skip


def passed_on(
    gone: Share, shares: Iterable[Share], owners: Mapping[str, str], roles: Mapping[str, frozenset[str]], now: int
) -> list[Share]:
    """Shares that rest on one which ends: given on because of it, and because of these.

    A share rests on its giver's being owner, or on shares that let them give it. `owners` of scopes, as far as somebody
    owns them; `roles` of persons who are there and not disabled. What stands by itself, of an owner of former times or
    of somebody who has left, stays until it is taken back.

    Worked out from the ground up. Attack: two who pass it on to each other, so that each seems to have it from one.
    """
    standing = [one for one in shares if in_force(one, now)]
    givers = _Givers(owners, roles, now)
    roots = [one for one in standing if givers.stands_alone(one) or not givers.could_give(one, standing)]
    before = givers.resting(standing, roots)
    after = givers.resting([one for one in standing if one.id != gone.id], [one for one in roots if one.id != gone.id])
    return [one for one in before if one.id != gone.id and one not in after]


@dataclass(frozen=True, slots=True)
class _Givers:
    """Who could give what, by which shares."""

    owners: Mapping[str, str]
    roles: Mapping[str, frozenset[str]]
    now: int

    def stands_alone(self, one: Share) -> bool:
        return one.made_by not in self.roles or self.owners.get(one.scope, "") == one.made_by

    def could_give(self, one: Share, by: Iterable[Share]) -> bool:
        giver = Subject(name=one.made_by, roles=self.roles.get(one.made_by, frozenset()))
        have = held(giver, by, self.owners.get(one.scope, ""), one.scope, self.now)
        return {*rights_of(one), SecretRight.SHARE} <= have.keys()

    def resting(self, standing: Iterable[Share], roots: Iterable[Share]) -> list[Share]:
        """The roots, and what rests on them."""
        found = list(roots)
        others = [one for one in standing if one not in found]
        while more := [one for one in others if self.could_give(one, found)]:
            found += more
            others = [one for one in others if one not in more]
        return found


def parse_subject(text: str) -> tuple[str, str]:
    """Kind and name of `alice`, `role:dba`, `application:billing`."""
    kind, colon, name = text.partition(":")
    if not colon:
        return PERSON, text
    if kind not in (PERSON, ROLE, APPLICATION) or not name:
        raise CommandRefused(f"`{shown(text)}` is nobody", "write alice, role:dba or application:billing")
    return kind, name


def subject_text(share: Share) -> str:
    return share.subject if share.subject_kind == PERSON else f"{share.subject_kind}:{share.subject}"


def is_account(share: Share) -> bool:
    return scope_of(share.scope).kind is ScopeKind.ACCOUNT
