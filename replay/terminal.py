"""The auditor's terminal: raw while a recording plays, and as it was afterwards, whatever happens."""

import os
import shutil
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from replay.safe import RESET

READ = 256
"""Bytes of keys read at once: more than a person types between two looks."""


class Terminal:
    """Keys from `keys` (a file descriptor, None: no keyboard), drawing to `screen`."""

    def __init__(self, keys: int | None, screen: int) -> None:
        self._keys = keys
        self._screen = screen

    def size(self) -> tuple[int, int]:
        """Columns and rows now."""
        try:
            found = os.get_terminal_size(self._screen)
        except OSError:
            found = shutil.get_terminal_size()
        return max(found.columns, 20), max(found.lines, 4)

    async def write(self, text: str) -> None:
        """All of `text`; waits for a slow terminal without holding up the keys."""
        data = memoryview(text.encode("utf-8", "replace"))
        while data:
            await trio.lowlevel.wait_writable(self._screen)
            # a terminal says "writable" when there is room for some: a large write would block until all has gone
            written = os.write(self._screen, data[:1024])
            data = data[written:]

    async def read(self) -> bytes:
        """Keys; waits for ever if there is no keyboard. Empty: the terminal has gone."""
        if self._keys is None:
            await trio.sleep_forever()
        assert self._keys is not None
        await trio.lowlevel.wait_readable(self._keys)
        try:
            return os.read(self._keys, READ)
        except OSError:
            return b""

    @contextmanager
    def raw(self) -> Iterator[None]:
        """No echo, no line editing, no signals from keys, no changes to output; undone at the end, and on any error."""
        if self._keys is None:
            try:
                yield
            finally:
                self._reset("\r\n")
            return
        before = termios.tcgetattr(self._keys)
        try:
            tty.setraw(self._keys)
            yield
        finally:
            self._reset("")
            termios.tcsetattr(self._keys, termios.TCSADRAIN, before)

    def _reset(self, end: str) -> None:
        try:
            os.write(self._screen, (RESET + end).encode())
        except OSError:  # the window was closed: nobody is left to see it
            pass


def ours() -> Terminal | None:
    """The terminal that standard output is; None if it is none."""
    if not sys.stdout.isatty():
        return None
    sys.stdout.flush()
    return Terminal(sys.stdin.fileno() if sys.stdin.isatty() else None, sys.stdout.fileno())
