"""May this person use this account on this target, and open this channel there, now? Answered, kept, and remembered.

The decision itself is `policy.rules.decide`; here are the facts it rests on, and what follows from it.
"""

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Final

import trio

from policy.authority import Authority
from policy.conversation import Conversation
from policy.login.codes import ENROL, is_asked
from policy.messages import (
    Allowed,
    Authorize,
    Done,
    EndSession,
    Grant,
    OpenChannel,
    Refused,
    Report,
    SessionEnded,
    SessionStarted,
)
from policy.model import CHANNELS, ChannelKind
from policy.operators import names_behind
from policy.rules.conditions import Factor, Facts, TicketFact
from policy.rules.decide import (
    Allow,
    Decision,
    Deny,
    attainable,
    decide,
    denial_for_audit,
    denial_for_person,
    need_of,
)
from policy.rules.rights import Right
from policy.sessions.granted import granted, row, session_id
from policy.sessions.live import Live
from policy.sessions.words import has_it
from policy.store import Tables
from policy.trail.audit import Event

VIA: Final = frozenset({"direct", "jump", "menu"})
MAX_SESSIONS: Final = 64
"""Live sessions of one conversation; a gateway opens at most 20 channels on one connection."""

NOT_LIVE: Final = "this session has ended"
PENDING: Final = 75
"""Exit code (EX_TEMPFAIL): leave has to be asked for, or to be given, first."""
ONE_KIND: Final = "channel kind `{}` does not exist"


class _Spent(Exception):
    """Somebody else was faster: the grant has no use left, or was revoked, while this was decided."""


async def authorize(desk: Authority, talk: Conversation, request: Authorize) -> Grant | Refused:
    """A Grant for one session, or the same words for every name and right that does not hold."""
    facts, decision = await judged(
        desk, talk, request.account, request.target, ticket=request.ticket, reason=request.reason
    )
    what = f"{request.account}@{request.target}"
    if talk.limited:
        return await desk.refuse(
            talk, "access-refused", "no second factor is enrolled", "a second factor is demanded of you", ENROL,
            what=what, need="mfa",
        )  # fmt: skip
    if isinstance(decision, Deny):
        return await denied(desk, talk, facts, decision, what)
    target, account = desk.roster.target(request.target), desk.roster.account(request.target, request.account)
    assert target, "decide denies what has no record"
    assert account, "decide denies what has no record"
    out = desk.checkouts.at(account.name, target.name)
    if out is not None and out.person != talk.person:
        # What is done while somebody knows the password must be theirs alone: else nobody can tell who did it.
        return await desk.refuse(
            talk, "access-refused", f"checked out by {out.person}", *has_it(out), code=PENDING, what=what
        )
    if not target.host_keys:
        return await desk.refuse(
            talk, "access-refused", "target has no pinned host key", *_unpinned(request.target), code=78, what=what
        )
    if request.port not in (0, target.port) or request.via not in VIA or len(talk.sessions) >= MAX_SESSIONS:
        why = f"port {request.port}, via `{request.via[:16]}`, {len(talk.sessions)} sessions of this connection"
        return await desk.refuse_access(talk, what, why)
    if decision.certificate.binding and account.kind != "user-ca":
        # Attack: the rule wants one command alone, and the account opens by a key or password, which enforce nothing.
        why = f"rule `{decision.rule}` binds certificates, and the account is opened by a {account.kind}"
        return await desk.refuse(
            talk, "access-refused", why, f"`{account.name}` on `{target.name}` cannot be held to what a rule demands",
            "ask an administrator of this bastion: bastion account add --user-ca", code=78, what=what,
        )  # fmt: skip
    live = Live(
        id=session_id(), talk=talk, person=talk.person, account=account.name, target=target.name,
        address=target.address, port=target.port, source=talk.source, via=request.via, rule=decision.rule,
        kinds=decision.kinds, reason=request.reason, ticket=request.ticket, factors=facts.factors,
        tickets=facts.tickets, deadline=_deadline(decision), grant=decision.grant, watched=decision.watched,
        certificate=decision.certificate,
    )  # fmt: skip

    def keep(t: Tables) -> None:
        # Attack: a token for one session, shown by two workers at once. The one that comes first has it.
        if live.grant and not t.access.use_grant(live.grant, time.time_ns()):
            raise _Spent
        t.add_session(row(live, decision))

    # Known before it is kept: whoever disables this person while we write finds the session and ends it.
    desk.sessions.add(live)
    try:
        await desk.ledger.write(keep, granted(live, decision))
    except _Spent:
        desk.sessions.drop(live.id)
        return await _used_up(desk, talk, live.grant, what)
    except BaseException:
        desk.sessions.drop(live.id)
        raise
    desk.standing.used(live.grant)
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
        watched=live.watched and not live.watchers,
    )


