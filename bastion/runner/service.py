"""The process: connects to policyd, runs the scripts that are named to it, and answers each order once."""

import os
import pwd
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
import trio

from bastion import config
from bastion.config import Settings
from bastion.courier.link import Link
from bastion.errors import BastionError, PeerError
from bastion.lifetime import SIGNALS, obey, watchdog, work_for_policyd
from bastion.runner import execution
from bastion.runner.execution import Whom
from bastion.text import neutral
from policy.messages import Reply, Runner, RunScript, Worked
from policy.messages.rotation import UNKNOWN, UNREACHABLE

RUNNER_SOCKET: Final = "policyd-runner.sock"
SCRIPTS_AT_ONCE: Final = 8
"""policyd asks for no more; each is a process of somebody else's making."""

log = structlog.get_logger()


@dataclass(slots=True)
class Service:
    """`owner`: the user beside root to whom scripts may belong."""

    settings: Settings
    owner: int
    whom: Whom
    free: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(SCRIPTS_AT_ONCE))

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; then what runs is ended, and policyd finds out by a login."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work_for_policyd, self._socket, Runner(pid=os.getpid()), self._answer)
                nursery.start_soon(watchdog)
                await obey(signals, self._reload)
                nursery.cancel_scope.cancel()

    def _socket(self) -> Path:
        return self.settings.run / RUNNER_SOCKET

    def _reload(self) -> None:
        settings = config.load(self.settings.path)
        self.settings, self.whom = settings, whom_of(settings, self.owner)

    async def _answer(self, link: Link, order: Reply) -> None:
        if not isinstance(order, RunScript):
            log.warning("unknown-order", order=type(order).__name__)
            return
        try:
            self.free.acquire_on_behalf_of_nowait(task := object())
        except trio.WouldBlock:
            answer = Worked(task=order.task, outcome=UNREACHABLE, detail="the runner has too much to do")
        else:
            try:
                answer = await self._run(order)
            finally:
                self.free.release_on_behalf_of(task)
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
