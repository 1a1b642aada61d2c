"""What a denial says is missing, asked of the person who is there: a reason, a ticket, a newer code, leave.

    Refused.need   at a terminal                              without one
    reason         `reason: `                                 the hint: -o SetEnv=BASTION_REASON=..., or --reason
    ticket         `ticket: `                                 the hint: -o SetEnv=BASTION_TICKET=..., or --ticket
    mfa            the prompts of AskCode, hidden             the hint: log in again
    approval       ask for it, wait, go on when it is given   exit 75, and the command that asks

So it is for a session and for a password that is checked out. policyd decides anew each time; what is asked here only
goes into the next Authorize or CheckoutTake.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

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
    CheckoutTake,
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

Wish = TypeVar("Wish", Authorize, CheckoutTake)
Found = TypeVar("Found")


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


async def settle(
    policy: Any, person: str, wish: Wish, failure: BastionError, local: LocalChannel,
    again: Callable[[Wish], Awaitable[Found]],
) -> Found:  # fmt: skip
    """What `again` finds for a wish, once nothing is missing; the denial that nothing more can be done about."""
    said = {key: local.env.get(f"BASTION_{key.upper()}".encode(), b"").decode("utf-8", "replace")
            for key in ("ticket", "reason") if not getattr(wish, key)}  # fmt: skip
    wish = msgspec.structs.replace(wish, **said)
    asked: Counter[str] = Counter()
    brought = any(said.values())
    while True:
        if not brought:
            need = failure.need if isinstance(failure, Denied) else ""
            # Attack: a target or a clock that makes policyd need the same for ever, and a person who is asked for ever.
            if not need or not ask.is_there(local) or asked[need] >= ask.TRIES:
                raise failure
            asked[need] += 1
            wish = await _bring(policy, person, local, failure, need, wish)
        brought = False
        try:
            return await again(wish)
        except BastionError as error:
            failure = error


async def _bring(policy: Any, person: str, local: LocalChannel, why: BastionError, need: str, wish: Wish) -> Wish:
    """What is needed, from the person. `why` is raised again if they would rather not."""
    ask.tell(local, why.cause)
    match need:
        case "reason" | "ticket":
            if not (said := await ask.line(local, f"{need}: ")):
                raise why
            return msgspec.structs.replace(wish, **{need: said})
        case "mfa":
            await _show_code(policy, person, local, why)
        case "approval":
            reason, ticket = await _get_leave(policy, person, local, why, wish)
            return msgspec.structs.replace(wish, reason=wish.reason or reason, ticket=ticket)
        case _:
            raise why
    return wish


async def _show_code(policy: Any, person: str, local: LocalChannel, why: BastionError) -> None:
    """A newer proof of the second factor, asked as at the login and never shown."""
    for left in reversed(range(ask.TRIES)):
        challenge = await policy.ask(AskCode(person=person))
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
        verdict = await policy.ask(AnswerCode(person=person, answers=answers))
        if isinstance(verdict, Verdict) and verdict.outcome is Outcome.DONE:
            return
        if not left or not isinstance(verdict, Verdict) or verdict.outcome is Outcome.DISCONNECT:
            raise why
        ask.tell(local, "that code is wrong, or was used before")


async def _get_leave(
    policy: Any, person: str, local: LocalChannel, why: BastionError, wish: Authorize | CheckoutTake
) -> tuple[str, str]:
    """Ask those who may give it, and wait. The reason and ticket that were given; Denied if the answer is no."""
    ident, reason = await _waiting(policy, person, wish)
    ticket = wish.ticket
    if not ident:
        reason = await ask.line(local, "to ask for it, say why (empty: do not ask): ") or ""
        if not reason:
            raise why
        asked, ticket = await _ask_for_leave(policy, local, wish, reason)
        ask.tell(local, asked.text)
        if asked.data.get("state") != "pending":
            return reason, ticket
        ident = asked.data["request"]
    answer = await ask.decision(local, policy, ident)
    ask.tell(local, answer.text)
    if answer.data.get("state") != "approved":
        raise Denied(answer.text, "see: ssh bastion requests --all")
    return reason, ticket


async def _ask_for_leave(
    policy: Any, local: LocalChannel, wish: Authorize | CheckoutTake, reason: str
) -> tuple[Done, str]:
    """What came of asking, and the ticket that was named for it."""
    asked = RequestAccess(account=wish.account, target=wish.target, ticket=wish.ticket, reason=reason)
    if isinstance(wish, CheckoutTake):
        asked.kinds, asked.seconds = [ChannelKind.CHECKOUT.value], wish.seconds
    answer = await policy.ask(asked)
    if isinstance(answer, Refused) and answer.need == "ticket":
        ask.tell(local, answer.cause)
        asked.ticket = await ask.line(local, "ticket: ") or ""
        answer = await policy.ask(asked)
    if not isinstance(answer, Done):
        raise refused(answer)
    return answer, asked.ticket


async def _waiting(policy: Any, person: str, wish: Authorize | CheckoutTake) -> tuple[str, str]:
    """A request of theirs for the same that waits already, from an earlier try, and its reason."""
    out = isinstance(wish, CheckoutTake)
    answer = await policy.ask(RequestList())
    if isinstance(answer, Rows):
        for cells in answer.rows:
            row = dict(zip(answer.columns, cells, strict=False))
            same = (row["person"], row["account"], row["target"]) == (person, wish.account, wish.target)
            if same and (ChannelKind.CHECKOUT in row["kinds"].split()) == out:
                return row["request"], row["reason"]
    return "", ""
