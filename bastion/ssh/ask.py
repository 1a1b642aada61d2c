"""Questions to a person on a terminal: a line, a hidden line, a wait that they may leave.

INVARIANT: nobody is asked who has no terminal, and who is not asked is told what to do instead.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

from bastion.errors import Denied, ExitCode
from bastion.prompts import Line, Outcome
from bastion.ssh.local import LocalChannel
from bastion.ssh.upstream import refused
from bastion.text import neutral
from policy.messages import Done, RequestAwait

TRIES: Final = 3
"""Times that the same is asked for; policyd counts wrong codes by itself."""
AWAIT: Final = 25.0
"""Seconds of one RequestAwait; policyd takes up to 30."""
_TICK: Final = 1.0
_SPINNER: Final = "|/-\\"
_LEAVES: Final = (b"\x03", b"\x04", b"\x1c")
"""Ctrl-C, Ctrl-D, Ctrl-\\ in what was typed."""

Answer = TypeVar("Answer")


class Left(Denied):
    """The person would rather not answer."""

    def __init__(self, cause: str = "left", hint: str = "") -> None:
        super().__init__(cause, hint, code=ExitCode.PENDING)


def is_there(local: LocalChannel) -> bool:
    """Whether somebody sits at this channel.

    ansible runs its commands with `ssh -tt` and nobody at the terminal, whose size is then 0; a prompt would hang it.
    """
    return local.terminal is not None and (local.command is None or local.terminal.columns > 0)


def tell(local: LocalChannel, text: str) -> None:
    """A line of ours, where the person is looking: some clients show no standard error beside a terminal."""
    local.write(f"bastion: {neutral(text)}\r\n".encode())


async def line(local: LocalChannel, prompt: str, *, hidden: bool = False) -> str | None:
    """What was typed, without blanks around it; None if the person left."""
    typed = Line(hidden=hidden)
    local.write(f"bastion: {neutral(prompt)}".encode())
    while True:
        data = await local.read()
        echo, outcome = typed.key(data) if data else ("", Outcome.LEFT)
        if outcome is Outcome.OPEN:
            if echo:
                local.write(echo.encode())
            continue
        local.write(f"{echo}\r\n".encode())
        if outcome is Outcome.LEFT:
            return None
        local.unread(typed.rest)
        return typed.text.strip()


async def until_left(local: LocalChannel, text: str, over: asyncio.Event) -> None:
    """Until Ctrl-C, until it is `over`, or for as long as the connection lives where there is no terminal."""
    if local.terminal is not None:
        tell(local, text)
    ending = asyncio.ensure_future(over.wait())
    try:
        while not ending.done():
            typed = asyncio.ensure_future(local.read())
            try:
                await asyncio.wait({typed, ending}, return_when=asyncio.FIRST_COMPLETED)
                data = typed.result() if typed.done() else b"\0"
            finally:
                typed.cancel()
            if not data and local.terminal is None:
                await ending  # cancelled with the channel
            elif not data or any(key in data for key in _LEAVES):
                return
    finally:
        ending.cancel()


async def decision(local: LocalChannel, policy: Any, request: str) -> Done:
    """Until a request is decided. Left if the person does not wait for it: the request goes on by itself."""
    began = time.monotonic()
    while True:
        answer = await waited(
            local, policy.ask(RequestAwait(request=request, seconds=AWAIT)),
            f"request `{request}` waits; ctrl-c leaves it waiting", began,
        )  # fmt: skip
        if answer is None:
            raise Left(
                f"request `{request}` goes on waiting",
                f"come back when it is approved, or take it back: ssh bastion cancel {request}",
            )
        if not isinstance(answer, Done):
            raise refused(answer)
        if answer.data.get("state") != "pending":
            return answer


async def waited(local: LocalChannel, answer: Awaitable[Answer], text: str, began: float) -> Answer | None:
    """An answer, with a line that lives while it is waited for; None if the person left.

    What is typed meanwhile is dropped: keys of somebody who is impatient are not for the shell that comes.
    """
    coming = asyncio.ensure_future(answer)
    typed = asyncio.ensure_future(local.read())
    at_terminal = local.terminal is not None
    watched: set[asyncio.Future[Any]] = {coming, typed}
    ticks = 0
    try:
        while True:
            if at_terminal:
                local.write(_live(text, time.monotonic() - began, ticks, local).encode())
            ticks += 1
            await asyncio.wait(watched, timeout=_TICK if at_terminal else None, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
            if typed.done():
                data = typed.result()
                if at_terminal and (not data or any(key in data for key in _LEAVES)):
                    return None
                watched.discard(typed)
                if data:
                    typed = asyncio.ensure_future(local.read())
                    watched.add(typed)
    finally:
        coming.cancel()
        typed.cancel()
        if at_terminal:
            local.write(b"\r\x1b[K")


def _live(text: str, seconds: float, ticks: int, local: LocalChannel) -> str:
    assert local.terminal is not None
    minutes, rest = divmod(int(seconds), 60)
    shown = f"{_SPINNER[ticks % 4]} {minutes}:{rest:02} bastion: {neutral(text)}"
    return f"\r{shown[: max(20, (local.terminal.columns or 80) - 1)]}\x1b[K"
