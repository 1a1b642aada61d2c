"""Commands about what happens: sessions, the rules in force."""

from policy.authority import Authority, ended_note
from policy.conversation import Conversation
from policy.leave.requests import text
from policy.messages import Done, Reload, Rows, SessionKill, SessionsList
from policy.naming import CommandRefused, counted, shown_time
from policy.paging import counted_out
from policy.sessions.access import recheck
from policy.trail import audit


async def sessions_list(desk: Authority, talk: Conversation, request: SessionsList) -> Rows:
    await desk.ledger.note(talk.event("view", "sessions", {"after": request.after}))
    found = await desk.ledger.read(lambda t: t.sessions(all=request.all, after=request.after))
    return counted_out(
        ["session", "person", "account", "target", "source", "granted", "started", "ended", "reason", "rule"],
        (
            (
                one.id,
                [
                    one.id, one.person, one.account, one.target, one.source, shown_time(one.granted),
                    shown_time(one.started), shown_time(one.ended), one.reason, one.rule,
                ],
            )
            for one in found
        ),
        request.limit,
    )  # fmt: skip


async def session_kill(desk: Authority, talk: Conversation, request: SessionKill) -> Done:
    reason = request.reason.strip()
    if not reason:
        raise CommandRefused("a reason is needed: the person is shown it, and the audit trail keeps it")
    live = desk.sessions.get(request.session)
    if live is None:
        raise CommandRefused(f"no live session `{request.session[:64]}`", "see `bastion sessions list`")
    reason = audit.clean(reason, 256)
    if not await desk.sessions.end(live, reason=reason, by=talk.who, event="session-kill"):
        raise CommandRefused(f"session `{live.id}` has just ended")
    return Done(
        text=f"killed session `{live.id}` of {live.person} on {live.account}@{live.target}",
        data={"session": live.id, "person": live.person, "account": live.account, "target": live.target},
    )


async def reload(desk: Authority, talk: Conversation, request: Reload) -> Done:
    problems = await desk.reload(talk.who, talk.source, why=text(request.reason, "reason"))
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise CommandRefused(
            f"the old rules stay in force: {problems[0]}{more}", "see all of it: bastion policy check", code=78
        )
    ended = await recheck(desk, by=talk.who)
    return Done(
        text=f"{counted(len(desk.rules.rules), 'rule')} in force{ended_note(ended)}",
        data={"rules": str(len(desk.rules.rules)), "sessions_ended": str(ended)},
    )
