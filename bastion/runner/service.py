"""The process: connects to policyd, runs the scripts that are named to it, and answers each order once."""

import os
import pwd
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from bastion import config
from bastion.config import Settings
from bastion.courier.link import Link
from bastion.errors import BastionError, PeerError
from bastion.runner import execution
from bastion.runner.execution import Whom
from bastion.systemd import tell_systemd
from bastion.text import neutral
from policy.messages import Reply, Runner, RunScript, Worked
from policy.messages.rotation import UNKNOWN, UNREACHABLE

RUNNER_SOCKET: Final = "policyd-runner.sock"
SCRIPTS_AT_ONCE: Final = 8
"""policyd asks for no more; each is a process of somebody else's making."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between tries to reach policyd: it may be starting again."""

log = structlog.get_logger()


@dataclass(slots=True)
class Service:
    """`owner`: the user beside root to whom scripts may belong."""

    settings: Settings
    owner: int
    whom: Whom

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; then what runs is ended, and policyd finds out by a login."""
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
                self.settings, self.whom = settings, whom_of(settings, self.owner)
            except BastionError as error:
                log.error("configuration kept", problem=error.cause)

    async def _serve_policyd(self) -> None:
        """Again whenever it breaks."""
        pause = FIRST_PAUSE
        while True:
            try:
                link = await Link.connect(self.settings.run / RUNNER_SOCKET, Runner(pid=os.getpid()))
            except PeerError as error:
                log.warning("policyd-unreachable", why=error.cause, again_in=pause)
            else:
                pause = FIRST_PAUSE
                log.info("ready", pid=os.getpid(), scripts=len(self.settings.runner.scripts))
                _tell("READY=1")
                await self.serve(link)
                log.warning("policyd-lost")
            await trio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def serve(self, link: Link) -> None:
        """Run scripts until policyd is gone. What is under way then is ended: nobody would hear of it."""
        free = trio.CapacityLimiter(SCRIPTS_AT_ONCE)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        order = await link.receive()
                    except PeerError:
                        nursery.cancel_scope.cancel()
                        return
                    nursery.start_soon(self._answer, link, order, free)
        finally:
            link.close()

    async def _answer(self, link: Link, order: Reply, free: trio.CapacityLimiter) -> None:
        if not isinstance(order, RunScript):
            log.warning("unknown-order", order=type(order).__name__)
            return
        try:
            free.acquire_on_behalf_of_nowait(task := object())
        except trio.WouldBlock:
            answer = Worked(task=order.task, outcome=UNREACHABLE, detail="the runner has too much to do")
        else:
            try:
                answer = await self._run(order)
            finally:
                free.release_on_behalf_of(task)
        log.info("ran", script=order.script, action=order.action, outcome=answer.outcome, why=answer.detail)
        try:
            await link.answer(answer)
        except PeerError:  # noticed by the reader as well
            pass

    async def _run(self, order: RunScript) -> Worked:
        path = self.settings.runner.scripts.get(order.script)
        if path is None:
            why = f"no script is called `{neutral(order.script)[:32]}` in [runner.scripts] of bastion.toml"
            return Worked(task=order.task, outcome=UNREACHABLE, detail=why)
        try:
            return await execution.run(order, path, self.whom)
        except Exception as error:  # a fault of ours in one run must not end the others; its text may quote a secret
            log.critical("run-failed", script=order.script, error=type(error).__name__)
            return Worked(task=order.task, outcome=UNKNOWN, detail="the runner has a fault")


def whom_of(settings: Settings, owner: int) -> Whom:
    """BastionError for a user that is not there, and for one that we cannot become."""
    name = settings.runner.user
    if not name or os.geteuid() != 0:
        return Whom(owner=owner)
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise BastionError(
            f"runner.user: there is no user `{name[:64]}`", f"see all of it: bastion check-config {settings.path}"
        ) from None
    if entry.pw_uid == 0:
        raise BastionError("runner.user: scripts are not run as root", "name a user that has no rights")
    return Whom(owner=owner, uid=entry.pw_uid, gid=entry.pw_gid)


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
