"""A person at a terminal: runs `replay play` on a pseudo-terminal, presses keys, and looks at the screen."""

import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from replay.screen import Screen
from tests.support.net import at_most

PATIENCE = at_most(30.0)


class Watcher:
    """`shown` is all that reached the terminal."""

    def __init__(self, *words: str | Path, config: Path, columns: int = 100, rows: int = 30) -> None:
        self._master, self._slave = os.openpty()
        self._screen = Screen(columns, rows)
        self.shown = b""
        self.resize(columns, rows, told=False)
        self._before = self.modes()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "replay", "play", *map(str, words), "-c", str(config)],
            stdin=self._slave, stdout=self._slave, stderr=self._slave, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def modes(self) -> list[Any]:
        """The terminal's settings; whoever looks on keeps the slave open, so they outlive the process."""
        return termios.tcgetattr(self._slave)

    @property
    def is_as_before(self) -> bool:
        return self.modes() == self._before

    def resize(self, columns: int, rows: int, told: bool = True) -> None:
        ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen.resize(columns, rows)
        if told:
            self.process.send_signal(signal.SIGWINCH)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    @property
    def text(self) -> str:
        """What stands on the screen."""
        return "\n".join(self._screen.lines())

    @property
    def status(self) -> str:
        """The last row."""
        return self._screen.lines()[-1]

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Read until it holds; AssertionError with the screen if it does not come to."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"no {what} on the screen:\n{self.text}"
            if select.select([self._master], [], [], 0.1)[0]:
                data = os.read(self._master, 65536)
                self.shown += data
                self._screen.feed(data)

    def sees(self, text: str) -> None:
        self.until(repr(text), lambda: text in self.text)

    def ends(self) -> int:
        """Wait for its end; the exit code."""
        self.until("end", lambda: self.process.poll() is not None)
        self.until("rest", lambda: not select.select([self._master], [], [], 0.1)[0])
        return self.process.returncode
