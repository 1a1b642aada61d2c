"""Whether a ticket that was found holds for this person, at this place, now. Pure.

Every check is one function that raises TicketProblem; `judge` has them all, so that none can be left out for one kind
of system.
"""

from datetime import datetime

from policy.rules.conditions import TicketFact
from policy.tickets.model import Assignee, Found, Place, System, TicketProblem, alike, fill, shown


def judge(system: System, ticket: str, place: Place, found: Found, now: datetime) -> TicketFact:
    """`closes` is the end of the change window. `now` is aware."""
    try:
        _status(system, ticket, found)
        _assignee(system, ticket, place, found)
        _target(system, ticket, place, found)
        closes = _window(system, ticket, found, now)
    except TicketProblem as problem:
        return denied(system, ticket, str(problem))
    title = shown(found.title)
    return TicketFact(
        system=system.name,
        ticket=ticket,
        ok=True,
        detail=f"ticket {ticket}{f': {title}' if title else ''}",
        closes=closes,
    )


def denied(system: System, ticket: str, why: str) -> TicketFact:
    return TicketFact(system=system.name, ticket=ticket, ok=False, detail=why)


def _status(system: System, ticket: str, found: Found) -> None:
    """A ticket that is closed, or not approved yet, allows nothing."""
    if found.status.lower() not in system.status:
        wanted = " or ".join(f"`{word}`" for word in sorted(system.status))
        raise TicketProblem(f"ticket `{ticket}` is `{shown(found.status) or 'without status'}`, wants {wanted}")


def _assignee(system: System, ticket: str, place: Place, found: Found) -> None:
    """A colleague's ticket is no leave."""
    if system.assignee is Assignee.ANY:
        return
    known = found.names if system.assignee is Assignee.NAME else found.emails
    default = place.person if system.assignee is Assignee.NAME else fill(system.email, place, ticket)
    wanted = system.persons.get(place.person, default)
    if not any(alike(one, wanted) for one in known):
        raise TicketProblem(f"ticket `{ticket}` is not assigned to {shown(wanted)}")


def _target(system: System, ticket: str, place: Place, found: Found) -> None:
    """A ticket for one machine opens no other."""
    if system.target is None and not found.places:
        return
    wanted = fill(system.target.wanted if system.target else "{target}", place, ticket)
    if not any(alike(one, wanted) for one in found.places):
        raise TicketProblem(f"ticket `{ticket}` is not for `{shown(wanted)}`")


def _window(system: System, ticket: str, found: Found, now: datetime) -> datetime | None:
    """Neither before the change window nor after it; a ticket without one, where one is wanted, is never open."""
    want = system.window
    if want and ((want.start and found.starts is None) or (want.end and found.ends is None)):
        raise TicketProblem(f"ticket `{ticket}` has no change window")
    if found.starts is not None and now < found.starts:
        raise TicketProblem(f"the change window of `{ticket}` opens {found.starts:%Y-%m-%d %H:%M} UTC")
    if found.ends is not None and now >= found.ends:
        raise TicketProblem(f"the change window of `{ticket}` closed {found.ends:%Y-%m-%d %H:%M} UTC")
    return found.ends
