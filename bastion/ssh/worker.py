"""One gateway process: listens, keeps its conversation with policyd, obeys signals, and ends in order.

start     asyncssh's version, host keys, sockets -> READY=1
SIGHUP    [ssh] settings and host keys anew, for connections from then on; a file with a fault changes nothing
SIGTERM   nobody new, people are told, sessions are written down, then it exits
"""

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from bastion import config
from bastion.config import ConfigError, Settings
from bastion.errors import BastionError, RecorderLost
from bastion.ssh import algorithms, recording, scan, transport
from bastion.ssh.door import GOING_DOWN, Gateway
from bastion.ssh.entrance import Entrance
from bastion.ssh.hands.work import Hands
from bastion.ssh.jump import HostCertificates
from bastion.ssh.links import POLICY_SOCKET, PolicyLink, PolicyLost
from bastion.ssh.listener import Listener, open_sockets, passed_sockets
from bastion.startups import Outcome, Startups
from bastion.systemd import tell_systemd
from policy.messages import ChangeSecret, EndSession, Freeze, Reply, Scan, VerifyLogin
from policy.messages import Worker as WorkerHello

FAREWELL: Final = 8.0
"""Seconds from SIGTERM for sessions to end in order; the supervisor waits 10, systemd 30."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between tries to reach policyd: it may be starting again."""
MAX_SCANS: Final = 4
"""At once; policyd sends one per `--pin scan`."""

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Worker:
    """One process. The watchdog hears of it only while it can serve a session: its loop turns, recorderd answers."""

    settings: Settings
    number: int
    admission: Startups
    gateway: Gateway = field(init=False)
    _options: Any = field(init=False, default=None)
    _certificates: HostCertificates = field(init=False)
    _listener: Listener = field(init=False)
    _link: PolicyLink | None = field(init=False, default=None)
    _hands: Hands = field(init=False)
    _scans: "set[asyncio.Task[None]]" = field(init=False, default_factory=set)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; BastionError if it cannot start."""
        transport.check_version()
        self.gateway = Gateway(settings=self.settings)
        self._hands = Hands(lambda: self.gateway.settings)
        await self._read_keys()
        sockets = passed_sockets() or open_sockets(self.settings.ssh.listen, shared=self.settings.ssh.workers > 1)
        self._listener = Listener(sockets, self._make, self.admission)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        tasks = [asyncio.create_task(work) for work in (self.gateway.tick(), self._serve_policyd(), self._watchdog())]
        loop.add_signal_handler(signal.SIGHUP, lambda: tasks.append(asyncio.create_task(self._reload())))
        self._listener.start()
        gc.collect()
        gc.freeze()  # a thousand modules that never go: each full collection would walk them
        _tell("READY=1")
        log.info("ready", worker=self.number, pid=os.getpid(), listen=[_shown(sock) for sock in sockets])
        try:
            await stop.wait()
            _tell("STOPPING=1")
            await self._end()
        finally:
            for task in tasks:
                task.cancel()

    def _make(self, left: Callable[[Outcome], None]) -> Entrance:
        return Entrance(self._options, self.gateway, self._certificates, left)

    async def _read_keys(self) -> None:
        settings = self.gateway.settings
        keys = algorithms.load_host_keys(key_paths(settings))
        self._options = await algorithms.server_options(settings.ssh, keys)
        self._certificates = HostCertificates(algorithms.connection_options(settings.ssh))

    async def _reload(self) -> None:
        before = self.gateway.settings
        _tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self.gateway.settings = config.load(self.settings.path)
            await self._read_keys()
        except (ConfigError, BastionError) as error:
            self.gateway.settings = before
            log.error("configuration kept", problem=error.cause)
        else:
            now = self.gateway.settings.ssh
            kept = [name for name in ("listen", "workers") if getattr(before.ssh, name) != getattr(now, name)]
            log.info("reloaded", needs_restart=kept)
        _tell("READY=1")

    # --- policyd's tasks ----------------------------------------------------------------------------

    async def _serve_policyd(self) -> None:
        """The worker's own conversation, again whenever it breaks."""
        pause = FIRST_PAUSE
        while True:
            lost = asyncio.Event()
            try:
                self._link = await PolicyLink.connect(
                    self.settings.run / POLICY_SOCKET, WorkerHello(pid=os.getpid()), self._task, lost.set
                )
            except PolicyLost as error:
                log.warning("policyd-unreachable", why=error.cause, again_in=pause)
            else:
                pause = FIRST_PAUSE
                await lost.wait()
                log.warning("policyd-lost")
                self._hands.end_all("policy-lost")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _task(self, task: Reply) -> None:
        link = self._link
        match task:
            case ChangeSecret() | VerifyLogin() if link is not None:
                return self._hands.take(link, task)
            case EndSession() | Freeze():
                return self._hands.pushed(task)
        if link is None or not isinstance(task, Scan) or len(self._scans) >= MAX_SCANS:
            log.warning("task-refused", task=type(task).__name__)
            return
        running = asyncio.create_task(scan.answer(link, task))
        self._scans.add(running)
        running.add_done_callback(self._scans.discard)

    # --- the end ------------------------------------------------------------------------------------

    async def _end(self) -> None:
        gateway = self.gateway
        gateway.stopping = True
        self._listener.close()
        log.info("stopping", connections=len(gateway.doors))
        for door in list(gateway.doors):
            for relay in list(door.relays.values()):
                relay.end("shutdown", text=GOING_DOWN)
            if not door.relays:
                door.disconnect_person(GOING_DOWN)
        self._hands.stop()
        deadline = time.monotonic() + FAREWELL
        while (gateway.doors or gateway.ending or self._hands.jobs) and time.monotonic() < deadline:  # noqa: ASYNC110 - each in its own time
            await asyncio.sleep(0.05)
        self._hands.end_all("shutdown")
        if gateway.doors:
            log.warning("ended with sessions", connections=len(gateway.doors))

    async def _watchdog(self) -> None:
        """WATCHDOG=1 from the loop that serves people, after it has shown that it still can."""
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return
        while True:
            try:
                await recording.health(self.settings.run)
                _tell("WATCHDOG=1")
            except RecorderLost as error:
                log.error("not-alive", why=error.cause)
            await asyncio.sleep(int(microseconds) / 1e6 / 3)


def key_paths(settings: Settings) -> list[Path]:
    """Where the host keys are: what systemd hands this unit as a credential comes first."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    found = []
    for path in settings.host_keys:
        credential = Path(folder) / path.name
        found.append(credential if folder and credential.is_file() else path)
    return found


def _tell(message: str) -> None:
    if why := tell_systemd(message):
        log.warning("notify-failed", why=why)


def _shown(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
