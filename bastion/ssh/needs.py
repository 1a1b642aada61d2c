"""What a denial says is missing, asked of the person who is there: a reason, a ticket, a newer code, leave.

    Refused.need   at a terminal                              without one
    reason         `reason: `                                 the hint: -o SetEnv=BASTION_REASON=...
    ticket         `ticket: `                                 the hint: -o SetEnv=BASTION_TICKET=...
    mfa            the prompts of AskCode, hidden             the hint: log in again
    approval       ask for it, wait, go on when it is given   exit 75, and the command that asks

policyd decides anew each time; what is asked here only goes into the next Authorize.
"""

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from bastion.errors import BastionError, Denied, ExitCode
from bastion.requests import Requests
from bastion.ssh import ask
from bastion.ssh.local import LocalChannel, Terminal
from bastion.ssh.upstream import refused
from policy.messages import (
    AnswerCode,
    AskCode,
    Authorize,
    Challenge,
    Done,
    Refused,
    RequestAccess,
    RequestList,
    Rows,
    Verdict,
)
from policy.model import ChannelKind, Outcome

if TYPE_CHECKING:
    from bastion.ssh.door import Door
    from bastion.ssh.relay import Relay
    from bastion.ssh.sessions import SessionChannel


async def find(
    door: "Door", local: LocalChannel, asked: Requests, failure: BastionError | None, kind: ChannelKind, detail: bytes
) -> "Relay | None":
    """A session for a channel that has none yet; None when it was served here. BastionError if there is none."""
    local.terminal = Terminal(asked.term, asked.columns, asked.rows) if asked.term else None
    local.command = None if kind is ChannelKind.SHELL else detail
    local.env = dict(asked.ours)
    if failure is not None:
        try:
            relay: Relay | None = await door.try_again(failure, local)
        except BastionError:
            await local.drain()
            raise
    elif kind in (ChannelKind.SHELL, ChannelKind.EXEC, ChannelKind.SCP):
        relay = await door.serve(local)
    else:
        raise Denied("no target is named", "use: sftp account@target@bastion", code=ExitCode.USAGE)
    if relay is not None and not relay.is_live:
        raise relay.why
    return relay


class News:
    """What waits for a person, told at the first shell of their connection, when that has begun and not before."""

    def __init__(self, door: "Door", channel: "SessionChannel") -> None:
        self._door = door
        self._channel = channel
        self._lines: list[str] = []

    async def hear(self) -> None:
        self._lines = await self._door.news()
        if self._channel.requests.is_running:
            self.say()

    def say(self) -> None:
        for text in self._lines:
            self._channel.tell(text, terminals_only=True)
        self._lines = []


async def settle(door: "Door", request: Authorize, failure: BastionError, local: LocalChannel) -> "Relay":
    """The session, once nothing is missing; the denial that nothing more can be done about."""
    request.ticket = local.env.get(b"BASTION_TICKET", b"").decode("utf-8", "replace")
    request.reason = local.env.get(b"BASTION_REASON", b"").decode("utf-8", "replace")
    asked: Counter[str] = Counter()
    brought = bool(request.ticket or request.reason)
    while True:
        if not brought:
            need = failure.need if isinstance(failure, Denied) else ""
            # Attack: a target or a clock that makes policyd need the same for ever, and a person who is asked for ever.
            if not need or not ask.is_there(local) or asked[need] >= ask.TRIES:
                raise failure
            asked[need] += 1
            request = await _bring(door, local, failure, need, request)
        brought = False
        try:
            return await door.authorize(request)
        except BastionError as error:
            failure = error


async def _bring(door: "Door", local: LocalChannel, why: BastionError, need: str, request: Authorize) -> Authorize:
    """What is needed, from the person. `why` is raised again if they would rather not."""
    ask.tell(local, why.cause)
    match need:
        case "reason" | "ticket":
            if not (said := await ask.line(local, f"{need}: ")):
                raise why
            return msgspec.structs.replace(request, **{need: said})
        case "mfa":
            await _show_code(door, local, why)
        case "approval":
            reason = await _get_leave(door, local, why, request)
            if not request.reason:
                return msgspec.structs.replace(request, reason=reason)
        case _:
            raise why
    return request


async def _show_code(door: "Door", local: LocalChannel, why: BastionError) -> None:
    """A newer proof of the second factor, asked as at the login and never shown."""
    for left in reversed(range(ask.TRIES)):
        challenge = await door.policy.ask(AskCode(person=door.person))
        if isinstance(challenge, Refused):  # they have none to show
            raise Denied(why.cause, challenge.hint or why.hint, ref=challenge.ref)
        if not isinstance(challenge, Challenge):
            raise why
        if challenge.instructions:
            ask.tell(local, challenge.instructions)
        answers = []
        for prompt, echo in challenge.prompts:
            if not (answer := await ask.line(local, prompt, hidden=not echo)):
                raise why
            answers.append(answer)
        verdict = await door.policy.ask(AnswerCode(person=door.person, answers=answers))
        if isinstance(verdict, Verdict) and verdict.outcome is Outcome.DONE:
            return
        if not left or not isinstance(verdict, Verdict) or verdict.outcome is Outcome.DISCONNECT:
            raise why
        ask.tell(local, "that code is wrong, or was used before")


async def _get_leave(door: "Door", local: LocalChannel, why: BastionError, request: Authorize) -> str:
    """Ask those who may give it, and wait. Returns the reason that was given; Denied if the answer is no."""
    ident, reason = await _waiting(door, request)
    if not ident:
        reason = await ask.line(local, "to ask for it, say why (empty: do not ask): ") or ""
        if not reason:
            raise why
        asked = await _ask_for_leave(door, local, request, reason)
        if asked.data.get("state") != "pending":
            ask.tell(local, asked.text)
            return reason
        ident = asked.data["request"]
        ask.tell(local, asked.text)
    answer = await ask.decision(local, door.policy, ident)
    ask.tell(local, answer.text)
    if answer.data.get("state") != "approved":
        raise Denied(answer.text, "see: ssh bastion requests --all")
    return reason


async def _ask_for_leave(door: "Door", local: LocalChannel, request: Authorize, reason: str) -> Done:
    wish = RequestAccess(account=request.account, target=request.target, ticket=request.ticket, reason=reason)
    answer = await door.policy.ask(wish)
    if isinstance(answer, Refused) and answer.need == "ticket":
        ask.tell(local, answer.cause)
        wish.ticket = request.ticket = await ask.line(local, "ticket: ") or ""
        answer = await door.policy.ask(wish)
    if not isinstance(answer, Done):
        raise refused(answer)
    return answer


async def _waiting(door: "Door", request: Authorize) -> tuple[str, str]:
    """A request of theirs that waits already, from an earlier try, and its reason."""
    answer = await door.policy.ask(RequestList())
    if isinstance(answer, Rows):
        for cells in answer.rows:
            row = dict(zip(answer.columns, cells, strict=False))
            if (row["person"], row["account"], row["target"]) == (door.person, request.account, request.target):
                return row["request"], row["reason"]
    return "", ""
