"""In a mutation child our own processes are forked, not executed: they have the mutated module and start at once."""

import asyncio
import os
import subprocess
from collections.abc import Mapping
from typing import Any

import sniffio

from tests.support import warm
from tests.support.forked import become, is_ours


class Popen(subprocess.Popen[Any]):
    """`python -m OURS ...` without the start of an interpreter; every other command as ever."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Any, cwd: Any,
                       env: Mapping[str, str] | None, startupinfo: Any, creationflags: Any, shell: bool,
                       p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int, errread: int, errwrite: int,
                       *others: Any) -> None:  # fmt: skip
        if shell or preexec_fn or not is_ours(args) or _in_a_loop():
            super()._execute_child(  # type: ignore[misc]
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *others,
            )  # fmt: skip
            return
        self.pid = os.fork()
        if self.pid == 0:
            become([str(word) for word in args], (p2cread, c2pwrite, errwrite), set(pass_fds), cwd, env)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def install() -> None:
    subprocess.Popen = warm.Popen = Popen  # type: ignore[misc]


def _in_a_loop() -> bool:
    """A loop that runs here would run there as well."""
    try:
        sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return asyncio._get_running_loop() is not None
    return True
