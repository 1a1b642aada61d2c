"""How a request changes: votes, grants, ends. Each is one transaction with its events; memory follows what was kept.

Whoever calls holds `desk.deciding`. The database is asked once more all the same: what it has closed stays closed.
"""

import base64
import os
import time
from collections.abc import Callable
from dataclasses import replace

from policy.authority import Authority
from policy.conversation import Conversation
from policy.leave.requests import State as Is
from policy.leave.requests import granted, missing, tally
from policy.messages import Done
from policy.naming import CommandRefused, counted
from policy.records import AccessGrant, AccessRequest, Vote
from policy.rules.ruleset import Approval
from policy.sessions.words import grant_data, granted_text, place_of, request_detail
from policy.store import Conflict, Tables
from policy.trail.audit import Event


async def cast_vote(
    desk: Authority, talk: Conversation, found: AccessRequest, need: Approval, vote: Vote, event: Event
) -> Done:
    """Keep a vote, and what it leads to. The caller holds `desk.deciding`."""
    voted = replace(found, votes=(*found.votes, vote))
    match tally(voted, need, desk.counts):
        case Is.DENIED:
            await close(desk, found, Is.DENIED, vote.approver, event, vote=vote)
            return Done(text=f"denied request `{found.id}`", data={"request": found.id, "state": Is.DENIED})
        case Is.APPROVED:
            grant = await give(desk, talk, voted, need, by=vote.approver, events=(event,), vote=vote)
            return Done(text=f"approved request `{found.id}`: {granted_text(grant)}", data=grant_data(grant))

    def change(t: Tables) -> None:
        t.access.add_vote(found.id, vote)
        if not t.access.is_pending(found.id):
            raise Conflict(f"request `{found.id}` was closed meanwhile")

    await attempt(desk, change, event)
    desk.standing.ask(voted)
    left = missing(voted, need, desk.counts)
    return Done(
        text=f"approved request `{found.id}`, which waits for {counted(left, 'approval')} more",
        data={"request": found.id, "state": Is.PENDING, "missing": str(left)},
    )


async def give(
    desk: Authority, talk: Conversation, request: AccessRequest, need: Approval,
    *, by: str, events: tuple[Event, ...] = (), vote: Vote | None = None, glass: bool = False,
    token: bytes | None = None,
) -> AccessGrant:  # fmt: skip
    """A grant for a request that has all it needs, known to decisions when this returns. Holding `desk.deciding`."""
    now = time.time_ns()
    grant = granted(request, need, ident=new_id("g"), now=now, by=by, glass=glass, token=token)
    made = talk.event(
        "break-glass" if glass else "grant", f"{grant.person} on {place_of(grant)}",
        request_detail(request) | grant_data(grant) | {"kind": "token" if token else ""}, why=request.reason,
    )  # fmt: skip

    waiting = request.id in desk.standing.requests

    def change(t: Tables) -> None:
        if waiting:
            if vote is not None:
                t.access.add_vote(request.id, vote)
            if not t.access.close_request(request.id, Is.APPROVED, by, now):
                raise Conflict(f"request `{request.id}` was closed meanwhile")
        else:
            t.access.add_request(request)
            t.access.close_request(request.id, Is.APPROVED, by, now)
        t.access.add_grant(grant)
        if glass:
            t.access.add_review(grant.id, now)

    await attempt(desk, change, *events, made)
    desk.standing.put(grant)
    closed(desk, request.id)
    return grant


async def close(
    desk: Authority, request: AccessRequest, state: Is, by: str, event: Event, *, vote: Vote | None = None
) -> None:
    """Close it without a grant. Holding `desk.deciding`. CommandRefused if it was closed before."""

    def change(t: Tables) -> None:
        if vote is not None:
            t.access.add_vote(request.id, vote)
        if not t.access.close_request(request.id, state, by, time.time_ns()):
            raise Conflict(f"request `{request.id}` is closed already")

    await attempt(desk, change, event)
    closed(desk, request.id)


async def attempt(desk: Authority, change: Callable[[Tables], None], *events: Event) -> None:
    """A change with its events, on disk; a conflict said to whoever asked for it."""
    try:
        await desk.ledger.write(change, *events, durable=True)
    except Conflict as error:
        raise CommandRefused(str(error), "see: ssh bastion requests --all", code=77) from None


def closed(desk: Authority, ident: str) -> None:
    """In memory, and told to who waits for it, once it is closed in the database."""
    desk.standing.requests.pop(ident, None)
    if (awaited := desk.awaited.pop(ident, None)) is not None:
        awaited.set()


def new_id(kind: str) -> str:
    """`r-` or `g-` and 8 base32 characters: 40 bits, to be read out on the phone. It is no secret."""
    return f"{kind}-{base64.b32encode(os.urandom(5)).decode().lower()}"
