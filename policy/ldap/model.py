"""What is set about a directory, and what it said of a person."""

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

Entry = tuple[str, dict[str, list[bytes]]]
"""A name in the directory, and values by attribute, as messages carry them."""


class Groups(StrEnum):
    """How it is found out who is in a group."""

    MEMBER_OF = "memberOf"  # persons know their groups: AD, 389, OpenLDAP with the overlay
    NESTED = "nested"  # the same through groups in groups, by a matching rule that AD alone has
    MEMBER = "member"  # groups know their persons: member, uniqueMember, memberUid


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """`[directory]` of policy.toml. Secrets are named, not held."""

    url: str
    bind: str
    password: str = field(repr=False)
    ca: str = ""
    base: str
    filter: str
    name: str  # attributes
    ident: str
    keys: str = ""  # "": keys do not come from there
    mail: str = ""  # "": addresses do not come from there
    passwords: bool = False  # are checked there
    groups: Groups = Groups.MEMBER_OF
    roles: tuple[tuple[str, str], ...] = ()  # group, role
    every: float = 900.0
    seconds: float = 10.0
    most: float = 0.2  # share of its persons that a sync may take something from
    alarm: int = 3  # failed syncs in a row

    @property
    def host(self) -> str:
        """For people: what is called."""
        return urlsplit(self.url).hostname or ""


class DirectoryProblem(Exception):
    """Why nothing can be made of it, for people, after its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A person as the directory has them."""

    name: str
    dn: str
    ident: str
    disabled: str = ""  # why; "" for active
    keys: tuple[tuple[str, str], ...] = ()  # fingerprint, authorized_keys line
    roles: frozenset[str] = frozenset()
    mail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An entry that no person is made of."""

    dn: str
    why: str
