"""Four eyes: who looks at a session, and that a session whose rule wants it passes nothing while nobody does."""

from policy.authority import Authority
from policy.conversation import Conversation, State
from policy.messages import Done, WatchBegin, WatchEnd
from policy.naming import CommandRefused
from policy.sessions.access import may_watch
from policy.sessions.live import MAX_WATCHERS, Live


async def watch_begin(desk: Authority, talk: Conversation, request: WatchBegin) -> Done:
    live = _live(desk, request.session)
    if not may_watch(desk, talk, live):
        raise CommandRefused("nobody watches over themselves, under whatever name", "ask somebody else", code=77)
    if len(live.watchers) >= MAX_WATCHERS:
        raise CommandRefused(f"{MAX_WATCHERS} look at this session already", code=69)
    await desk.ledger.note(talk.event("watch-begin", _what(live), {"session": live.id}))
    # Kept first; meanwhile the session may have ended, or whoever wants to look may have lost the right, or left.
    if desk.sessions.get(live.id) is not live or talk.state is State.OVER or not may_watch(desk, talk, live):
        raise CommandRefused("this session has just ended", "see: ssh bastion sessions")
    await desk.sessions.watch(live, talk)
    return Done(
        text=f"watching session `{live.id}` of {live.person} on {live.account}@{live.target}",
        data={"session": live.id, "person": live.person, "account": live.account, "target": live.target},
    )


async def watch_end(desk: Authority, talk: Conversation, request: WatchEnd) -> Done:
    live = _live(desk, request.session)
    await desk.sessions.unwatch(live, talk)
    await desk.ledger.note(talk.event("watch-end", _what(live), {"session": live.id}))
    return Done(text=f"no longer watching session `{live.id}`", data={"session": live.id})


def _live(desk: Authority, ident: str) -> Live:
    if (live := desk.sessions.get(ident)) is None:
        shown = "".join(char for char in ident[:32] if char.isalnum())
        raise CommandRefused(f"no live session `{shown}`", "see: ssh bastion sessions")
    return live


def _what(live: Live) -> str:
    return f"{live.person} on {live.account}@{live.target}"
