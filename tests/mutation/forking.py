"""In a mutation child our own processes are forked, not executed: they have the mutated module and start at once."""

import asyncio
import importlib
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sniffio

OURS: Final = frozenset({"policy", "recorder", "replay"})


class Popen(subprocess.Popen[Any]):
    """`python -m OURS ...` without the start of an interpreter; every other command as ever."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Any, cwd: Any,
                       env: Mapping[str, str] | None, startupinfo: Any, creationflags: Any, shell: bool,
                       p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int, errread: int, errwrite: int,
                       *others: Any) -> None:  # fmt: skip
        if shell or preexec_fn or not _is_ours(args) or _in_a_loop():
            super()._execute_child(  # type: ignore[misc]
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *others,
            )  # fmt: skip
            return
        self.pid = os.fork()
        if self.pid == 0:
            _become([str(word) for word in args], (p2cread, c2pwrite, errwrite), set(pass_fds), cwd, env)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def install() -> None:
    subprocess.Popen = Popen  # type: ignore[misc]


def _is_ours(args: object) -> bool:
    words = [str(word) for word in args] if isinstance(args, list | tuple) else []
    return len(words) > 2 and words[:2] == [sys.executable, "-m"] and words[2] in OURS


def _in_a_loop() -> bool:
    """A loop that runs here would run there as well."""
    try:
        sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return asyncio._get_running_loop() is not None
    return True


def _become(
    words: Sequence[str], streams: tuple[int, int, int], kept: set[int], cwd: Any, env: Mapping[str, str] | None
) -> None:
    """Never returns."""
    code = 1
    try:
        held = [os.dup(handle if handle >= 0 else at) for at, handle in enumerate(streams)]
        for at, handle in enumerate(held):
            os.dup2(handle, at)
        for handle in {int(name) for name in os.listdir("/proc/self/fd")} - kept - {0, 1, 2}:
            try:
                os.close(handle)
            except OSError:
                pass
        if cwd is not None:
            os.chdir(cwd)
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        sys.stdin, sys.stdout, sys.stderr = (open(at, mode) for at, mode in enumerate(("r", "w", "w")))  # noqa: SIM115
        for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        sys.argv = [words[2], *words[3:]]
        importlib.import_module(f"{words[2]}.__main__").main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                pass
        os._exit(code)
