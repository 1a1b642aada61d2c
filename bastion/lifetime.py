"""What the trio processes among the doors (courier, runner, broker) owe to whoever started them, and to policyd."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
import trio

from bastion.courier.link import Link
from bastion.errors import BastionError, PeerError
from bastion.systemd import tell_systemd
from policy.messages import Courier, Reply, Runner

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between tries to reach policyd: it may be starting again."""

log = structlog.get_logger()


async def obey(signals: AsyncIterator[int], reload: Callable[[], None]) -> None:
    """Until SIGTERM or SIGINT. At SIGHUP `reload`; with BastionError what was there before stays in force."""
    async for number in signals:
        if number != signal.SIGHUP:
            tell("STOPPING=1")
            return
        try:
            reload()
        except BastionError as error:
            log.error("configuration kept", problem=error.cause)


async def watchdog() -> None:
    """WATCHDOG=1 while the loop turns."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        tell("WATCHDOG=1")
        await trio.sleep(int(microseconds) / 1e6 / 3)


def tell(message: str) -> None:
    if why := tell_systemd(message):
        log.warning("notify-failed", why=why)


async def work_for_policyd(
    path: Callable[[], Path], greeting: Courier | Runner, answer: Callable[[Link, Reply], Awaitable[None]]
) -> None:
    """Connect, and have each order answered in a task of its own; again whenever that breaks.

    What is under way when policyd goes is given up: nobody would hear of it.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            link = await Link.connect(path(), greeting)
        except PeerError as error:
            log.warning("policyd-unreachable", why=error.cause, again_in=pause)
        else:
            pause = FIRST_PAUSE
            log.info("ready", pid=os.getpid())
            tell("READY=1")
            await serve(link, answer)
            log.warning("policyd-lost")
        await trio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


async def serve(link: Link, answer: Callable[[Link, Reply], Awaitable[None]]) -> None:
    """Have each order answered in a task of its own, until policyd closes the connection."""
    try:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    order = await link.receive()
                except PeerError:
                    nursery.cancel_scope.cancel()
                    return
                nursery.start_soon(answer, link, order)
    finally:
        link.close()
