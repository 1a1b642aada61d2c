"""Tickets in a TOML file, for small shops without a ticket system. Pure.

["CHG-1"]
status   = "approved"
title    = "disk of web1 is full"
assignee = ["alice"]                  # or email = ["alice@example.org"]
targets  = ["web1"]                   # left out: every target
starts   = 2026-11-25T20:00:00Z       # left out: at once
ends     = 2026-11-25T23:00:00Z       # left out: as long as the status holds
"""

import tomllib
from datetime import UTC, date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from policy.tickets.model import Found, System, TicketProblem
from policy.tickets.reading import moment, number

MAX_FILE: Final = 1024 * 1024
"""Characters; some 5,000 tickets, and by then a ticket system is worth its price."""
_KEYS: Final = frozenset({"status", "title", "assignee", "email", "targets", "starts", "ends"})


def find(system: System, ticket: str, text: str) -> Found:
    """The ticket in the text of a file; TicketProblem if it is not there, or the file is wrong."""
    ticket, where = number(system, ticket), f"`{system.name}`"
    zone = system.window.zone if system.window else ZoneInfo("UTC")
    try:
        if len(text) > MAX_FILE:
            raise ValueError
        entry = tomllib.loads(text).get(ticket)
    except (ValueError, RecursionError):
        raise TicketProblem(f"the file of {where} is wrong: no TOML, or too long") from None
    if entry is None:
        raise TicketProblem(f"{where} has no ticket `{ticket}`")
    if not isinstance(entry, dict) or not _KEYS.issuperset(entry):
        raise TicketProblem(f"the entry `{ticket}` in the file of {where} is wrong")
    return Found(
        title=_words(entry, "title")[0],
        status=_words(entry, "status")[0],
        names=_words(entry, "assignee"),
        emails=_words(entry, "email"),
        places=_words(entry, "targets") if "targets" in entry else (),
        starts=_time(entry, "starts", zone, where),
        ends=_time(entry, "ends", zone, where),
    )


def _words(entry: dict[str, Any], key: str) -> tuple[str, ...]:
    """One text or a list of them; at least one, though it be empty."""
    value = entry.get(key, "")
    words = value if isinstance(value, list) else [value]
    if not all(isinstance(word, str) for word in words):
        raise TicketProblem(f"`{key}` in the file of tickets is wrong")
    return tuple(words) or ("",)


def _time(entry: dict[str, Any], key: str, zone: ZoneInfo, where: str) -> datetime | None:
    """TOML has times of its own: with a zone, without one, and days."""
    match entry.get(key):
        case datetime() as value:
            return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)
        case date() as value:
            return moment(value.isoformat(), zone, where, end=key == "ends")
        case value:
            return moment(value, zone, where, end=key == "ends")
