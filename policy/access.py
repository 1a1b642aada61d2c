"""May this person use this account on this target, and open this channel there, now? Answered, kept, and remembered.

The decision itself is `policy.decide`; here are the facts it rests on, and what follows from it.
"""

import math
import os
import time
from datetime import UTC, datetime, timedelta
from typing import Final

import trio

from policy.audit import Event
from policy.authority import Authority
from policy.conditions import Factor, Facts, TicketFact
from policy.conversation import Conversation, State
from policy.decide import (
    EXPLAIN_COLUMNS,
    Allow,
    Deny,
    attainable,
    decide,
    denial_for_audit,
    denial_for_person,
    explain,
)
from policy.messages import (
    Allowed,
    Authorize,
    Done,
    Explain,
    Grant,
    OpenChannel,
    Reachable,
    Refused,
    Report,
    Rows,
    SessionEnded,
    SessionStarted,
    Whoami,
)
from policy.model import ChannelKind
from policy.names import plain_address
from policy.naming import CommandRefused, instant, shown_time
from policy.sessions import Live
from policy.store.records import Session

VIA: Final = frozenset({"direct", "jump", "menu"})
MAX_SESSIONS: Final = 64
"""Live sessions of one conversation; a gateway opens at most 20 channels on one connection."""

NOT_LIVE: Final = "this session has ended"
_ONE_KIND: Final = "channel kind `{}` does not exist"


async def authorize(desk: Authority, talk: Conversation, request: Authorize) -> Grant | Refused:
    """A Grant for one session, or the same words for every name and right that does not hold."""
    facts = facts_of(desk, talk, request.account, request.target, ticket=request.ticket, reason=request.reason)
    if tickets := await desk.tickets.look_up(desk, facts):
        facts = facts_of(  # a call may take seconds, in which a person is disabled or a rule begins to forbid
            desk, talk, request.account, request.target, ticket=request.ticket, reason=request.reason, tickets=tickets
        )
    what = f"{request.account}@{request.target}"
    decision = decide(desk.rules, facts)
    if isinstance(decision, Deny):
        return await _denied(desk, talk, facts, decision, what)
    target, account = desk.roster.target(request.target), desk.roster.account(request.target, request.account)
    assert target, "decide denies what has no record"
    assert account, "decide denies what has no record"
    if not target.host_keys:
        return await desk.refuse(
            talk, "access-refused", "target has no pinned host key", *_unpinned(request.target), code=78, what=what
        )
    if request.port not in (0, target.port) or request.via not in VIA or len(talk.sessions) >= MAX_SESSIONS:
        why = f"port {request.port}, via `{request.via[:16]}`, {len(talk.sessions)} sessions of this connection"
        return await desk.refuse_access(talk, what, why)
    live = Live(
        id=_session_id(), talk=talk, person=talk.person, account=account.name, target=target.name,
        address=target.address, port=target.port, source=talk.source, via=request.via, rule=decision.rule,
        kinds=decision.kinds, reason=request.reason, ticket=request.ticket, factors=facts.factors,
        tickets=facts.tickets, deadline=_deadline(decision),
    )  # fmt: skip
    # Known before it is kept: whoever disables this person while we write finds the session and ends it.
    desk.sessions.add(live)
    try:
        await desk.ledger.write(lambda t: t.add_session(_row(live, decision)), _granted(live, decision))
    except BaseException:
        desk.sessions.drop(live.id)
        raise
    if desk.sessions.of(talk, live.id) is None:
        return await desk.refuse(talk, "access-refused", "ended while it was granted", NOT_LIVE, what=what)
    return Grant(
        session=live.id,
        person=live.person,
        account=live.account,
        target=live.target,
        address=live.address,
        port=live.port,
        host_keys=list(target.host_keys),
        kinds=sorted(decision.kinds),
        rule=decision.rule,
        expires_in=_seconds(decision.expires_in),
        idle=_seconds(decision.idle),
        record_sync=decision.record_sync,
        keep_content=decision.keep_content,
        commitment_key=desk.vault.commitment_key(live.id),
        source=live.source,
    )