async def open_channel(desk: Authority, talk: Conversation, request: OpenChannel) -> Allowed | Refused:
    """Decided again by the rules and facts of this moment: a grant is no promise for later channels."""
    live = desk.sessions.open_of(talk, request.session)
    if live is None:
        return await desk.refuse(talk, "channel-refused", "no such live session", NOT_LIVE)
    what = f"{request.kind} on {live.account}@{live.target}"
    try:
        kind = ChannelKind(request.kind)
        if kind not in CHANNELS:  # a gateway that was broken into would have it counted as opened
            raise ValueError(kind)
    except ValueError:
        return await desk.refuse(
            talk, "channel-refused", "unknown kind", ONE_KIND.format(request.kind[:32]), what=what, session=live.id
        )
    facts = _facts_of_live(desk, live, kind)
    decision = decide(desk.rules, facts)
    if isinstance(decision, Deny):
        return await denied(desk, talk, facts, decision, what, event="channel-refused", session=live.id)
    forced = talk.speaker.force_command if talk.speaker else ""
    if forced and (kind is not ChannelKind.EXEC or request.detail != forced):
        why = "the certificate forces another command"
        return await desk.refuse(talk, "channel-refused", why, why, what=what, session=live.id)
    if not live.certificate.holds(decision.certificate):
        why = "the rules force another command by now"
        return await desk.refuse(talk, "channel-refused", why, NOT_LIVE, what=what, session=live.id)
    event = Event(
        event="channel-open",
        who=live.person,
        what=what,
        why=decision.rule,
        source=live.source,
        session=live.id,
        detail={"kind": kind.value, "detail": request.detail} if request.detail else {"kind": kind.value},
    )
    if decision.grant != live.grant and decision.grant:
        if not await _rests_on(desk, live, decision, event):
            return await _used_up(desk, talk, decision.grant, what, event="channel-refused", session=live.id)
    else:
        await desk.ledger.note(event)
    if desk.sessions.of(talk, live.id) is not live:
        return Refused(code=77, cause=NOT_LIVE)
    live.opened.add(kind)
    if decision.watched and not live.watched:
        live.watched = True
        await desk.sessions.freeze_unwatched(live)  # on its way before the leave to open
    return Allowed()


async def _rests_on(desk: Authority, live: Live, allow: Allow, event: Event) -> bool:
    """A session that began without a grant goes on with one: its use is counted, and the session ends with it."""

    def use(t: Tables) -> None:
        if not t.access.use_grant(allow.grant, time.time_ns()):
            raise _Spent

    try:
        await desk.ledger.write(use, event)
    except _Spent:
        return False
    desk.standing.used(allow.grant)
    live.grant = allow.grant
    desk.sessions.limit(live, _deadline(allow))
    return desk.standing.get(allow.grant) is not None  # revoked while we wrote: nobody saw that we rest on it


async def _used_up(
    desk: Authority, talk: Conversation, grant: str, what: str, *, event: str = "access-refused", session: str = ""
) -> Refused:
    why = f"grant {grant} is used up, over or revoked"
    return await desk.refuse(
        talk, event, why, "what was granted for this is used up or over", "see: ssh bastion grants",
        what=what, session=session,
    )  # fmt: skip


async def recheck(desk: Authority, *, by: str = "policyd", person: str = "") -> int:
    """End live sessions that would not be granted now, or not with what is open in them; how many that were.

    Rules, roles and hours change while people work; what was revoked ends (design, invariant 3).
    """
    gone = []
    for count, live in enumerate(desk.sessions.all()):
        if count % 64 == 63:
            await trio.lowlevel.checkpoint()
        if live.machine or person not in ("", live.person):
            continue
        decision = decide(desk.rules, _facts_of_live(desk, live))
        if isinstance(decision, Deny) or not _goes_on(live, decision):
            gone.append(live)
        elif decision.watched and not live.watched:
            live.watched = True
            await desk.sessions.freeze_unwatched(live)
        for watcher in [one for one in live.watchers if not may_watch(desk, one, live)]:
            await desk.sessions.unwatch(live, watcher)
            await watcher.push(EndSession(session=live.id, by=by, reason="you may not watch it any more"))
    return await desk.end_sessions(gone, by, "no longer allowed")


