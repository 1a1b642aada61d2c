"""What the one who has a password hears of it: that its time is nearly over, and who brought it back, and why.

On terminals of their live sessions at once; in the menu, and at the first shell of a connection, as a notice; by mail
and webhook as far as `[[notify]]` names the topic or `$person` (events `checkout-ending` and `checkin-forced`, which is
the event of whatever comes back before its time and not by its holder).
"""

import time
from typing import Final

import structlog
import trio

from policy.authority import Authority
from policy.checkout.lease import OVER, SECOND
from policy.conversation import Conversation
from policy.messages import Warn
from policy.model import WARNINGS
from policy.naming import counted, shown_time
from policy.records import Checkout
from policy.trail.audit import Event
from policy.trail.ledger import LedgerError

ENDING: Final = "checkout-ending"
FORCED: Final = "checkin-forced"
KEPT: Final = 24 * 3600 * SECOND
"""Nanoseconds. A day after it was taken away, its holder has been at a terminal, or does not need it."""


async def warn(desk: Authority, one: Checkout, before: float, *, first: bool) -> None:
    """`before`: seconds that are left."""
    minutes = counted(round(before / 60), "minute")
    await _say(desk, one, f"the password of `{one.place}` is yours for {minutes} more: bring it back when you are done")
    if first:
        detail = {"checkout": one.id, "person": one.person, "until": shown_time(one.ends)}
        try:
            await desk.ledger.note(Event(event=ENDING, who="policyd", what=one.place, detail=detail))
        except LedgerError as error:
            structlog.get_logger().error("checkout-ending-not-kept", checkout=one.id, error=str(error))


async def tell_gone(desk: Authority, rows: list[Checkout], by: str, why: str) -> None:
    """To those who did not bring it back themselves."""
    async with trio.open_nursery() as nursery:
        for one in rows:
            if by != one.person:
                nursery.start_soon(_say, desk, one, _gone(one, by, why))


async def notices(desk: Authority, talk: Conversation) -> list[list[str]]:
    """Rows of Notices for who asks."""
    now = time.time_ns()
    mine = [one for one in desk.checkouts.all() if one.person == talk.person]
    rows = [
        ["checkout", one.id, f"the password of {one.place} is yours until {shown_time(one.ends)}",
         f"ssh bastion vault checkin {one.id}"]
        for one in mine
        if one.ends - now <= WARNINGS[0] * SECOND
    ]  # fmt: skip
    told = {one.place for one in mine}  # who has it again need not hear that it was taken away before
    for one in await desk.ledger.read(lambda t: t.checkouts.taken_back(talk.person, now - KEPT)):
        if one.returned_why != OVER and one.place not in told:
            told.add(one.place)
            what = _gone(one, one.returned_by, one.returned_why)
            rows.append(["taken", one.id, what, "ssh bastion vault checkouts --all"])
    return rows


def _gone(one: Checkout, by: str, why: str) -> str:
    if why == OVER:
        return f"your time with the password of `{one.place}` is over"
    return f"{by} took the password of `{one.place}` back: {why}"


async def _say(desk: Authority, one: Checkout, text: str) -> None:
    async with trio.open_nursery() as nursery:  # a gateway that does not read keeps nobody else from hearing it
        for live in desk.sessions.of_person(one.person):
            nursery.start_soon(live.talk.push, Warn(session=live.id, text=text))