async def open_channel(desk: Authority, talk: Conversation, request: OpenChannel) -> Allowed | Refused:
    """Decided again by the rules and facts of this moment: a grant is no promise for later channels."""
    live = desk.sessions.of(talk, request.session)
    if live is None:
        return await desk.refuse(talk, "channel-refused", "no such live session", NOT_LIVE)
    what = f"{request.kind} on {live.account}@{live.target}"
    try:
        kind = ChannelKind(request.kind)
    except ValueError:
        return await desk.refuse(
            talk, "channel-refused", "unknown kind", _ONE_KIND.format(request.kind[:32]), what=what, session=live.id
        )
    facts = facts_of(
        desk, talk, live.account, live.target, kind, ticket=live.ticket, reason=live.reason, factors=live.factors,
        tickets=live.tickets,
    )  # fmt: skip
    decision = decide(desk.rules, facts)
    if isinstance(decision, Deny):
        return await _denied(desk, talk, facts, decision, what, event="channel-refused", session=live.id)
    forced = talk.speaker.force_command if talk.speaker else ""
    if forced and (kind is not ChannelKind.EXEC or request.detail != forced):
        why = "the certificate forces another command"
        return await desk.refuse(talk, "channel-refused", why, why, what=what, session=live.id)
    if live.deadline <= trio.current_time():
        return await desk.refuse(talk, "channel-refused", "expired", NOT_LIVE, what=what, session=live.id)
    await desk.ledger.note(
        Event(
            event="channel-open",
            who=live.person,
            what=what,
            why=decision.rule,
            source=live.source,
            session=live.id,
            detail={"kind": kind.value, "detail": request.detail} if request.detail else {"kind": kind.value},
        )
    )
    if desk.sessions.of(talk, live.id) is not live:
        return Refused(code=77, cause=NOT_LIVE)
    live.opened.add(kind)
    return Allowed()


async def recheck(desk: Authority, *, by: str = "policyd", person: str = "") -> int:
    """End live sessions that would not be granted now, or not with what is open in them; how many that were.

    Rules, roles and hours change while people work; what was revoked ends (design, invariant 3).
    """
    gone = []
    for count, live in enumerate(desk.sessions.all()):
        if count % 64 == 63:
            await trio.lowlevel.checkpoint()
        if person not in ("", live.person):
            continue
        facts = facts_of(
            desk, live.talk, live.account, live.target, ticket=live.ticket, reason=live.reason, factors=live.factors,
            tickets=live.tickets,
        )  # fmt: skip
        decision = decide(desk.rules, facts)
        if isinstance(decision, Deny) or not live.opened <= decision.kinds:
            gone.append(live)
    return await desk.end_sessions(gone, by, "no longer allowed")


async def session_started(desk: Authority, talk: Conversation, request: SessionStarted) -> Done:
    return await desk.sessions.started(talk, request)


async def session_ended(desk: Authority, talk: Conversation, request: SessionEnded) -> Done:
    return await desk.sessions.ended(talk, request)


async def report(desk: Authority, talk: Conversation, request: Report) -> Done:
    return await desk.sessions.report(talk, request)


# --- commands ---------------------------------------------------------------------------------------


async def whoami(desk: Authority, talk: Conversation, _: Whoami) -> Rows:
    if talk.state is State.OPERATOR:
        return Rows(columns=["field", "value"], rows=[["operator", talk.who], ["rights", "everything"]])
    person = desk.roster.person(talk.person)
    roles = sorted(person.roles) if person else []
    rows = [["person", talk.person], ["roles", " ".join(roles)], ["source", talk.source]]
    rows += [["proven by", factor.kind.value] for factor in desk.factors(talk) if factor.here]
    rows += [["session", f"{live.id} {live.account}@{live.target}"] for live in desk.sessions.of_person(talk.person)]
    return Rows(columns=["field", "value"], rows=rows)


async def reachable(desk: Authority, talk: Conversation, _: Reachable) -> Rows:
    """What this person may use now; what needs only more of the person (a code, a reason) is listed with it."""
    if talk.state is State.OPERATOR:
        raise CommandRefused("an operator is no person", "use `bastion policy explain PERSON ACCOUNT@TARGET`")
    rows = []
    for count, account in enumerate(desk.roster.accounts()):
        if count % 64 == 63:
            await trio.lowlevel.checkpoint()  # a thousand decisions take a while; others are served in between
        facts = facts_of(desk, talk, account.name, account.target)
        target = desk.roster.target(account.target)
        match decide(desk.rules, facts):
            case Allow() as allow if target is not None and target.host_keys:
                labels = " ".join(f"{key}={value}" for key, value in sorted(target.labels.items()))
                rows.append([account.target, account.name, " ".join(sorted(allow.kinds)), "", labels])
            case Deny() as deny if target is not None and attainable(deny):
                rows.append([account.target, account.name, "", deny.causes[0].why.value, ""])
    return Rows(columns=["target", "account", "channels", "needs", "labels"], rows=rows)


