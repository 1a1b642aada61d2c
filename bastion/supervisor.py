"""`bastion run`: every process of one machine under one parent.

Order of start: recorderd, policyd, courier, runner, broker, ssh workers; each must be ready before the next. Order of
stop: the reverse, so that nothing loses its authority while it still carries traffic. A child that ends is started
again, with growing pauses; a child that cannot start at all ends the whole with one line that says so. Children die
with the parent.

Not trio's own `open_process`: it forks in a worker thread, and PR_SET_PDEATHSIG fires when that *thread* ends
(prctl(2)), which is ten idle seconds later.
"""

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import trio

from bastion import config
from bastion.config import ConfigError, Settings
from bastion.control import ADMIN_SOCKET, is_answering
from bastion.errors import BastionError, ExitCode, MisuseError
from bastion.logs import Log, render
from bastion.systemd import tell_systemd

START_PATIENCE: Final = 30.0
"""Seconds until a child is ready; importing everything takes 2 on one slow core, a database migration more."""

STOP_PATIENCE: Final = 10.0
"""Seconds for a child to say good-bye to its people and flush before it is killed."""

FIRST_PAUSE, LONGEST_PAUSE, STEADY = 0.2, 5.0, 10.0
"""Seconds before a restart: doubled each time, and back to the first after a child has lived `STEADY` long. A start
takes 2 to 4 more: people may log in again within 10 s, also after a bad minute."""

FILES: Final = 65_536
"""File descriptors that the children may have, as in the systemd units; the usual 1024 are 200 sessions."""