def _goes_on(live: Live, now: Allow) -> bool:
    """Whether what is open is still allowed, and bound as it has to be by now."""
    return live.opened <= now.kinds and live.certificate.holds(now.certificate)


async def session_started(desk: Authority, talk: Conversation, request: SessionStarted) -> Done:
    return await desk.sessions.started(talk, request)


async def session_ended(desk: Authority, talk: Conversation, request: SessionEnded) -> Done:
    return await desk.sessions.ended(talk, request)


async def report(desk: Authority, talk: Conversation, request: Report) -> Done:
    return await desk.sessions.report(talk, request)


def may_come_to(desk: Authority, talk: Conversation, target: str) -> bool:
    """Whether this person may use an account there, now or once something is brought along: else there is no target."""
    names = [account.name for account in desk.roster.accounts(target)] or [""]  # unknown targets take as long
    return any(attainable(decide(desk.rules, facts_of(desk, talk, name, target))) for name in names)


# --- how --------------------------------------------------------------------------------------------


def facts_of(
    desk: Authority, talk: Conversation, account: str, target: str, channel: ChannelKind | None = None,
    *, ticket: str = "", reason: str = "", factors: tuple[Factor, ...] | None = None,
    tickets: tuple[TicketFact, ...] = (), using: str = "",
) -> Facts:  # fmt: skip
    """What is known now. `factors`: as they were at the authorisation; a session that lives keeps its proof."""
    person = desk.roster.person(talk.person)
    record = desk.roster.target(target)
    if talk.token and (token := desk.standing.get(talk.token)) is not None:
        reason, ticket = reason or token.reason, ticket or token.ticket
    grants = desk.standing.facts(talk.person, account, target, time.time_ns(), desk.counts, token=talk.token)
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
        grants=grants,
        using=using,
        token=talk.token,
    )


async def judged(
    desk: Authority, talk: Conversation, account: str, target: str, channel: ChannelKind | None = None,
    *, ticket: str = "", reason: str = "",
) -> tuple[Facts, Decision]:  # fmt: skip
    """The facts of now, with what ticket systems say of them, and the decision."""
    facts = facts_of(desk, talk, account, target, channel, ticket=ticket, reason=reason)
    if tickets := await desk.tickets.look_up(desk, facts):
        # a call may take seconds, in which a person is disabled or a rule begins to forbid
        facts = facts_of(desk, talk, account, target, channel, ticket=ticket, reason=reason, tickets=tickets)
    return facts, decide(desk.rules, facts)


def _facts_of_live(desk: Authority, live: Live, channel: ChannelKind | None = None) -> Facts:
    return facts_of(
        desk, live.talk, live.account, live.target, channel,
        ticket=live.ticket, reason=live.reason, factors=live.factors, tickets=live.tickets, using=live.grant,
    )  # fmt: skip


def may_watch(desk: Authority, watcher: Conversation, live: Live) -> bool:
    """Somebody else than the session's person, under whatever name, who has the right to look."""
    return desk.has_right(watcher, Right.WATCH) and live.person not in names_behind(watcher)


async def denied(
    desk: Authority, talk: Conversation, facts: Facts, deny: Deny, what: str,
    *, event: str = "access-refused", session: str = "",
) -> Refused:  # fmt: skip
    cause, hint = denial_for_person(deny, facts)
    why, need = denial_for_audit(deny), need_of(deny)
    mine = desk.standing.requests_of(facts.person) if need == "approval" else []
    if waiting := [one.id for one in mine if (one.account, one.target) == (facts.account, facts.target)]:
        cause, hint = f"{cause}; request `{waiting[0]}` waits", "try again when it is approved: ssh bastion requests"
    if need == "mfa" and (person := desk.roster.person(talk.person)) is not None and not is_asked(desk, person):
        hint = ENROL
    return await desk.refuse(
        talk, event, why, cause, hint, what=what, session=session, need=need,
        code=PENDING if need == "approval" else 77,
    )  # fmt: skip


def _unpinned(target: str) -> tuple[str, str]:
    return f"the host key of `{target}` is not pinned", "ask an administrator: bastion target hostkey"


def _deadline(allow: Allow) -> float:
    return trio.current_time() + allow.expires_in.total_seconds() if allow.expires_in else math.inf


def _seconds(limit: timedelta | None) -> float | None:
    return limit.total_seconds() if limit is not None else None
