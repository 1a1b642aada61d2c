"""The nouns of tickets. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

MAX_TICKET: Final = 128
"""Characters of a ticket's number; also what the database keeps."""


class Kind(StrEnum):
    JIRA = "jira"
    SERVICENOW = "servicenow"
    GITHUB = "github"
    GITLAB = "gitlab"
    HTTP = "http"
    FILE = "file"


class Assignee(StrEnum):
    """By what a ticket's assignee is known to be the person."""

    NAME = "name"
    EMAIL = "email"
    ANY = "any"  # not looked at


class TicketProblem(Exception):
    """Why a ticket does not do, for people. Quotes of what a ticket system said are made harmless first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Where things stand in an answer: JSON pointers (RFC 6901); `*` stands for the first elements of a list.

    `single` must not be there: it would mean that the answer is of more than one ticket.
    """

    key: str = ""  # the ticket's own number, compared with the one asked for
    title: str = ""
    status: str = ""
    names: tuple[str, ...] = ()  # of assignees
    emails: tuple[str, ...] = ()
    single: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One of the values at `at` must be `wanted`, a template."""

    at: str
    wanted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    start: str  # pointers
    end: str
    zone: ZoneInfo  # of times that name none


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One `[tickets.NAME]`. `token` and `ca` say where a secret and the CAs are kept; neither is here."""

    name: str
    kind: Kind
    url: str  # base of the API; http: with {ticket}; file: path
    status: frozenset[str]  # lower case
    user: str = ""
    token: str = field(default="", repr=False)
    ca: str = ""
    project: str = ""  # github, gitlab
    table: str = ""  # servicenow
    headers: tuple[tuple[str, str], ...] = ()
    assignee: Assignee = Assignee.NAME
    email: str = ""  # template of a person's address
    persons: Mapping[str, str] = field(default_factory=dict)  # person -> name or address in this system
    fields: Fields = Fields()
    target: Match | None = None
    window: Window | None = None
    seconds: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """For whom and where a ticket is to hold."""

    person: str
    account: str
    target: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a system says of a ticket. All text is hostile."""

    title: str = ""
    status: str = ""
    names: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    starts: datetime | None = None  # aware
    ends: datetime | None = None


_SLOT: Final = re.compile(r"\{([^{}]*)\}")
_NAMES: Final = re.compile(r"person|account|target|ticket|label\.[A-Za-z0-9_.-]+")


def check_template(text: str) -> str:
    """A template as it came; ValueError if it names something that there is not."""
    for name in _SLOT.findall(text):
        if not _NAMES.fullmatch(name):
            raise ValueError(
                f"got `{{{name[:40]}}}`, want {{person}}, {{account}}, {{target}}, {{ticket}} or {{label.NAME}}"
            )
    return text


def fill(template: str, place: Place, ticket: str) -> str:
    """A template with its names replaced. TicketProblem if the target lacks a label."""

    def value(match: re.Match[str]) -> str:
        kind, _, label = match[1].partition(".")
        if kind != "label":
            return {"person": place.person, "account": place.account, "target": place.target, "ticket": ticket}[kind]
        if label not in place.labels:
            raise TicketProblem(f"`{place.target}` has no label `{label}`, which tickets are compared with")
        return place.labels[label]

    return _SLOT.sub(value, template)


def shown(text: str, limit: int = 80) -> str:
    """Text of a ticket system, harmless for terminals and logs."""
    return "".join(char if char.isprintable() and char != "`" else " " for char in text[: 2 * limit])[:limit].strip()


def alike(one: str, other: str) -> bool:
    """The same name in any case of letters; ASCII alone, since others look alike that are not the same."""
    return one.isascii() and other.isascii() and bool(one) and one.lower() == other.lower()
