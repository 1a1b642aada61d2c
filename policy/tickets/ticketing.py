"""Tickets looked up before a decision that needs them. `policy.tickets` judges; here are the calls, briefly remembered.

What cannot be looked up is a TicketFact that is not ok, with words that people understand: the decision is no.
"""

import math
import os
from collections import Counter, OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio

from policy.outside.secrets import OutsideError, read_secret, read_trust
from policy.rules.conditions import Facts, TicketFact, Why
from policy.tickets.judging import denied, judge
from policy.tickets.model import Found, Kind, Place, System, TicketProblem
from policy.tickets.needing import needed
from policy.tickets.reading import read, request
from policy.tickets.ticketfile import MAX_FILE, find

if TYPE_CHECKING:
    from policy.authority import Authority

GOOD_SECONDS: Final = 60.0
"""How long a ticket counts that was found in order: ansible opens fifty sessions in that time."""
UNASKED_SECONDS: Final = 4.0
"""For tickets of grants, which the gateway does not know of when it asks: it waits 5."""
BAD_SECONDS: Final = 5.0
"""Any other: people have it corrected, and try again."""
EACH_PERSON: Final = 4
"""Tickets of one person looked up at the same moment; the courier makes 16 calls at once."""
REMEMBERED: Final = 4096
"""Answers kept; of more, the oldest is asked for again."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Answer:
    found: Found | TicketProblem
    until: float  # trio's clock


class Ticketing:
    """What was found lately, and who is being asked right now."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str, str], _Answer] = OrderedDict()
        self._asking: dict[tuple[str, str, str], trio.Lock] = {}
        self._busy: Counter[str] = Counter()  # calls under way, by person

    async def look_up(
        self, desk: "Authority", facts: Facts, *, despite: frozenset[Why] = frozenset()
    ) -> tuple[TicketFact, ...]:
        """The tickets that a decision over these facts rests on, for `Facts.tickets`.

        Takes up to the systems' `seconds`: who and what may have changed meanwhile, so gather the other facts again.
        `despite`: what else may be missing yet, as for a request that is to be approved.
        """
        rules = desk.rules
        wanted = needed(rules, facts, despite)
        if not wanted:
            return ()
        found: list[TicketFact] = []
        with trio.move_on_after(math.inf if facts.ticket.strip() else UNASKED_SECONDS):
            async with trio.open_nursery() as nursery:
                for system, ticket in wanted:
                    nursery.start_soon(self._fact, desk, rules.tickets[system], ticket, facts, found)
        for system, ticket in set(wanted) - {(fact.system, fact.ticket) for fact in found}:
            found.append(denied(rules.tickets[system], ticket, f"`{system}` gave no answer in time"))
        return tuple(found)

    async def _fact(self, desk: "Authority", system: System, ticket: str, facts: Facts, into: list[TicketFact]) -> None:
        place = Place(person=facts.person, account=facts.account, target=facts.target, labels=facts.labels)
        try:
            answer = await self._answer(desk, system, ticket, place)
            if isinstance(answer.found, TicketProblem):
                raise answer.found
            fact = judge(system, ticket, place, answer.found, datetime.now(UTC))
            if not fact.ok:
                answer.until = min(answer.until, trio.current_time() + BAD_SECONDS)
        except TicketProblem as problem:
            fact = denied(system, ticket, str(problem))
        into.append(fact)

    async def _answer(self, desk: "Authority", system: System, ticket: str, place: Place) -> _Answer:
        """Remembered, or asked for once however many wait for it."""
        call = request(system, ticket, place) if system.kind is not Kind.FILE else None
        key = (desk.rules.digest, system.name, call.url if call else ticket)
        lock = self._asking.setdefault(key, trio.Lock())
        try:
            async with lock:
                known = self._answers.get(key)
                if known is not None and trio.current_time() < known.until:
                    return known
                try:
                    found: Found | TicketProblem = await self._asked(desk, system, ticket, place)
                    seconds = GOOD_SECONDS
                except TicketProblem as problem:
                    found, seconds = problem, BAD_SECONDS
                answer = self._answers[key] = _Answer(found, trio.current_time() + seconds)
                self._answers.move_to_end(key)
                while len(self._answers) > REMEMBERED:
                    self._answers.popitem(last=False)
                return answer
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._asking.pop(key, None)

    async def _asked(self, desk: "Authority", system: System, ticket: str, place: Place) -> Found:
        """Attack: one person who asks for ever new numbers has the whole courier, and nobody else gets in."""
        if self._busy[place.person] >= EACH_PERSON:
            raise TicketProblem(f"{EACH_PERSON} of your tickets are being looked up already, try again in a moment")
        self._busy[place.person] += 1
        try:
            return await _ask(desk, system, ticket, place)
        finally:
            self._busy[place.person] -= 1
            self._busy += Counter()  # forgets those at zero


async def _ask(desk: "Authority", system: System, ticket: str, place: Place) -> Found:
    base = desk.config.path.parent
    if system.kind is Kind.FILE:
        text = await trio.to_thread.run_sync(partial(_text, system, base / system.url))
        return find(system, ticket, text)
    try:
        token = await trio.to_thread.run_sync(read_secret, system.token, base, os.environ)
        trust = await trio.to_thread.run_sync(read_trust, system.ca, base)
    except OutsideError as error:
        log.error("tickets", system=system.name, problem=str(error))
        raise TicketProblem(f"`{system.name}` cannot be asked: this bastion is not set up for it") from None
    called = await desk.couriers.http(request(system, ticket, place, token, trust))
    if called.error or not 200 <= called.status < 300:
        log.warning("tickets", system=system.name, ticket=ticket, status=called.status, error=called.error)
    return read(system, ticket, called)


def _text(system: System, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(4 * MAX_FILE + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        log.error("tickets", system=system.name, problem=f"`{path}`: {type(error).__name__}")
        raise TicketProblem(f"the file of `{system.name}` cannot be read") from None
