"""Access tokens: a grant with a secret that logs in by itself, made here and shown once.

A token gives nothing that its person could not have: rules stand as for every login, what they want approved has to be
approved, and the second factor that a rule wants is shown by whoever makes the token.
"""

import base64
import hashlib
import os
import time
from dataclasses import replace
from datetime import timedelta
from typing import Final

from policy.authority import Authority
from policy.conversation import Conversation, State
from policy.leave.concerned import asker, facts_about, gives_anything, may_give, the_rule
from policy.leave.deciding import attempt, give, new_id
from policy.leave.grants import giver_of, the_person
from policy.leave.requests import SECOND, Wish, drawn_up
from policy.leave.requests import need_of as approval_of
from policy.messages import Done, Refused, TokenAdd
from policy.model import ChannelKind
from policy.naming import CommandRefused, counted, shown_time
from policy.operators import names_behind
from policy.records import AccessGrant, Person, Vote
from policy.rules.conditions import Factor, FactorKind, Facts
from policy.rules.decide import Allow, Deny, decide, denial_for_audit, denial_for_person, need_of
from policy.rules.ruleset import LONGEST
from policy.rules.words import GIVEN
from policy.sessions.words import grant_data, place_of
from policy.store import Conflict, Tables

PREFIX: Final = "ticket-"
SECRET_BYTES: Final = 25
"""200 bits: 40 characters of base32."""


async def token_add(desk: Authority, talk: Conversation, request: TokenAdd) -> Done | Refused:
    now = time.time_ns()
    if request.uses < 1 or request.seconds < 1:
        raise CommandRefused("a token has an end, and a number of sessions", "--for 1h --uses 1")
    wish = Wish.of(
        kinds=request.kinds, start="", seconds=request.seconds, uses=request.uses,
        reason=request.reason, now=now,
    )  # fmt: skip
    if ChannelKind.CHECKOUT in wish.kinds:
        raise CommandRefused(
            "a token opens sessions, and shows no password", "check it out: ssh bastion vault checkout"
        )
    secret = PREFIX + base64.b32encode(os.urandom(SECRET_BYTES)).decode().lower()
    digest = hashlib.sha256(secret.encode()).digest()
    own = request.person == "" or request.person in names_behind(talk)
    if not own:
        giver, given = giver_of(desk, talk, request.target)
        if not given and not gives_anything(desk, giver):
            raise CommandRefused("you may not make tokens for others", "each makes their own", code=77)
    person = asker(desk, talk) if request.person == "" else the_person(desk, request.person)
    if (by := talk.speaker) is not None and (by.force_command or by.withheld or by.placed):
        # Attack: a certificate for one command, turned into a token for every command.
        raise CommandRefused("your certificate is limited, and a token is not", "log in with your key", code=77)
    async with desk.deciding:
        facts = _facts(desk, talk, person, request, wish)
        decision = decide(desk.rules, facts)
        if not own and not _may_hand_out(desk, talk, facts):
            raise CommandRefused("you may not make tokens for others", "each makes their own", code=77)
        if isinstance(decision, Deny) and not own and need_of(decision) == "approval":
            grant = await _given(desk, talk, person, facts, wish, digest)
        elif isinstance(decision, Deny):
            cause, hint = denial_for_person(decision, facts)
            return await desk.refuse(
                talk, "token-refused", denial_for_audit(decision), cause, hint,
                what=f"{person.name} on {facts.account}@{facts.target}", need=need_of(decision),
            )  # fmt: skip
        else:
            grant = await _drawn(desk, talk, person, decision, facts, wish, digest)
    return Done(
        text=f"token for {person.name} on {place_of(grant)}, {counted(grant.uses, 'session')}, until "
        f"{shown_time(grant.ends)} ({grant.id}); shown this once: {secret}",
        data=grant_data(grant) | {"token": secret},
    )


async def _given(
    desk: Authority, talk: Conversation, person: Person, facts: Facts, wish: Wish, digest: bytes
) -> AccessGrant:
    """What the rule wants approved, whoever makes the token approves with it, if one approval is enough."""
    giver, given = giver_of(desk, talk, facts.target)
    rule = the_rule(desk, facts, wish, anywhere=True)
    need = approval_of(rule)
    if need.count > 1:
        raise CommandRefused(f"this wants {need.count} approvals", "let them ask: ssh bastion request", code=77)
    now = time.time_ns()
    roles = giver.marked | ({GIVEN} if given else frozenset())
    vote = Vote(approver=giver.name, roles=roles, approve=True, comment="token", source=talk.source, at=now)
    made = drawn_up(wish, rule, facts, ident=new_id("r"), now=now, asked_by={person.name}, votes=(vote,))
    return await give(desk, talk, made, need, by=giver.name, token=digest)


async def _drawn(
    desk: Authority, talk: Conversation, person: Person, allow: Allow, facts: Facts, wish: Wish, digest: bytes
) -> AccessGrant:
    """What the person may do now, put into a token: of a grant it takes over the end, the votes and as many uses."""
    now, source = time.time_ns(), desk.standing.get(allow.grant)
    kinds = frozenset(wish.kinds) or allow.kinds
    if not kinds <= allow.kinds:
        raise CommandRefused("not all of these kinds are allowed there", "see: ssh bastion ls", code=77)
    longest = int(LONGEST.total_seconds())
    if wish.seconds > longest:
        raise CommandRefused(f"a token lasts {longest // 3600} hours at most", f"--for {longest // 3600}h")
    ends = now + wish.seconds * SECOND
    if talk.speaker is not None:
        ends = min(ends, talk.speaker.expires_at * SECOND)
    if source is not None:
        if source.break_glass:
            raise CommandRefused("what a glass was broken for is not handed on", code=77)
        ends = min(ends, source.ends)
    grant = AccessGrant(
        id=new_id("g"), request=source.request if source else None, person=person.name, account=facts.account,
        target=facts.target, kinds=kinds, starts=now, ends=ends, uses=wish.uses, reason=wish.reason, made=now,
        made_by=talk.who, token=digest, votes=source.votes if source else (),
    )  # fmt: skip
    event = talk.event(
        "token-add", f"{person.name} on {place_of(grant)}",
        grant_data(grant) | {"uses": str(grant.uses), "kinds": " ".join(sorted(kinds))}, why=wish.reason,
    )  # fmt: skip

    def change(t: Tables) -> None:
        # Attack: a grant for one session made into tokens for many.
        if source is not None and source.uses and not t.access.take_uses(source.id, wish.uses, now):
            raise Conflict("the grant it would be made from has not so many uses left")
        t.access.add_grant(grant)

    await attempt(desk, change, event)
    if source is not None and source.uses:
        desk.standing.used(source.id, wish.uses)
    desk.standing.put(grant)
    return grant


def _facts(desk: Authority, talk: Conversation, person: Person, request: TokenAdd, wish: Wish) -> Facts:
    """Those of the person who will use it, with the proofs of the one who makes it."""
    facts = facts_about(desk, person, request.account, request.target, talk)
    operator = talk.state is State.OPERATOR
    shown = (Factor(kind=FactorKind.TOKEN, age=timedelta()),) if operator else desk.factors(talk)
    grants = desk.standing.facts(person.name, request.account, request.target, time.time_ns(), desk.counts)
    return replace(facts, factors=shown, grants=grants, reason=wish.reason)


def _may_hand_out(desk: Authority, talk: Conversation, facts: Facts) -> bool:
    giver, given = giver_of(desk, talk, facts.target)
    return given or may_give(desk, giver, facts)