async def explain_access(desk: Authority, talk: Conversation, request: Explain) -> Rows:
    """Each condition of each rule, for a person who need not be there."""
    person = desk.roster.person(request.person)
    if person is None:
        raise CommandRefused(f"no person `{request.person[:64]}`", "see `bastion person list`")
    try:
        kind = ChannelKind(request.channel) if request.channel else None
    except ValueError:
        raise CommandRefused(_ONE_KIND.format(request.channel[:32]), f"one of {', '.join(ChannelKind)}") from None
    moment = instant(request.at) if request.at else time.time_ns()
    if request.source:
        try:
            plain_address(request.source)
        except ValueError:
            raise CommandRefused(f"source `{request.source[:64]}` is no address", "want one like 192.0.2.7") from None
    target = desk.roster.target(request.target)
    facts = Facts(
        person=person.name,
        roles=person.roles,
        account=request.account,
        target=request.target,
        labels=target.labels if target else {},
        now=datetime.fromtimestamp(moment / 1e9, UTC),
        source=request.source or "127.0.0.1",
        channel=kind,
        disabled=person.disabled,
        known=desk.roster.account(request.target, request.account) is not None,
    )
    what = f"explain {person.name} on {request.account}@{request.target}"
    await desk.ledger.note(talk.event("view", what))
    note = f"at {shown_time(moment)} from {facts.source}, without second factor, ticket or reason"
    if target is not None and not target.host_keys:
        note += "; refused whatever the rules say: the target has no pinned host key"
    return Rows(columns=list(EXPLAIN_COLUMNS), rows=explain(desk.rules, facts), note=note)


def may_come_to(desk: Authority, talk: Conversation, target: str) -> bool:
    """Whether this person may use an account there, now or once something is brought along: else there is no target."""
    names = [account.name for account in desk.roster.accounts(target)] or [""]  # unknown targets take as long
    return any(attainable(decide(desk.rules, facts_of(desk, talk, name, target))) for name in names)


# --- how --------------------------------------------------------------------------------------------


def facts_of(
    desk: Authority, talk: Conversation, account: str, target: str, channel: ChannelKind | None = None,
    *, ticket: str = "", reason: str = "", factors: tuple[Factor, ...] | None = None,
    tickets: tuple[TicketFact, ...] = (),
) -> Facts:  # fmt: skip
    """What is known now. `factors`: as they were at the authorisation; a session that lives keeps its proof."""
    person = desk.roster.person(talk.person)
    record = desk.roster.target(target)
    return Facts(
        person=talk.person,
        roles=person.roles if person else frozenset(),
        account=account,
        target=target,
        labels=record.labels if record else {},
        now=datetime.now(UTC),
        source=talk.source,
        channel=channel,
        disabled=person is None or person.disabled,
        known=desk.roster.account(target, account) is not None,
        factors=desk.factors(talk) if factors is None else factors,
        ticket=ticket,
        reason=reason,
        tickets=tickets,
        withheld=talk.speaker.withheld if talk.speaker else frozenset(),
    )


async def _denied(
    desk: Authority, talk: Conversation, facts: Facts, deny: Deny, what: str,
    *, event: str = "access-refused", session: str = "",
) -> Refused:  # fmt: skip
    cause, hint = denial_for_person(deny, facts)
    why = denial_for_audit(deny)
    return await desk.refuse(talk, event, why, cause, hint, what=what, session=session)


def _unpinned(target: str) -> tuple[str, str]:
    return f"the host key of `{target}` is not pinned", "ask an administrator: bastion target hostkey"


def _granted(live: Live, allow: Allow) -> Event:
    return Event(
        event="access-granted",
        who=live.person,
        what=f"{live.account}@{live.target}",
        why=allow.rule,
        source=live.source,
        session=live.id,
        detail={
            "kinds": " ".join(sorted(allow.kinds)),
            "rules": "; ".join(allow.rules),
            "via": live.via,
            "address": f"{live.address}:{live.port}",
            **({"seconds": f"{allow.expires_in.total_seconds():.0f}"} if allow.expires_in else {}),
            **({"reason": live.reason} if live.reason else {}),
            **({"ticket": live.ticket} if live.ticket else {}),
        },
    )


def _row(live: Live, allow: Allow) -> Session:
    now = time.time_ns()
    expires = now + int(allow.expires_in.total_seconds() * 1e9) if allow.expires_in else None
    return Session(
        id=live.id, person=live.person, account=live.account, target=live.target, source=live.source, via=live.via,
        rule=live.rule, granted=now, expires=expires,
    )  # fmt: skip


def _deadline(allow: Allow) -> float:
    return trio.current_time() + allow.expires_in.total_seconds() if allow.expires_in else math.inf


def _seconds(limit: timedelta | None) -> float | None:
    return limit.total_seconds() if limit is not None else None


def _session_id() -> str:
    """A UUIDv7 (RFC 9562 section 5.7) as 32 hexadecimal digits: sorts by time, and cannot be guessed."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    return f"{value & ~(0x3 << 62) | 0x2 << 62:032x}"  # variant
