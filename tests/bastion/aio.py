"""Tests of the SSH gateway run in asyncio's loop; pytest's own limit ends one that hangs, whatever clocks it turns."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from tests.support.net import at_most

P = ParamSpec("P")


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run `test` in a loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **options: P.kwargs) -> None:
        asyncio.run(test(*args, **options))

    return run


async def until(what: str, condition: Callable[[], object], seconds: float | None = None) -> None:
    """Let the loop run until `condition` is true; AssertionError naming `what` after `seconds`, 20 unless told."""
    seconds = at_most(20) if seconds is None else seconds
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        await asyncio.sleep(0.005)


async def quiet(turns: int = 20) -> None:
    """Let everything that is ready run: for what must not happen."""
    for _ in range(turns):
        await asyncio.sleep(0.002)
