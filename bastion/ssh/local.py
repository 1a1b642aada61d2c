"""A channel that ends here: a command of ours, the menu, a question before there is a target."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Final

from bastion.errors import BastionError
from bastion.requests import strings
from bastion.ssh.channels import CLOSE, DATA, EOF, EXTENDED_DATA, REQUEST, WINDOW_ADJUST, End, Flow
from bastion.text import neutral

WINDOW: Final = 16 * 1024
"""Bytes a person may type or pipe ahead; commands read little, and a target takes over with a larger window."""
STDERR: Final = b"\0\0\0\1"
"""SSH_EXTENDED_DATA_STDERR (RFC 4254 section 5.2)."""
_U32: Final = Struct(">I")


def last_words(error: BastionError, *, on_terminal: bool, at_prompt: bool) -> bytes:
    """An error for a person's standard error; off the prompt, if they have one."""
    end = "\r\n" if on_terminal else "\n"
    said = "".join(f"{neutral(line)}{end}" for line in error.lines())
    return ((end if on_terminal and at_prompt else "") + said).encode()


def goodbye(user: End, said: bytes, code: int) -> None:
    """The last that a person sees of a channel."""
    user.send(EXTENDED_DATA, STDERR + strings(said))
    user.send(EOF)
    user.send(REQUEST, strings(b"exit-status") + b"\0" + _U32.pack(code))
    user.send(CLOSE)


def aside(text: str, user: End, target: End, up: Flow, *, on_terminal: bool) -> bool:
    """A line of ours between what the target says. False if the person's window has no room for it.

    It takes of the window that the target was told of; what the person grants next pays for it first.
    """
    said = f"\r\nbastion: {neutral(text)}\r\n" if on_terminal else f"bastion: {neutral(text)}\n"
    if user.close_sent or target.granted - target.received < len(said.encode()) + up.debt:
        return False
    up.debt += len(said.encode())
    user.send(EXTENDED_DATA, STDERR + strings(said.encode()))
    return True


@dataclass(slots=True)
class Terminal:
    term: bytes
    columns: int
    rows: int


class LocalChannel:
    """Bytes in and out of one of a person's channels, within its windows. `exit` once, at the end."""

    def __init__(self, end: End, window: Callable[[], int], spend: Callable[[int], None]) -> None:
        self._end = end
        self._window = window
        self._spend = spend
        self.command: bytes | None = None
        self.terminal: Terminal | None = None
        self.env: dict[bytes, bytes] = {}
        self.resized: Callable[[], None] = lambda: None
        self.granted = 0  # bytes that the person may still send
        self._open = False
        self._input: deque[bytes] = deque()
        self._eof = False
        self._news = asyncio.Event()
        self._output: deque[tuple[int, bytes]] = deque()
        self._drained = asyncio.Event()
        self._drained.set()
        self._status: int | None = None
        self._begin: Callable[[], None] | None = None
        self._finishing: asyncio.Future[None] | None = None

    def start(self, begin: Callable[[], None]) -> None:
        """`begin` tells the client that its shell or command runs; called with the first word of ours."""
        self._begin = begin

    def _started(self) -> None:
        if self._begin is not None:
            begin, self._begin = self._begin, None
            begin()
        if not self._open:
            self._open = True
            self._grant()

    # --- what the server of this channel uses -------------------------------------------------------

    async def read(self) -> bytes:
        """What was typed since; b"" at the end of input."""
        self._started()
        while not self._input and not self._eof:
            self._news.clear()
            await self._news.wait()
        data = b"".join(self._input)
        self._input.clear()
        self._grant()
        return data

    def write(self, data: bytes) -> None:
        self._started()
        self._put(DATA, data)

    def write_error(self, data: bytes) -> None:
        self._started()
        self._put(EXTENDED_DATA, data)

    async def drain(self) -> None:
        """Until the person has taken what was written."""
        await self._drained.wait()

    def exit(self, status: int) -> None:
        self._status = status

    def unread(self, data: bytes) -> None:
        """Give back what was read too much."""
        if data:
            self._input.appendleft(data)

    def leave(self) -> bytes:
        """What was typed and never read, for the target that takes over."""
        data = b"".join(self._input)
        self._input.clear()
        return data

    # --- what the channel does with it --------------------------------------------------------------

    def finish(self) -> None:
        """Close with the exit status, after what is still to be written."""
        self._started()
        if self._output:
            self._finishing = asyncio.ensure_future(self._finish_later())
            return
        self._end.send(EOF)
        self._end.send(REQUEST, strings(b"exit-status") + b"\0" + _U32.pack(self._status or 0))
        self._end.send(CLOSE)

    async def _finish_later(self) -> None:
        await self._drained.wait()
        self.finish()

    def message(self, kind: int, payload: bytes) -> None:
        if kind == DATA:
            data = payload[4:]
            if len(data) > self.granted:
                self._eof = True  # it takes no notice of windows: nothing more is read from it
            if not self._eof and data:
                self.granted -= len(data)
                self._input.append(data)
        elif kind in (EOF, CLOSE):
            self._eof = True
        self._news.set()

    def closed(self) -> None:
        self._eof = True
        self._output.clear()
        self._news.set()
        self._drained.set()

    def resize(self, columns: int, rows: int) -> None:
        assert self.terminal is not None
        self.terminal.columns, self.terminal.rows = columns, rows
        self.resized()

    def window_opened(self) -> None:
        while self._output and (room := min(self._window(), self._end.max_packet)) > 0:
            kind, data = self._output.popleft()
            if len(data) > room:
                self._output.appendleft((kind, data[room:]))
                data = data[:room]
            self._spend(len(data))
            self._end.send(kind, (_U32.pack(1) if kind == EXTENDED_DATA else b"") + strings(data))
        if not self._output:
            self._drained.set()

    def _put(self, kind: int, data: bytes) -> None:
        if data and not self._end.close_sent:
            self._output.append((kind, data))
            self._drained.clear()
            self.window_opened()

    def _grant(self) -> None:
        if self.granted <= WINDOW // 2:
            self._end.send(WINDOW_ADJUST, _U32.pack(WINDOW - self.granted))
            self.granted = WINDOW
