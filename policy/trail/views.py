"""Views of recordings: who is about to look at what, in the audit trail before it is shown.

Who it is comes from the kernel: the OS user at the other end of the auditors' socket, under the name of the person
if policy knows one of that name, else as `uid NAME`. One connection is one run of a tool; a search of many recordings
says `Viewing` more than once.
"""

import re
from typing import Final

from policy.authority import Authority
from policy.conversation import Conversation, State, Violation
from policy.messages import Noted, Refused, Viewed, Viewing
from policy.model import ViewVerb
from policy.naming import counted
from policy.peers import os_user
from policy.trail import audit
from policy.trail.audit import Event

MAX_RECORDINGS: Final = 500
"""Ids of one message: 17 kB of it, and 17 of the 32 entries that the detail of an event may have."""
MAX_VIEWS: Final = 200
"""Views of one connection that are not over: a search of 100,000 recordings."""
MAX_WORDS: Final = 256
"""Characters of a range, a format or a reason."""

NOBODY: Final = 65534
"""What the kernel shows for a user that has no number in our user namespace (user_namespaces(7)): anybody at all."""

_SESSION: Final = re.compile(r"[0-9a-f]{32}")
_IDS_IN_A_FIELD: Final = 30  # 33 characters each, of audit.MAX_TEXT
_EXPECTED: Final = frozenset({ViewVerb.PLAY, ViewVerb.EXPORT})  # verbs that say `Viewed` when they are over


async def viewing(desk: Authority, talk: Conversation, request: Viewing) -> Noted | Refused:
    """Note it, or say no; nothing is shown before the answer."""
    _check(talk, request)
    sessions = list(dict.fromkeys(request.recordings))
    if (refused := await _identify(desk, talk, _named(sessions))) is not None:
        return refused
    event = await _event(desk, talk, request, sessions)
    row = await desk.ledger.note(event, durable=True)
    talk.state, talk.views[row] = State.AUDITOR, request
    talk.log().info("view", who=talk.who, verb=request.verb, recordings=len(sessions), row=row)
    return Noted(event=row, who=talk.who)


async def viewed(desk: Authority, talk: Conversation, request: Viewed) -> Noted:
    view = talk.views.pop(request.event, None)
    if view is None:
        raise Violation("Viewed of a view that was not noted here, or is over")
    if len(request.sha256) not in (0, 32):
        raise Violation(f"digest of {len(request.sha256)} bytes")
    detail = {
        "until": "" if request.until_ms is None else _clock(max(request.until_ms, 0)),
        "bytes": "" if request.length is None else str(request.length),
        "sha256": request.sha256.hex(),
    }
    row = await desk.ledger.note(_over(talk, request.event, view, detail), durable=True)
    return Noted(event=row, who=talk.who)


async def cut_off(desk: Authority, talk: Conversation) -> None:
    """The connection has ended: a player or an export that was killed has not said how far it came. LedgerError."""
    left = {row: view for row, view in talk.views.items() if view.verb in _EXPECTED}
    talk.views.clear()
    if left:
        await desk.ledger.note(
            *(_over(talk, row, view, {}, why="it did not say how it ended") for row, view in left.items())
        )


def _check(talk: Conversation, request: Viewing) -> None:
    """What no tool of ours sends. The attack: text of any size or shape put into the trail that auditors read."""
    if not 1 <= len(request.recordings) <= MAX_RECORDINGS:
        raise Violation(f"Viewing of {len(request.recordings)} recordings")
    if not all(_SESSION.fullmatch(one) for one in request.recordings):
        raise Violation("Viewing of what is no recording")
    if max(len(request.range), len(request.format), len(request.reason)) > MAX_WORDS:
        raise Violation("Viewing with a text that is too long")
    if len(talk.views) >= MAX_VIEWS:
        raise Violation(f"more than {MAX_VIEWS} views")


async def _identify(desk: Authority, talk: Conversation, what: str) -> Refused | None:
    """Who views, as `talk.who`; or why nobody may under this name.

    `nobody` is refused, because it stands for every user of every container; so is a person who is disabled, because
    leaving the OS account behind must not leave the view behind.
    """
    uid = talk.peer.uid
    name = await os_user(uid)
    person = desk.roster.person(name)
    active = person is not None and not person.disabled and person.offboarded is None
    talk.operator = name if active else f"uid {name or uid}"
    allowed = desk.settings.viewers
    if uid == NOBODY:
        why, hint = "the kernel does not say who connects", "run it as a user of this machine, outside of containers"
    elif person is not None and not active:
        why, hint = f"person {name} is disabled", "ask a person with the role admin"
    elif allowed and name not in allowed:
        why, hint = "not in [policy] viewers", "ask who runs this bastion to add you: [policy] viewers in bastion.toml"
    else:
        return None
    cause = f"`{audit.clean(name or str(uid), 64)}` may not view recordings"
    return await desk.refuse(talk, "view-refused", why, cause, hint, what=what)


async def _event(desk: Authority, talk: Conversation, request: Viewing, sessions: list[str]) -> Event:
    """Of one recording: whose session it is, as far as policyd knows. Of several: which they are."""
    said = {"verb": request.verb.value, "format": request.format, "range": request.range}
    kind = "export" if request.verb is ViewVerb.EXPORT else "view"
    if len(sessions) > 1:
        groups = [sessions[at : at + _IDS_IN_A_FIELD] for at in range(0, len(sessions), _IDS_IN_A_FIELD)]
        said |= {f"recordings-{number:02}": " ".join(group) for number, group in enumerate(groups, 1)}
        return talk.event(kind, _named(sessions), said, why=request.reason)
    known = await desk.ledger.read(lambda t: t.session(sessions[0]))
    if known is not None:
        said["person"] = known.person
    what = f"{known.account}@{known.target}" if known is not None else _named(sessions)
    return talk.event(kind, what, said, why=request.reason, session=sessions[0])


def _over(talk: Conversation, row: int, view: Viewing, detail: dict[str, str], *, why: str = "") -> Event:
    sessions = list(dict.fromkeys(view.recordings))
    said = {"view": str(row), "verb": view.verb.value, **detail}
    session = sessions[0] if len(sessions) == 1 else ""
    return talk.event("viewed", _named(sessions), said, why=why, session=session)


def _named(sessions: list[str]) -> str:
    return f"recording {sessions[0]}" if len(sessions) == 1 else counted(len(sessions), "recording")


def _clock(ms: int) -> str:
    minutes, seconds = divmod(ms // 1000, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