MAX_LINE: Final = 64 * 1024
"""Bytes of one log line shown on a terminal."""

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)  # loaded here: not between fork and exec


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One child: what to run, and a socket that shows it is ready if it does not say READY=1 itself."""

    name: str
    words: list[str]
    socket: Path | None = None


def roles(settings: Settings) -> list[Role]:
    """The children in order of start."""
    python, file = [sys.executable, "-m"], str(settings.path)
    return [
        Role(name="recorderd", words=[*python, "recorder", "serve", "--config", file],
             socket=settings.run / "recorderd.sock"),
        Role(name="policyd", words=[*python, "policy", "serve", "--config", file],
             socket=settings.run / ADMIN_SOCKET),
        Role(name="courier", words=[*python, "bastion.courier", "--config", file]),
        # a process of its own only for who has scripts; they belong to root, or to whoever starts us
        *(
            [Role(name="runner", words=[*python, "bastion.runner", "--config", file, "--owner", str(os.getuid())])]
            if settings.runner.scripts
            else []
        ),
        *(
            [Role(name="broker", words=[*python, "bastion.broker", "--config", file])]
            if settings.broker.socket or settings.broker.listen
            else []
        ),
        *(
            Role(name=f"ssh-{number}", words=[*python, "bastion.ssh", "--config", file, "--worker", str(number)])
            for number in range(settings.ssh.workers)
        ),
    ]  # fmt: skip


def run(path: Path) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    problems = config.check(path)
    if problems:
        raise ConfigError(problems)
    settings = config.load(path)
    settings.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard) if hard >= 0 else FILES, hard))
    with _alone(settings.run):
        return trio.run(Supervisor(settings, roles(settings), Log(sys.stderr)).run)


@dataclass
class Supervisor:
    """Owns the children; `run` returns when all of them have ended."""

    settings: Settings
    roles: list[Role]
    log: Log
    children: list["Child"] = field(default_factory=list)

    async def run(self) -> int:
        failure: BastionError | None = None
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as readers:
                async with trio.open_nursery() as keepers:
                    keepers.start_soon(self._obey, signals, keepers.cancel_scope)
                    try:
                        await self._start(readers, keepers)
                    except ChildFailed as error:
                        failure = error
                        keepers.cancel_scope.cancel()
                await self._stop()
                readers.cancel_scope.deadline = trio.current_time() + 1.0  # for the last words in the pipes
        if failure is not None:
            raise failure
        return 0

    async def _start(self, readers: trio.Nursery, keepers: trio.Nursery) -> None:
        for role in self.roles:
            child = Child(role, self.settings.run, self.log, readers)
            self.children.append(child)
            await child.start()
            keepers.start_soon(child.keep)
        self.log.say("info", "ready", listen=self.settings.ssh.listen, pid=os.getpid())
        tell_systemd("READY=1")

    async def _obey(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            if number != signal.SIGHUP:
                self.log.say("info", "stopping", signal=signal.Signals(number).name)
                tell_systemd("STOPPING=1")
                return scope.cancel()
            self._reload()

    def _reload(self) -> None:
        """The children read the file again, each its own table; a file with a fault reaches none of them."""
        problems = config.check(self.settings.path)
        for problem in problems:
            self.log.say("error", "configuration kept", problem=str(problem))
        if not problems:
            self.log.say("info", "reloading")
            for child in self.children:
                child.send(signal.SIGHUP)

    async def _stop(self) -> None:
        """Doors first, authorities last; workers of one kind together."""
        kinds: dict[str, list[Child]] = {}
        for child in reversed(self.children):
            kinds.setdefault(child.role.name.split("-")[0], []).append(child)
        for group in kinds.values():
            async with trio.open_nursery() as nursery:
                for child in group:
                    nursery.start_soon(child.stop)


class ChildFailed(BastionError):
    """A child ended, or stayed silent, before it was ready."""


@dataclass
class Child:
    """One role and the process that has it now. `keep` restarts it until it is cancelled; then `stop` ends it."""

    role: Role
    run: Path
    log: Log
    readers: trio.Nursery
    process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Run it and wait until it is ready; ChildFailed if that does not come about."""
        notify = self.run / f"notify-{self.role.name}.sock"
        notify.unlink(missing_ok=True)
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            await told.bind(str(notify))
            try:
                self._spawn(notify)
                await self._ready(told)
            finally:
                notify.unlink(missing_ok=True)

    async def keep(self) -> None:
        """Start it again whenever it ends."""
        pause = FIRST_PAUSE
        while True:
            began = trio.current_time()
            status = await self._ended()
            if trio.current_time() - began > STEADY:
                pause = FIRST_PAUSE
            self.log.say("error", "child ended", child=self.role.name, how=_how(status), restart_in=pause)
            await trio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            try:
                await self.start()
            except ChildFailed as error:
                self.log.say("error", "child did not start", child=self.role.name, why=error.cause)
                await self.stop()
            else:
                self.log.say("info", "child runs again", child=self.role.name, pid=self.pid)

    async def stop(self) -> None:
        """SIGTERM, patience, SIGKILL. Shielded: it runs while everything around it is being cancelled."""
        if self.process is None or self.process.poll() is not None:
            return
        with trio.CancelScope(shield=True):
            self.send(signal.SIGTERM)
            with trio.move_on_after(STOP_PATIENCE) as patience:
                await self._ended()
            if patience.cancelled_caught:
                self.log.say("error", "child killed", child=self.role.name, after=STOP_PATIENCE)
                self.send(signal.SIGKILL)
                await self._ended()

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def _spawn(self, notify: Path) -> None:
        for_terminal = self.log.terminal
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")}
        environment |= {"NOTIFY_SOCKET": str(notify), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            self.role.words, env=environment, stdin=subprocess.DEVNULL,
            # not a pipe unless a person is watching: children must be able to log when the parent was killed
            stdout=subprocess.PIPE if for_terminal else None, stderr=subprocess.STDOUT if for_terminal else None,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which stops the others in order
            preexec_fn=_die_with(os.getpid()),
        )  # fmt: skip
        if self.process.stdout is not None:
            self.readers.start_soon(self._show, self.process.stdout)

    async def _ready(self, told: trio.socket.SocketType) -> None:
        """Whichever comes first: its word, its socket, its end, or our patience."""
        outcome = ["said nothing for " + f"{START_PATIENCE:g} seconds"]

        async def word() -> None:
            while b"READY=1" not in (await told.recv(4096)).split(b"\n"):
                pass
            finish("")

        async def answer(path: Path) -> None:
            while not is_answering(path):  # noqa: ASYNC110 - nothing tells us when another process listens
                await trio.sleep(0.05)
            finish("")

        async def end() -> None:
            finish(_how(await self._ended()))

        def finish(how: str) -> None:
            outcome[0] = how
            nursery.cancel_scope.cancel()

        with trio.move_on_after(START_PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(word)
                nursery.start_soon(end)
                if self.role.socket is not None:
                    nursery.start_soon(answer, self.role.socket)
        if outcome[0]:
            cause = f"{self.role.name} could not start: it {outcome[0]}"
            words = " ".join(["python3", *self.role.words[1:]])
            raise ChildFailed(cause, f"its own words stand above; alone it is: {words}")

    async def _ended(self) -> int:
        assert self.process is not None
        try:
            handle = os.pidfd_open(self.process.pid)
        except ProcessLookupError:
            return self.process.wait()
        try:
            await trio.lowlevel.wait_readable(handle)
        finally:
            os.close(handle)
        return self.process.wait()

    async def _show(self, stream: IO[bytes]) -> None:
        """Copy a child's log to the terminal, as text."""
        with stream:
            pending = b""
            while data := await _read(stream):
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self.log.write(render(line, self.role.name))
                pending = pending[-MAX_LINE:]


async def _read(stream: IO[bytes]) -> bytes:
    await trio.lowlevel.wait_readable(stream)
    return os.read(stream.fileno(), MAX_LINE)


def _die_with(parent: int) -> Callable[[], None]:
    def between_fork_and_exec() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(ExitCode.MISCONFIGURED)

    return between_fork_and_exec


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"exited with status {status}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two supervisors on one folder would take each other's sockets."""
    with (folder / "bastion.pid").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            file.seek(0)
            pid = file.read(32).strip()
            raise MisuseError(f"this bastion is already running, process {pid}", f"stop it first: kill {pid}") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
