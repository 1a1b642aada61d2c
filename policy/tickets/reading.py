"""What a ticket system is asked, and what its answer says. Pure.

An answer is hostile: it may come from another system than the one meant, of another ticket, or be made to steer
terminals. What cannot be read is no ticket.
"""

import json
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final
from urllib.parse import quote
from zoneinfo import ZoneInfo

from policy.messages import Called, HttpCall
from policy.tickets.model import MAX_TICKET, Found, Kind, Place, System, TicketProblem, fill, shown
from policy.tickets.shapes import SHAPES, expand, proof

_MILLISECONDS: Final = 100_000_000_000
"""A number above is milliseconds since the epoch: as seconds it would be the year 5138."""
_GONE: Final = (404, 410)


def number(system: System, ticket: str) -> str:
    """A ticket's number if it looks like one of this system; TicketProblem with an example if not."""
    shape = SHAPES[system.kind]
    if len(ticket) > MAX_TICKET or not shape.number.fullmatch(ticket):
        raise TicketProblem(
            f"`{shown(ticket, 40)}` is no ticket number of `{system.name}`, want one like {shape.example}"
        )
    return ticket


def request(system: System, ticket: str, place: Place, token: str = "", trust: str = "") -> HttpCall:
    """The call that asks for a ticket. TicketProblem if it cannot be one."""
    ticket = number(system, ticket)
    wanted = pointers(system)
    shape = SHAPES[system.kind]
    url = shape.address(system, ticket, wanted)
    if system.kind is Kind.HTTP:
        safe = Place(
            person=quote(place.person, safe=""), account=quote(place.account, safe=""),
            target=quote(place.target, safe=""),
            labels={name: quote(value, safe="") for name, value in place.labels.items()},
        )  # fmt: skip
        url = fill(url, safe, quote(ticket, safe=""))
    headers = {**dict(shape.headers), **dict(system.headers), **proof(system, token)}
    return HttpCall(
        task=0, method="GET", url=url, headers=headers, pick=wanted, seconds=system.seconds, trust=trust
    )  # fmt: skip


def pointers(system: System) -> list[str]:
    """Everything that is wanted of an answer, each once."""
    fields, wanted = system.fields, []
    for pointer in (fields.key, fields.title, fields.status, *fields.names, *fields.emails, fields.single):
        wanted += expand(pointer)
    if system.target is not None:
        wanted += expand(system.target.at)
    if system.window is not None:
        wanted += [one for one in (system.window.start, system.window.end) if one]
    return list(dict.fromkeys(wanted))


def read(system: System, ticket: str, called: Called) -> Found:
    """What the answer says of the ticket. TicketProblem if it says nothing that can be used."""
    where = f"`{system.name}`"
    if called.error:
        raise TicketProblem(f"{where} {shown(called.error, 160)}")
    match called.status:
        case 200:
            pass
        case 401 | 403:
            raise TicketProblem(f"{where} does not let this bastion look (status {called.status})")
        case status if status in _GONE:
            raise TicketProblem(f"{where} has no ticket `{ticket}`")
        case 429:
            raise TicketProblem(f"{where} is asked too often now, try again in a minute")
        case status if 300 <= status < 400:
            raise TicketProblem(f"{where} points elsewhere (status {status}), which is not followed")
        case status:
            raise TicketProblem(f"{where} has a fault of its own (status {status})")
    wanted = pointers(system)
    if len(called.values) != len(wanted):
        raise TicketProblem(f"{where} gave an answer that makes no sense")
    values = dict(zip(wanted, (_value(text) for text in called.values), strict=True))
    fields = system.fields
    if fields.single and values[fields.single] is not None:
        raise TicketProblem(f"`{ticket}` is not one ticket of {where}")
    key = _text(values.get(fields.key))
    if system.kind is Kind.SERVICENOW and not key:
        raise TicketProblem(f"{where} has no ticket `{ticket}`")  # it answers with an empty list
    if fields.key and key.lower() != ticket.lstrip("#").lower():
        raise TicketProblem(f"{where} answered with another ticket than `{ticket}`")

    def texts(*found: str) -> tuple[str, ...]:
        return tuple(text for pointer in found for one in expand(pointer) for text in _texts(values[one]))

    window = system.window
    return Found(
        title=_text(values.get(fields.title)),
        status=_text(values.get(fields.status)),
        names=texts(*fields.names),
        emails=texts(*fields.emails),
        places=texts(system.target.at) if system.target else (),
        starts=moment(values[window.start], window.zone, where) if window and window.start else None,
        ends=moment(values[window.end], window.zone, where, end=True) if window and window.end else None,
    )


def moment(value: Any, zone: ZoneInfo, where: str, *, end: bool = False) -> datetime | None:
    """A time as ticket systems write it: ISO 8601, a day alone (its last moment, as an `end`), or a number.

    None if there is none; TicketProblem if it is no time.
    """
    try:
        match value:
            case None | "":
                return None
            case bool():
                raise ValueError
            case int() | float():
                return datetime.fromtimestamp(value / 1000 if value > _MILLISECONDS else value, UTC)
            case str() if len(value) <= 40:
                found = datetime.fromisoformat(value.strip())
                if len(value.strip()) <= 10:  # a day
                    found = datetime.combine(found.date() + timedelta(days=end), time())
                return (found if found.tzinfo is not None else found.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise TicketProblem(f"{where} says a time that is none")


def _value(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        raise TicketProblem("the answer makes no sense") from None


def _text(value: Any) -> str:
    return next(iter(_texts(value)), "")


def _texts(value: Any) -> tuple[str, ...]:
    """Text and whole numbers; those in a list, too."""
    match value:
        case bool():
            return ()
        case str() | int() if value != "":
            return (str(value),)
        case list():
            return tuple(text for one in value[:100] if not isinstance(one, list) for text in _texts(one))
        case _:
            return ()
