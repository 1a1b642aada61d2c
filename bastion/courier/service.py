"""The process: connects to policyd, makes the calls that are pushed to it, and answers each.

It listens nowhere, keeps nothing, and knows nothing of persons or tickets: a call brings its own secrets along.
"""

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
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
from bastion.lifetime import SIGNALS, obey, serve, watchdog, work_for_policyd
from policy.messages import Called, Courier, HttpCall, LdapCall, LdapPassword, MailCall, RadiusCall, Reply

CALLS_AT_ONCE: Final = 16
"""policyd asks for no more; a megabyte each while they are read."""

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
    free: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(CALLS_AT_ONCE))

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work_for_policyd, self._socket, Courier(pid=os.getpid()), self._answer)
                nursery.start_soon(watchdog)
                await obey(signals, self._reload)
                nursery.cancel_scope.cancel()

    async def run_for(self, handle: int) -> None:
        """Until the other end of this connection is closed."""
        link = Link(trio.socket.from_stdlib_socket(socket.socket(fileno=handle)))
        try:
            await link.greet(Courier(pid=os.getpid()))
        except (OSError, PeerError):
            return link.close()
        await serve(link, self._answer)

    def _socket(self) -> Path:
        return self.settings.run / COURIER_SOCKET

    def _reload(self) -> None:
        settings = config.load(self.settings.path)
        self.settings, self.reach = settings, reach_of(settings)

    async def _answer(self, link: Link, call: Reply) -> None:
        if not isinstance(call, Call):
            log.warning("unknown-call", call=type(call).__name__)
            return
        answer = Called(task=call.task, error="cannot be called: the courier has too much to do")
        try:
            self.free.acquire_on_behalf_of_nowait(task := object())
        except trio.WouldBlock:
            log.warning("busy", call=type(call).__name__)
        else:
            try:
                answer = await self._made(call)
            finally:
                self.free.release_on_behalf_of(task)
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
