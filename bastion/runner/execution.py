"""One run of one script: a process group of its own, JSON on its standard input, little to say, and a deadline.

The file is run by its descriptor, which was checked (`scripts`). Whatever it started is ended with it.
"""

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final

import trio

from bastion.runner import scripts
from bastion.runner.scripts import BadScript
from policy.messages import RunScript, Worked
from policy.messages.rotation import UNKNOWN, UNREACHABLE

MAX_SECONDS: Final = 600.0
MAX_SAID: Final = 64 * 1024
"""Bytes of standard output and error together; only the last line of the latter is of interest."""
LAST_WORDS: Final = 1.0
"""Seconds after its end for what is still in the pipes: a child that it left behind may hold them open for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whom:
    """`owner`: who may have written a script, beside root. `uid`, `gid`: whom it runs as; None: as we do."""

    owner: int = 0
    uid: int | None = None
    gid: int | None = None


class _Flood(Exception):
    pass


async def run(order: RunScript, path: str, whom: Whom) -> Worked:
    """What came of it; never raises for what the script does."""
    if whom.uid is None and os.geteuid() == 0:
        # A script that an operator wrote for one purpose, with every right there is: not by mistake.
        return _nothing(order, "scripts are not run as root: set `user` in [runner] of bastion.toml")
    try:
        said = scripts.spoken(order)
        handle = scripts.open_script(path, whom.owner)
    except BadScript as error:
        return _nothing(order, str(error))
    try:
        process = _started(order, path, handle, whom)
    except OSError as error:
        return _nothing(order, f"script `{order.script[:32]}` cannot be run: {(error.strerror or '').lower()}")
    finally:
        os.close(handle)
    return await _finished(order, process, said)


def _started(order: RunScript, path: str, handle: int, whom: Whom) -> subprocess.Popen[bytes]:
    """Not trio's own: see bastion.supervisor."""
    return subprocess.Popen(
        [path, order.action], executable=f"/proc/self/fd/{handle}", pass_fds=(handle,), cwd="/",
        env=dict(scripts.ENVIRONMENT), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        user=whom.uid, group=whom.gid, extra_groups=None if whom.uid is None else [],
        start_new_session=True, umask=0o077,
    )  # fmt: skip


async def _finished(order: RunScript, process: subprocess.Popen[bytes], said: bytes) -> Worked:
    seconds = min(max(order.seconds, 0.1), MAX_SECONDS)
    heard = {"out": b"", "err": b""}
    problem = ""
    try:
        with trio.move_on_after(seconds) as patience:
            async with trio.open_nursery() as talk:
                talk.start_soon(_say, process, said)
                talk.start_soon(_hear, process.stdout, heard, "out")
                talk.start_soon(_hear, process.stderr, heard, "err")
                await _ended(process)
                talk.cancel_scope.deadline = trio.current_time() + LAST_WORDS
        if patience.cancelled_caught:
            problem = f"the script did not end within {seconds:g} seconds"
    except* _Flood:
        problem = f"the script said more than {MAX_SAID} bytes"
    finally:
        _kill(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        status = process.wait()
    if problem:
        return Worked(task=order.task, outcome=UNKNOWN, detail=problem)
    how = f"the script ended with status {status}" if status >= 0 else f"the script was ended by signal {-status}"
    outcome = scripts.outcome(status)
    return Worked(task=order.task, outcome=outcome, detail=scripts.detail(order, heard["err"], how if status else ""))


async def _say(process: subprocess.Popen[bytes], said: bytes) -> None:
    assert process.stdin is not None
    with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):  # it need not read all of it
        async with trio.lowlevel.FdStream(os.dup(process.stdin.fileno())) as stream:
            process.stdin.close()
            await stream.send_all(said)


async def _hear(source: IO[bytes] | None, heard: dict[str, bytes], name: str) -> None:
    assert source is not None
    async with trio.lowlevel.FdStream(os.dup(source.fileno())) as stream:
        async for data in stream:
            heard[name] += data
            if sum(map(len, heard.values())) > MAX_SAID:
                # Attack: a script, or what it talks to, that fills our memory.
                raise _Flood


async def _ended(process: subprocess.Popen[bytes]) -> None:
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(handle)
    finally:
        os.close(handle)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The whole group: also what it started and left behind. Before it is reaped, so that the number is still its."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _nothing(order: RunScript, why: str) -> Worked:
    return Worked(task=order.task, outcome=UNREACHABLE, detail=why)
