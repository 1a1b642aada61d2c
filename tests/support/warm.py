"""Our commands from a process that has imported them: each a fork of it, which saves 0.6 s of CPU at every start.

A process of its own as ever: it ends by itself, its parent is the warm one, and whatever of the environment counts
before `main` is as it was when the warm one began, or the command starts cold.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.support.forked import become, is_ours

ROOT: Final = Path(__file__).resolve().parents[2]
MODULES: Final = ("policy.__main__", "policy.daemon", "policy.setup", "policy.backup.restoring", "replay.cli")
"""What they import, once it is clear what they are to do."""
EARLY: Final = ("PYTHON", "LD_", "MALLOC_", "LC_", "LANG", "TZ", "FAKETIME")
"""Variables that count before `main`."""
_MOST: Final = 128 << 10  # bytes of a request, most of it the environment


class Popen(subprocess.Popen[Any]):
    """`python -m OURS ...` from the warm process; every other command as ever."""

    _served = False

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Any, cwd: Any,
                       env: Mapping[str, str] | None, startupinfo: Any, creationflags: Any, shell: bool,
                       p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int, errread: int, errwrite: int,
                       *others: Any) -> None:  # fmt: skip
        variables = dict(os.environ if env is None else env)
        ours = not (shell or executable or preexec_fn or pass_fds) and (is_ours(args) or _is_command(args))
        if not ours or _early(variables) != _server()[1]:
            super()._execute_child(  # type: ignore[misc]
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *others,
            )  # fmt: skip
            return
        streams = [handle if handle >= 0 else at for at, handle in enumerate((p2cread, c2pwrite, errwrite))]
        request = {"words": [str(word) for word in args], "cwd": os.fspath(cwd or os.getcwd()), "env": variables}
        self.pid, _ = _ask(request, streams)
        self._served = self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _internal_poll(self, *args: Any, **options: Any) -> int | None:
        if not self._served:
            return super()._internal_poll(*args, **options)  # type: ignore[misc,no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid and self.returncode is None:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        """(pid, status) as waitpid(2) has it, which only its parent may call."""
        if not self._served:
            return super()._try_wait(flags)  # type: ignore[misc,no-any-return]
        while True:
            pid, status = _ask({"ended": self.pid}, [])
            if pid or flags & os.WNOHANG:
                return pid, status
            time.sleep(0.01)


def run(
    words: Sequence[str], given: str = "", timeout: float = 60, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """To its end, its output caught."""
    pipe = subprocess.PIPE
    with Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            output, error = process.communicate(given, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, output, error)


def _is_command(args: Any) -> bool:
    """`python -m bastion ...`, but for the one that stays and starts others."""
    words = [str(word) for word in args] if isinstance(args, list | tuple) else []
    return words[:3] == [sys.executable, "-m", "bastion"] and words[3:4] != ["run"]


# --- the side of the tests --------------------------------------------------------------------------

_lock = threading.Lock()


@cache
def _server() -> tuple[socket.socket, dict[str, str]]:
    """Its socket, and what it was started with. It ends with this process."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen([sys.executable, "-m", __name__, str(its.fileno())], pass_fds=[its.fileno()],
                                   stdin=subprocess.DEVNULL, cwd=ROOT)  # fmt: skip

    def end() -> None:
        mine.close()
        process.wait()

    atexit.register(end)
    return mine, _early(os.environ)


def _early(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(EARLY)}


def _ask(request: dict[str, Any], handles: list[int]) -> tuple[int, int]:
    with _lock:
        there = _server()[0]
        socket.send_fds(there, [json.dumps(request).encode()], handles)
        answer = there.recv(64)
    assert answer, "the warm process is gone; what it said is in the output of the first test that used it"
    pid, status = map(int, answer.split())
    return pid, status


# --- the warm process -------------------------------------------------------------------------------


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as there:
        commands = {name for name, _ in importlib.import_module("bastion.cli").COMMANDS.values()}
        for name in (*MODULES, *sorted(commands - {"bastion.cli.run"})):
            importlib.import_module(name)
        gc.collect()
        gc.freeze()  # a child that collects garbage would copy every page
        with contextlib.suppress(ConnectionError, KeyboardInterrupt):
            while _answer(there):
                pass


def _answer(there: socket.socket) -> bool:
    data, handles, _, _ = socket.recv_fds(there, _MOST, 3)
    if not data:
        return False
    request = json.loads(data)
    if "ended" in request:
        there.send(b"%d %d" % os.waitpid(request["ended"], os.WNOHANG))
        return True
    pid = os.fork()
    if pid == 0:
        become(request["words"], handles, set(), request["cwd"], request["env"])
    for handle in handles:
        os.close(handle)
    there.send(b"%d 0" % pid)
    return True


if __name__ == "__main__":
    main()
