"""Somebody at a terminal who runs a real client: types, reads, resizes the window, and sees how it ends."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from typing import Self

from tests.support.net import at_most

PATIENCE = at_most(40.0)  # seconds to wait for anything a client ought to show


class Person:
    """`with Person("ssh", ...) as person:`; standard input, output and error of the client are one terminal."""

    def __init__(self, *words: str, columns: int = 80, rows: int = 24, env: dict[str, str] | None = None) -> None:
        self.screen = b""  # what was shown and not yet waited for
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execvpe(words[0], list(words), {**os.environ, "TERM": "xterm-256color", **(env or {})})
        self._status: int | None = None
        self.resize(columns, rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def type(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self.fd, data) :]

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, text: str) -> str:
        """Wait until `text` is shown; what came before it, and forget both."""
        end = time.monotonic() + PATIENCE
        while text.encode() not in self.screen:
            assert self._read(end - time.monotonic()), f"no {text!r} in {self.screen!r}"
        before, _, self.screen = self.screen.partition(text.encode())
        return before.decode(errors="replace")

    def wait(self) -> int:
        """Read to the end; the client's exit status."""
        end = time.monotonic() + PATIENCE
        while self._read(max(end - time.monotonic(), 0)):
            pass
        assert time.monotonic() < end, f"the client does not end: {self.screen[-2000:]!r}"
        self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def _read(self, seconds: float) -> bool:
        if not select.select([self.fd], [], [], max(seconds, 0))[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # Linux answers EIO when the last process has left the terminal
            return False
        self.screen += data
        return bool(data)
