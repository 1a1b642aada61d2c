"""Free ports and waiting for servers, on loopback only."""

import fcntl
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

LOOPBACK = "127.0.0.1"

PORTS: Final = range(20_000, 30_000)
"""Below those that the system gives to clients and to whoever binds port 0 (ip_local_port_range begins at 32768)."""

share = 1.0
"""Of the seconds that a test would wait: less under tests.mutation, where what it waits for often never comes."""
_given: set[int] = set()


def free_port(among: range = PORTS) -> int:
    """A port nobody listens on, and which nobody else who asks here is given while this process lives."""
    first = random.SystemRandom().randrange(len(among))
    for port in [*among[first:], *among[:first]]:
        if port not in _given and _is_mine(port) and _is_free(port):
            _given.add(port)
            return port
    raise AssertionError(f"no port of {among} is free")


def _is_mine(port: int) -> bool:
    """Its byte of a file that all tests of this user share is locked until the process ends."""
    try:
        fcntl.lockf(_ports(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _ports() -> BinaryIO:
    return Path(tempfile.gettempdir(), f"bastion-test-ports-{os.getuid()}").open("ab")  # closed, it would be unlocked


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def at_most(seconds: float) -> float:
    """The limit of a wait: `seconds`, or their share, but none below eight for that: a machine may be slow.

    Not for a reply, nor for what takes its time: both have to come from a mutant as well.
    """
    return max(min(seconds, 8.0), seconds * share)


def wait_until(what: str, condition: Callable[[], object], seconds: float | None = None) -> None:
    """Poll `condition` until it is true; AssertionError naming `what` after `seconds`, 20 unless told."""
    seconds = at_most(20) if seconds is None else seconds
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


def wait_until_still(measure: Callable[[], object], seconds: float = 60.0, *, still: float = 0.5) -> None:
    """Poll until `measure` has given the same value for so many seconds: whatever moved has stopped."""
    deadline = time.monotonic() + seconds
    value, since = measure(), time.monotonic()
    while time.monotonic() - since < still:
        assert time.monotonic() < deadline, f"still moving after {seconds:g} s"
        time.sleep(0.05)
        if (now := measure()) != value:
            value, since = now, time.monotonic()


def answers_ssh(port: int, host: str = LOOPBACK) -> bool:
    """True if a server there says `SSH-2.0`."""
    try:
        with socket.create_connection((host, port), timeout=2) as sock:
            return sock.recv(255).startswith(b"SSH-2.0")
    except OSError:
        return False


def tail(path: Path, lines: int = 40) -> str:
    """The last lines of a log, for the message of a failed assertion."""
    if not path.exists():
        return f"(no {path})"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
