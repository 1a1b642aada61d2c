"""A real program on a real terminal, with TypedText between it and the person who types."""

import os
import pty
import select
import signal
import termios
import time
from typing import Self

from bastion.typed import TypedText
from recorder.model import Kind

KEY = b"k" * 32
LONGEST = 40.0  # seconds to wait for anything a program ought to show
ECHO = 0.4  # seconds to wait for the echo of one key, which is there at once unless others want the processor
HIDDEN = 0.05  # the same where a program has the echo off


class Terminal:
    """`typing` keys and `until` outputs; the events are in `events`, as they would be recorded."""

    def __init__(self, *argv: str, env: dict[str, str] | None = None) -> None:
        self.tap = TypedText(KEY, terminal=True)
        self.events: list[tuple[Kind, bytes]] = []
        self.screen = b""
        self.typed = b""
        self.pid, self.fd = pty.fork()
        if not self.pid:
            path = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "PS1": "$ ", "HOME": "/nonexistent"}
            os.execvpe(argv[0], list(argv), path | {"LC_ALL": "C.UTF-8", "HISTFILE": "/dev/null"} | (env or {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)

    def _read(self, seconds: float) -> bool:
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.fd, 32768)
        except OSError:  # Linux answers EIO when the last process has left the terminal
            return False
        self.events += self.tap.shown(data)
        self.screen += data
        return bool(data)

    def until(self, text: bytes) -> None:
        """Wait until `text` is shown, and forget what came before."""
        end = time.monotonic() + LONGEST
        while text not in self.screen:
            assert self._read(end - time.monotonic()), f"no {text!r} in {self.screen!r}"
        self.screen = self.screen.partition(text)[2]

    def until_hidden(self) -> None:
        """Wait until a program has the echo off. A line editor has it off as well, but takes key by key."""
        end = time.monotonic() + LONGEST
        while not self._hides():
            assert time.monotonic() < end, f"the echo stays on: {self.screen!r}"
            self._read(0.02)

    def _hides(self) -> bool:
        return bool((termios.tcgetattr(self.fd)[3] & (termios.ECHO | termios.ICANON)) == termios.ICANON)

    def keys(self, text: bytes) -> None:
        """Type key by key, at the pace of the echo."""
        for char in text.decode():
            longest = HIDDEN if self._hides() else ECHO
            self.piece(char.encode())
            while self._read(longest) and char == "\r":  # a person waits for the prompt before the next line
                pass

    def piece(self, data: bytes) -> None:
        """Type, or paste, in one piece."""
        self.typed += data
        self.events += self.tap.typed(data)
        while data:
            data = data[os.write(self.fd, data) :]

    def clear(self) -> bytes:
        """Everything of what was typed that the recording shows as text."""
        return b"".join(data for kind, data in self.events if kind in (Kind.INPUT, Kind.REVEALED))
