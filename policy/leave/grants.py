"""Grants: given without a request, listed, revoked, ended when their time is over; and what waits for a person."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog
import trio

from policy.authority import Authority, ended_note
from policy.checkout import telling
from policy.conversation import Conversation, State
from policy.leave.concerned import approver_of, facts_about, gives_anything, may_decide, may_give, the_rule
from policy.leave.deciding import attempt, cast_vote, close, new_id
from policy.leave.requests import Approver, Wish, behind, drawn_up, need_of, text
from policy.leave.requests import State as Is
from policy.messages import Done, GrantAdd, GrantList, GrantRevoke, Notices, Rows
from policy.naming import CommandRefused, counted, shown_time
from policy.operators import names_behind
from policy.records import AccessGrant, AccessRequest, Person, Vote
from policy.rules.conditions import named
from policy.rules.rights import Right
from policy.rules.words import GIVEN
from policy.sessions.access import may_watch
from policy.sessions.words import grant_data, place_of, printable, request_detail
from policy.store import Conflict, Tables
from policy.trail import audit
from policy.trail.audit import Event
from policy.trail.ledger import LedgerError

SWEEP_SECONDS: Final = 10.0
"""How late an end is written down at most, should the wall clock have been set; else it is in time."""
SOON: Final = 15 * 60 * 1_000_000_000
"""Before its end a grant is named among the notices."""

COLUMNS: Final = [
    "grant", "state", "person", "account", "target", "kinds", "starts", "ends", "uses", "used", "token", "reason",
    "ticket", "made by", "request",
]  # fmt: skip

log = structlog.get_logger()


async def grant_add(desk: Authority, talk: Conversation, request: GrantAdd) -> Done:
    """One approval, given unasked. Where the rule wants more of them, a request waits for the others."""
    now = time.time_ns()
    wish = Wish.of(
        kinds=request.kinds, start=request.start, seconds=request.seconds, uses=request.uses, reason=request.reason,
        now=now,
    )  # fmt: skip
    async with desk.deciding:
        giver, given = giver_of(desk, talk, request.target)
        if not given and not gives_anything(desk, giver):
            # Before anything is said about the person: who may give nothing learns no names.
            raise CommandRefused("you may not give this", "ask whoever approves it", code=77)
        person = the_person(desk, request.person)
        if person.name in giver.names:
            raise CommandRefused("nobody gives leave to themselves", "ask for it: ssh bastion request", code=77)
        facts = facts_about(desk, person, request.account, request.target, talk, wish.kinds)
        if not given and not may_give(desk, giver, facts):
            raise CommandRefused("you may not give this", "ask whoever approves it", code=77)
        rule = the_rule(desk, facts, wish, anywhere=True)
        need = need_of(rule)
        if need.count and not given and not named(need, giver.roles, owner=giver.owner):
            raise CommandRefused(f"this is for {' or '.join(need.by)} to give", "ask one of them", code=77)
        made = drawn_up(wish, rule, facts, ident=new_id("r"), now=now, asked_by={person.name})
        made = replace(made, source=talk.source)
        vote = Vote(
            approver=giver.name, roles=giver.marked | ({GIVEN} if given else frozenset()), approve=True,
            comment="given without a request", source=talk.source, at=now,
        )  # fmt: skip
        event = talk.event("grant-add", f"{person.name} on {place_of(made)}", request_detail(made), why=made.reason)
        await attempt(desk, lambda t: t.access.add_request(made), event)
        desk.standing.ask(made)
        voted = talk.event("request-approve", made.id, {"person": person.name, "place": place_of(made)})
        return await cast_vote(desk, talk, made, need, vote, voted)


async def grant_list(desk: Authority, talk: Conversation, request: GrantList) -> Rows:
    own = talk.state is State.PERSON and request.person in ("", talk.person) and not desk.has_right(talk, Right.AUDIT)
    if not own and not desk.has_right(talk, Right.AUDIT):
        raise CommandRefused("grants of another person are not shown to you", "see yours: ssh bastion grants", code=77)
    person = talk.person if own else request.person
    if not own:
        await desk.ledger.note(talk.event("view", "grants", {"person": person}))
    if request.all:
        found = await desk.ledger.read(lambda t: t.access.grants(person))
    else:
        found = [one for one in desk.standing.all() if person in ("", one.person)]
    now = time.time_ns()
    rows = [_row(one, now) for one in sorted(found, key=lambda one: -one.made)]
    return Rows(columns=COLUMNS, rows=rows)


async def grant_revoke(desk: Authority, talk: Conversation, request: GrantRevoke) -> Done:
    """Those who gave it, the one who has it, owners, and whoever may end sessions."""
    why = audit.clean(text(request.reason, "reason"), 256)
    async with desk.deciding:
        grant = desk.standing.get(request.grant)
        if grant is None or not _may_revoke(desk, talk, grant):
            raise CommandRefused(
                f"no grant `{printable(request.grant)}` is in force", "see: ssh bastion grants", code=77
            )
        # What was handed on from it goes with it.
        gone = [grant, *(one for one in desk.standing.of_person(grant.person) if _heir(one, grant))]
        events = [talk.event("grant-revoke", one.id, _detail(one), why=why) for one in gone]
        said = f"the leave was taken back{f': {why}' if why else ''}"
        try:
            await revoke(desk, talk.who, gone, why, events)
        except LedgerError:
            # Who is in goes even so, as with a kill; while nothing can be written nobody else gets in.
            with suppress(LedgerError):
                await end_resting(desk, gone, talk.who, said)
            raise
    ended = await end_resting(desk, gone, talk.who, said)
    return Done(
        text=f"revoked grant `{grant.id}` of {grant.person} on {place_of(grant)}{ended_note(ended)}",
        data={"grant": grant.id, "person": grant.person, "sessions_ended": str(ended)},
    )


async def revoke(desk: Authority, by: str, grants: list[AccessGrant], why: str, events: list[Event]) -> None:
    """In the database, then in memory: from then on no decision finds them. Holding `desk.deciding`."""
    now = time.time_ns()

    def change(t: Tables) -> None:
        for grant in grants:
            if not t.access.revoke_grant(grant.id, by, why, now):
                raise Conflict(f"grant `{grant.id}` is not in force any more")

    await attempt(desk, change, *events)
    for grant in grants:
        desk.standing.drop(grant.id)
    desk.checkouts.wake()


async def void(
    desk: Authority, talk: Conversation, why: str, concerned: Callable[[AccessGrant | AccessRequest], bool]
) -> None:
    """End what was given and asked for about something that is gone: a name that comes back finds nothing there."""
    async with desk.deciding:
        if gone := [grant for grant in desk.standing.all() if concerned(grant)]:
            events = [talk.event("grant-revoke", one.id, _detail(one), why=why) for one in gone]
            await revoke(desk, talk.who, gone, why, events)
        for request in [one for one in desk.standing.requests.values() if concerned(one)]:
            detail = {"person": request.person, "place": place_of(request)}
            await close(
                desk, request, Is.CANCELLED, talk.who, talk.event("request-cancel", request.id, detail, why=why)
            )


async def end_resting(desk: Authority, grants: list[AccessGrant], by: str, why: str) -> int:
    """End the sessions that rest on grants which are gone, also one that is just beginning."""
    names = {grant.id for grant in grants}
    return await desk.end_sessions([live for live in desk.sessions.all() if live.grant in names], by, why)


async def notices(desk: Authority, talk: Conversation, _: Notices) -> Rows:
    rows = [
        ["request", one.id, f"{one.person} asks for {place_of(one)}: {one.reason}", f"ssh bastion approve {one.id}"]
        for one in desk.standing.requests.values()
        if may_decide(desk, talk, one) and not _done_with(talk, one)
    ]
    if desk.has_right(talk, Right.AUDIT):
        for owed in await desk.ledger.read(lambda t: t.access.reviews()):
            grant = owed.grant
            what = f"{grant.person} broke the glass of {place_of(grant)}: {grant.reason}"
            if grant.person not in names_behind(talk):
                rows.append(["review", grant.id, what, f"ssh bastion review write {grant.id}"])
    for live in desk.sessions.all():
        if live.watched and not live.watchers and may_watch(desk, talk, live):
            what = f"{live.person} on {live.account}@{live.target} waits for somebody to look on"
            rows.append(["watch", live.id, what, f"ssh bastion watch {live.id}"])
    for grant in desk.standing.of_person(talk.person):
        if grant.ends - time.time_ns() <= SOON and grant.token is None:
            what = f"your leave for {place_of(grant)} ends at {shown_time(grant.ends)}"
            rows.append(["grant", grant.id, what, f"ssh bastion request {place_of(grant)}"])
    rows += await telling.notices(desk, talk)
    if talk.recovery_left is not None:
        left = counted(talk.recovery_left, "recovery code")
        rows.append(["recovery", "", f"you logged in with a recovery code; {left} left", "ssh bastion mfa recovery"])
    return Rows(columns=["kind", "id", "text", "command"], rows=rows)


# --- what is over -------------------------------------------------------------------------------------------


async def close_what_is_over(desk: Authority) -> None:
    """Write down the end of grants and of requests nobody decided, until cancelled.

    What is written stays so: a clock that is set back revives nothing.
    """
    while True:
        woken = trio.Event()
        desk.standing.wake = woken.set
        try:
            await _close_what_is_over(desk)
        except (LedgerError, CommandRefused) as error:
            log.error("grants-not-closed", error=str(error))
            await trio.sleep(SWEEP_SECONDS)  # they hold for nobody; what is missing is that it is written down
        ends = [request.expires for request in desk.standing.requests.values()]
        if (first := desk.standing.next_end()) is not None:
            ends.append(first)
        wait = (min(ends) - time.time_ns()) / 1e9 + 0.01 if ends else SWEEP_SECONDS
        with trio.move_on_after(min(SWEEP_SECONDS, max(0.1, wait))):
            await woken.wait()


async def _close_what_is_over(desk: Authority) -> None:
    now = time.time_ns()
    async with desk.deciding:
        if over := desk.standing.over(now):
            events = [Event(event="grant-over", who="policyd", what=one.id, detail=_detail(one)) for one in over]
            await revoke(desk, "policyd", over, "over", events)
        for request in [one for one in desk.standing.requests.values() if one.expires <= now]:
            detail = {"person": request.person, "place": place_of(request)}
            event = Event(event="request-expired", who="policyd", what=request.id, detail=detail)
            await close(desk, request, Is.EXPIRED, "policyd", event)
    if over:
        names = {one.id for one in over}
        for live in desk.sessions.all():
            if live.grant in names:  # the wall clock was set on: sessions keep their time by another one
                desk.sessions.limit(live, trio.current_time())


# --- who and what -------------------------------------------------------------------------------------------


def the_person(desk: Authority, name: str) -> Person:
    person = desk.roster.person(name)
    if person is None or person.disabled:
        raise CommandRefused(f"no person `{audit.clean(name, 64)}` who could use it", "see `bastion person list`")
    return person


def giver_of(desk: Authority, talk: Conversation, target: str) -> tuple[Approver, bool]:
    """Who gives, and whether by a right that stands beside every rule: as owner, administrator or operator."""
    try:
        giver = approver_of(desk, talk, target)
    except CommandRefused:  # an operator whose login is nobody's
        return Approver(name=f"operator uid {talk.peer.uid}", names=names_behind(talk), roles=frozenset()), True
    return giver, giver.owner or desk.has_right(talk, Right.ADMINISTER)


def _may_revoke(desk: Authority, talk: Conversation, grant: AccessGrant) -> bool:
    names = names_behind(talk)
    record = desk.roster.target(grant.target)
    owner = talk.state is State.PERSON and record is not None and approver_of(desk, talk, grant.target).owner
    gave = {vote.approver for vote in grant.votes} | {grant.made_by, grant.person}
    return bool(names & gave) or owner or desk.has_right(talk, Right.KILL)


def _heir(one: AccessGrant, grant: AccessGrant) -> bool:
    """Whether a token was made from this grant."""
    return one.token is not None and one.request == grant.request and grant.token is None and one.request is not None


def _done_with(talk: Conversation, request: AccessRequest) -> bool:
    names = names_behind(talk)
    return bool(names & behind(request)) or any(vote.approver in names for vote in request.votes)


def _detail(grant: AccessGrant) -> dict[str, str]:
    return {"person": grant.person, "place": place_of(grant), "used": str(grant.used)} | {
        key: value for key, value in grant_data(grant).items() if key in ("ends", "request") and value
    }


def _row(one: AccessGrant, now: int) -> list[str]:
    state = "over" if one.ends <= now else "waiting" if one.starts > now else "active"
    if one.revoked is not None:
        state = "over" if one.revoked_by == "policyd" else f"revoked by {one.revoked_by}"
    elif 0 < one.uses <= one.used:
        state = "used up"
    if one.break_glass:
        state += ", break-glass"
    return [
        one.id, state, one.person, one.account, one.target, " ".join(sorted(one.kinds)), shown_time(one.starts),
        shown_time(one.ends), str(one.uses or ""), str(one.used), "yes" if one.token else "", one.reason, one.ticket,
        one.made_by, one.request or "",
    ]  # fmt: skip
