"""The menu on a person's terminal."""

import asyncio
from typing import Any, Final

from bastion import notices
from bastion.errors import BastionError
from bastion.menu import CLOSING, OPENING, Choice, Menu, Outcome
from bastion.ssh.local import LocalChannel
from bastion.ssh.upstream import refused
from policy.messages import Notices, Reachable, Rows

NEWS: Final = 10.0
"""Seconds after which an open menu asks again what waits for this person."""


async def pick(channel: LocalChannel, policy: Any) -> Choice | None:
    """What the person chose; None if they left, or may use nothing."""
    answer = await policy.ask(Reachable())
    if not isinstance(answer, Rows):
        raise refused(answer)
    choices = [
        Choice(
            account=row["account"],
            target=row["target"],
            about=f"needs {row['needs']}" if row["needs"] else row["labels"],
        )
        for row in (dict(zip(answer.columns, cells, strict=True)) for cells in answer.rows)
    ]
    if not choices:
        channel.write_error(
            b"bastion: there is no target you may use\r\nbastion: ask an administrator of this bastion\r\n"
        )
        return None
    terminal = channel.terminal
    assert terminal is not None
    menu = Menu(choices)
    redraw = asyncio.Event()
    channel.resized = redraw.set

    def draw() -> None:
        channel.write(menu.render(terminal.columns or 80, terminal.rows or 24).encode())

    channel.write(OPENING.encode())
    outcome = Outcome.OPEN
    typed = asyncio.ensure_future(channel.read())

    async def keep_up() -> None:
        while True:
            try:
                news = "; ".join(notices.lines(await policy.ask(Notices())))
            except BastionError:
                return  # policyd is gone: the connection ends by itself
            if news != menu.news:
                menu.news = news
                redraw.set()
            await asyncio.sleep(NEWS)

    keeping_up = asyncio.ensure_future(keep_up())
    try:
        while outcome is Outcome.OPEN:
            draw()
            redraw.clear()
            resized = asyncio.ensure_future(redraw.wait())
            await asyncio.wait({typed, resized}, return_when=asyncio.FIRST_COMPLETED)
            resized.cancel()
            if typed.done():
                data = typed.result()
                outcome = menu.key(data, max(1, terminal.rows - 4)) if data else Outcome.LEFT
                if outcome is Outcome.OPEN:
                    typed = asyncio.ensure_future(channel.read())
    finally:
        keeping_up.cancel()
        typed.cancel()
        channel.write(CLOSING.encode())
    channel.unread(menu.rest)
    return menu.picked if outcome is Outcome.PICKED else None
