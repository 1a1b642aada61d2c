"""Requests for access: made, waited for, looked at, taken back, decided. The rules of it are `policy.leave.requests`.

Every change holds `desk.deciding` and is one transaction with its events; memory follows when that is kept.
"""

import time
from dataclasses import replace
from typing import Final

import trio

from policy.authority import Authority
from policy.conversation import Conversation
from policy.leave.concerned import approver_of, asker, current_rule, facts_about, may_see, the_rule
from policy.leave.deciding import cast_vote, close, give, new_id
from policy.leave.requests import PENDING_EACH, Wish, behind, drawn_up, missing, need_of, objection, same, text
from policy.leave.requests import State as Is
from policy.messages import (
    Decide,
    Done,
    RequestAccess,
    RequestAwait,
    RequestCancel,
    RequestList,
    RequestShow,
    Rows,
)
from policy.naming import CommandRefused, shown_time
from policy.operators import names_behind
from policy.records import AccessRequest, Vote
from policy.rules.conditions import Why
from policy.rules.rights import Right
from policy.sessions.words import (
    COLUMNS,
    closed_by,
    grant_data,
    granted_text,
    place_of,
    printable,
    request_detail,
    row_of,
    vote_word,
)

AWAIT_SECONDS: Final = 30.0
"""For one RequestAwait; who waits longer asks again, so that a gateway that is gone is noticed."""
TO_COME: Final = frozenset({Why.APPROVAL, Why.BREAK_GLASS, Why.MFA, Why.REASON, Why.CLOSED})
"""What may be missing when somebody asks, and has to be there when they log in."""
REPLAYED_SECONDS: Final = 60
"""Within which the same wish is the same request: a message that came twice gives nothing twice."""


# --- made and waited for ------------------------------------------------------------------------------


async def request_access(desk: Authority, talk: Conversation, request: RequestAccess) -> Done:
    person, now = asker(desk, talk), time.time_ns()
    wish = Wish.of(
        kinds=request.kinds, start=request.start, seconds=request.seconds, uses=request.uses,
        reason=request.reason, ticket=request.ticket, now=now,
    )  # fmt: skip
    facts = facts_about(desk, person, request.account, request.target, talk, wish.kinds)
    tickets = await desk.tickets.look_up(desk, replace(facts, ticket=wish.ticket), despite=TO_COME)
    async with desk.deciding:
        facts = facts_about(desk, person, request.account, request.target, talk, wish.kinds)
        rule = the_rule(desk, facts, wish, glass=request.break_glass)
        asked = drawn_up(wish, rule, facts, ident=new_id("r"), now=now, asked_by=names_behind(talk) | {person.name})
        for ticket in tickets:
            if ticket.system == rule.require.ticket and not ticket.ok:
                raise CommandRefused(
                    f"ticket `{wish.ticket}` will not do: {ticket.detail}", "--ticket ID", code=77, need="ticket"
                )
        if (known := _known(desk, asked)) is not None:
            return known
        if len(desk.standing.requests_of(person.name)) >= PENDING_EACH:
            raise CommandRefused(f"{PENDING_EACH} of your requests wait already", "see: ssh bastion requests")
        need = need_of(rule)
        if need.count:
            event = talk.event("request", place_of(asked), request_detail(asked), why=asked.reason)
            await desk.ledger.write(lambda t: t.access.add_request(asked), event, durable=True)
            desk.standing.ask(asked)
            desk.alarm(event)
            who = f"{need.count} of {' or '.join(need.by)}"
            return Done(
                text=f"request `{asked.id}` waits for {who}, until {shown_time(asked.expires)}",
                data={"request": asked.id, "state": Is.PENDING, "expires": shown_time(asked.expires)},
            )
        grant = await give(desk, talk, asked, need, by=person.name, glass=request.break_glass)
    return Done(text=granted_text(grant), data=grant_data(grant))


async def request_await(desk: Authority, talk: Conversation, request: RequestAwait) -> Done:
    found = await _seen(desk, talk, request.request)
    if found.state == Is.PENDING:
        closed = desk.awaited.setdefault(found.id, trio.Event())
        patience = min(max(request.seconds, 0.0), AWAIT_SECONDS)  # NaN is neither: it waits for nothing
        with trio.move_on_after(patience if patience == patience else 0.0):
            if found.id in desk.standing.requests:
                await closed.wait()
        found = await _seen(desk, talk, request.request)
    grants = [one for one in desk.standing.of_person(found.person) if one.request == found.id and one.token is None]
    data = {"request": found.id, "state": found.state} | (grant_data(grants[0]) if grants else {})
    return Done(text=f"request `{found.id}` is {found.state}{closed_by(found)}", data=data)


