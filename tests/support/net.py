"""Free ports and waiting for servers, on loopback only."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A TCP port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll `condition` until it is true; AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


def wait_until_still(measure: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll until `measure` has given the same value for half a second: whatever moved has stopped."""
    deadline = time.monotonic() + seconds
    value, since = measure(), time.monotonic()
    while time.monotonic() - since < 0.5:
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
