"""Passwords that come back: by hand, when their time is over, or when what they rest on is gone; and are changed then.

What is due to be changed stands in the database: a row that is returned, of the version that is still in force. So a
crash between the return and the change loses nothing; the next start finds it, by the same query as every look.
"""

import time
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog
import trio

from policy.authority import Authority
from policy.checkout import telling
from policy.checkout.lease import OVER
from policy.model import ChannelKind
from policy.records import Checkout
from policy.rules.conditions import Facts
from policy.rules.decide import attainable, decide
from policy.store import Tables
from policy.trail.audit import Event
from policy.trail.ledger import LedgerError

SWEEP_SECONDS: Final = 10.0
"""How late an end is seen at most, should the wall clock have been set on; else it is in time."""
WHY: Final = "checkout"
"""What rotations are told."""

log = structlog.get_logger()


async def bring_back(desk: Authority) -> None:
    """Return what is over or rests on nothing any more, and have it changed, until cancelled."""
    async with trio.open_nursery() as nursery:
        changed = -1.0
        while True:
            woken = trio.Event()
            desk.checkouts.wake = woken.set
            try:
                await _sweep(desk, nursery)
                if trio.current_time() > changed + 60 * SWEEP_SECONDS or changed < 0:
                    await rotate(desk, await desk.ledger.read(lambda t: t.checkouts.still_known()))
                    changed = trio.current_time()
            except LedgerError as error:
                log.error("checkouts-not-returned", error=str(error))
                await trio.sleep(SWEEP_SECONDS / 10)  # who is told that it is out cannot use it: sessions stay refused
            wait = desk.checkouts.next_moment(time.time_ns(), trio.current_time())
            with trio.move_on_after(SWEEP_SECONDS if wait is None else min(SWEEP_SECONDS, wait + 0.01)):
                await woken.wait()


async def _sweep(desk: Authority, nursery: trio.Nursery) -> None:
    """Everything that is out, looked at once. Who has it is told in the nursery: no gateway is waited for."""
    back: list[Checkout] = []
    async with desk.deciding:
        now, clock = time.time_ns(), trio.current_time()
        ended: dict[str, list[Checkout]] = {}  # by why
        for one in desk.checkouts.all():
            if why := OVER if desk.checkouts.is_over(one, now, clock) else _objection(desk, one):
                ended.setdefault(why, []).append(one)
        for why, rows in ended.items():
            kind = "checkin" if why == OVER else telling.FORCED  # of its end its holder was told beforehand
            events = [Event(event=kind, who="policyd", what=one.place, why=why, detail=given_back(one)) for one in rows]
            done = await give_back(desk, rows, "policyd", why, events)
            nursery.start_soon(telling.tell_gone, desk, done, "policyd", why)
            back += done
    for one, before, first in desk.checkouts.to_warn(now, clock):
        nursery.start_soon(partial(telling.warn, desk, one, before, first=first))
    await rotate(desk, back)


async def give_back(desk: Authority, rows: list[Checkout], by: str, why: str, events: list[Event]) -> list[Checkout]:
    """In the database, then in memory; those that did. Holding `desk.deciding`."""
    now = time.time_ns()

    def change(t: Tables) -> list[Checkout]:
        return [one for one in rows if t.checkouts.give_back(one.id, by, why, now)]

    done = await desk.ledger.write(change, *events, durable=True)
    for one in rows:
        desk.checkouts.drop(one)
    return done


async def rotate(desk: Authority, rows: list[Checkout]) -> None:
    """What they knew is not to open anything any more."""
    for account, target in dict.fromkeys((one.account, one.target) for one in rows):
        if desk.rotations.covers(account, target):
            await desk.rotations.due(account, target, WHY)


def given_back(one: Checkout) -> dict[str, str]:
    return {"checkout": one.id, "person": one.person, "version": str(one.version)}


def _objection(desk: Authority, one: Checkout) -> str:
    """Why the person could not have it now, with what they brought along then; "" if they could.

    Codes and tickets were judged when it was taken, and hours and grants gave it its end; what can go before that is
    the person, the account, the grant, the rule, or that nothing forbids it.
    """
    person, target = desk.roster.person(one.person), desk.roster.target(one.target)
    account = desk.roster.account(one.target, one.account)
    if person is None or person.disabled:
        return f"{one.person} is disabled or has left"
    if target is None or account is None:
        return "the account is gone"
    if one.access_grant and desk.standing.get(one.access_grant) is None:
        return "the leave for it is over or was taken back"
    facts = Facts(
        person=person.name, roles=person.roles, account=one.account, target=one.target, labels=target.labels,
        now=datetime.now(UTC), source=one.source, channel=ChannelKind.CHECKOUT, ticket=one.ticket, reason=one.reason,
        grants=desk.standing.facts(person.name, one.account, one.target, time.time_ns(), desk.counts),
        using=one.access_grant,
    )  # fmt: skip
    return "" if attainable(decide(desk.rules, facts)) else "no rule allows it any more"