# --- looked at and taken back ---------------------------------------------------------------------------


async def request_list(desk: Authority, talk: Conversation, request: RequestList) -> Rows:
    found = list(desk.standing.requests.values())
    if request.all:
        found = await desk.ledger.read(lambda t: t.access.requests(all=True))
    if desk.has_right(talk, Right.AUDIT):
        await desk.ledger.note(talk.event("view", "requests"))
    rows = [row_of(one) for one in sorted(found, key=lambda one: -one.asked) if may_see(desk, talk, one)]
    return Rows(columns=COLUMNS, rows=rows)


async def request_show(desk: Authority, talk: Conversation, request: RequestShow) -> Rows:
    found = await _seen(desk, talk, request.request)
    if not names_behind(talk) & behind(found):
        await desk.ledger.note(talk.event("view", f"request {found.id}"))
    rows = [[name, value] for name, value in zip(COLUMNS[:-1], row_of(found), strict=False)]
    rows += [["rule", found.rule], ["source", found.source]]
    if (rule := current_rule(desk, found)) is not None and found.state == Is.PENDING:
        need = need_of(rule)
        rows.append(["waits for", f"{missing(found, need, desk.counts)} of {' or '.join(need.by)}"])
    rows += [[vote_word(vote), f"{vote.approver} {shown_time(vote.at)} {vote.comment}".strip()] for vote in found.votes]
    if found.closed is not None:
        rows.append(["closed", f"{shown_time(found.closed)} {found.closed_by}"])
    return Rows(columns=["field", "value"], rows=rows)


async def request_cancel(desk: Authority, talk: Conversation, request: RequestCancel) -> Done:
    async with desk.deciding:
        found = await _seen(desk, talk, request.request)
        if not names_behind(talk) & behind(found) and not desk.has_right(talk, Right.KILL):
            raise CommandRefused(f"request `{found.id}` is not yours", f"deny it: ssh bastion deny {found.id}", code=77)
        event = talk.event("request-cancel", found.id, {"person": found.person, "place": place_of(found)})
        await close(desk, found, Is.CANCELLED, talk.who, event)
    return Done(text=f"request `{found.id}` is taken back", data={"request": found.id, "state": Is.CANCELLED})


# --- decided ----------------------------------------------------------------------------------------------


async def decide_request(desk: Authority, talk: Conversation, request: Decide) -> Done:
    """One vote. The one that makes it enough, and the one that says no, close the request in the same transaction."""
    comment, now = text(request.comment, "comment"), time.time_ns()
    async with desk.deciding:
        found = await _seen(desk, talk, request.request)
        rule, who = current_rule(desk, found), approver_of(desk, talk, found.target)
        if rule is None:
            raise CommandRefused(
                f"rule `{found.rule}` does not give this to {found.person} any more",
                "it has to be asked for anew",
                code=77,
            )
        need = need_of(rule)
        if why := objection(found, need, who, now):
            raise CommandRefused(why, "see: ssh bastion requests", code=77)
        vote = Vote(
            approver=who.name, roles=who.marked, approve=request.approve, comment=comment, source=talk.source, at=now
        )
        event = talk.event(
            "request-approve" if request.approve else "request-deny", found.id,
            {"person": found.person, "place": place_of(found), "as": who.name, "roles": " ".join(sorted(who.roles))},
            why=comment,
        )  # fmt: skip
        return await cast_vote(desk, talk, found, need, vote, event)


async def _seen(desk: Authority, talk: Conversation, ident: str) -> AccessRequest:
    found = desk.standing.requests.get(ident)
    if found is None:
        found = await desk.ledger.read(lambda t: t.access.request(ident[:16]))
    if found is None or not may_see(desk, talk, found):
        # Not there and not yours look alike.
        raise CommandRefused(f"no request `{printable(ident)}`", "see: ssh bastion requests", code=77)
    return found


def _known(desk: Authority, asked: AccessRequest) -> Done | None:
    """What the same wish has led to before, if it is the same one and not over: then it is a new one."""
    for one in desk.standing.requests_of(asked.person):
        if same(one, asked) and asked.asked < one.expires:
            return Done(text=f"request `{one.id}` waits already", data={"request": one.id, "state": one.state})
    for grant in desk.standing.at(asked.person, asked.account, asked.target):
        fresh = asked.asked - grant.made < REPLAYED_SECONDS * 1_000_000_000
        alike = (grant.kinds, grant.uses, grant.reason) == (asked.kinds, asked.uses, asked.reason)
        holds = grant.token is None and asked.asked < grant.ends and not 0 < grant.uses <= grant.used
        if fresh and alike and holds and grant.made_by == asked.person:
            return Done(text=granted_text(grant), data=grant_data(grant))
    return None
