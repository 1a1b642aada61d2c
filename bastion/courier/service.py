"""The process: connects to policyd, makes the calls that are pushed to it, and answers each.

It listens nowhere, keeps nothing, and knows nothing of persons or tickets: a call brings its own secrets along.
"""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import structlog
import trio

from bastion import config
from bastion.config import Settings
from bastion.courier import http, ldap, ldap_password, mail, radius
from bastion.courier.link import COURIER_SOCKET, Link
from bastion.courier.places import networks
from bastion.courier.reach import Reach
from bastion.errors import BastionError, PeerError
from bastion.systemd import tell_systemd
from policy.messages import Called, Courier, HttpCall, LdapCall, LdapPassword, MailCall, RadiusCall, Reply

CALLS_AT_ONCE: Final = 16
"""policyd asks for no more; a megabyte each while they are read."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between tries to reach policyd: it may be starting again."""

CALLS: Final[Mapping[type, Callable[[Any, Reach], Awaitable[Called]]]] = MappingProxyType(
    {
        HttpCall: http.call,
        MailCall: mail.call,
        LdapCall: ldap.call,
        LdapPassword: ldap_password.call,
        RadiusCall: radius.call,
    }
)
Call = HttpCall | MailCall | RadiusCall | LdapCall | LdapPassword

log = structlog.get_logger()


@dataclass(slots=True)
class Service:
    settings: Settings
    reach: Reach

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_policyd)
                nursery.start_soon(_watchdog)
                await self._obey(signals)
                nursery.cancel_scope.cancel()

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number != signal.SIGHUP:
                _tell("STOPPING=1")
                return
            try:
                settings = config.load(self.settings.path)
                self.settings, self.reach = settings, reach_of(settings)
            except BastionError as error:
                log.error("configuration kept", problem=error.cause)

    async def _serve_policyd(self) -> None:
        """Again whenever it breaks."""
        pause = FIRST_PAUSE
        while True:
            try:
                link = await Link.connect(self.settings.run / COURIER_SOCKET, Courier(pid=os.getpid()))
            except PeerError as error:
                log.warning("policyd-unreachable", why=error.cause, again_in=pause)
            else:
                pause = FIRST_PAUSE
                log.info("ready", pid=os.getpid())
                _tell("READY=1")
                await self.serve(link)
                log.warning("policyd-lost")
            await trio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def serve(self, link: Link) -> None:
        """Make calls until policyd is gone; what is under way then is given up, since nobody waits for it."""
        free = trio.CapacityLimiter(CALLS_AT_ONCE)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        call = await link.receive()
                    except PeerError:
                        nursery.cancel_scope.cancel()
                        return
                    nursery.start_soon(self._answer, link, call, free)
        finally:
            link.close()

    async def _answer(self, link: Link, call: Reply, free: trio.CapacityLimiter) -> None:
        if not isinstance(call, Call):
            log.warning("unknown-call", call=type(call).__name__)
            return
        answer = Called(task=call.task, error="cannot be called: the courier has too much to do")
        try:
            free.acquire_on_behalf_of_nowait(task := object())
        except trio.WouldBlock:
            log.warning("busy", call=type(call).__name__)
        else:
            try:
                answer = await self._made(call)
            finally:
                free.release_on_behalf_of(task)
        try:
            await link.answer(answer)
        except PeerError:  # noticed by the reader as well
            pass

    async def _made(self, call: Call) -> Called:
        make = CALLS.get(type(call))
        if make is None:
            return Called(task=call.task, error="cannot be called: this courier has it not built in")
        try:
            return await make(call, self.reach)
        except Exception as error:  # a fault of ours in one call must not end the others, and is no answer
            log.critical("call-failed", call=type(call).__name__, error=type(error).__name__)
            return Called(task=call.task, error="cannot be called: the courier has a fault")


def reach_of(settings: Settings) -> Reach:
    """BastionError for a word that is no network: a hole must not open by mistake, nor close unnoticed."""
    try:
        return Reach(networks(settings.courier.reach))
    except ValueError as error:
        raise BastionError(f"courier.reach: {error}", f"see all of it: bastion check-config {settings.path}") from None


async def _watchdog() -> None:
    """WATCHDOG=1 while the loop turns."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        _tell("WATCHDOG=1")
        await trio.sleep(int(microseconds) / 1e6 / 3)


def _tell(message: str) -> None:
    if why := tell_systemd(message):
        log.warning("notify-failed", why=why)
