"""One line typed on a terminal: keys in, echo out. Pure.

Enter ends it, Ctrl-C leaves, Ctrl-D too where nothing is typed; backspace, Ctrl-U and Ctrl-W take back. Arrows and
their like do nothing. Hidden input is not echoed at all, not even its length.
"""

import re
from codecs import getincrementaldecoder
from enum import Enum
from typing import Final

from rich.cells import cell_len

from bastion.text import neutral

MOST: Final = 500
"""Characters of a line; policyd takes no longer reason."""

_KEYS: Final = re.compile("\x1b\\[[0-9;?]*[A-Za-z~]|\x1bO[A-Za-z]|\x1b[^\\[O]|[^\x1b]", re.DOTALL)
_BACK: Final = {"\x7f", "\x08"}


class Outcome(Enum):
    OPEN = "open"
    DONE = "done"
    LEFT = "left"


class Line:
    """`text` is what was typed once `key` says DONE; `rest` what was typed behind it."""

    def __init__(self, *, hidden: bool = False, most: int = MOST) -> None:
        self.text = ""
        self.rest = b""
        self._hidden = hidden
        self._most = most
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._partial = ""  # an escape sequence whose end has not come yet

    def key(self, data: bytes) -> tuple[str, Outcome]:
        """What was typed, one key or many at once: what to echo, and whether that was it."""
        echo = ""
        text, self._partial = self._partial + self._decoder.decode(data), ""
        at = 0
        while at < len(text):
            match = _KEYS.match(text, at)
            if match is None:
                self._partial = text[at:] if len(text) - at < 16 else ""
                break
            at, token = match.end(), match.group()
            if token in ("\r", "\n"):
                rest = text[at:]
                self.rest = (rest[1:] if token == "\r" and rest.startswith("\n") else rest).encode()
                return echo, Outcome.DONE
            if token == "\x03" or (token == "\x04" and not self.text):
                return echo, Outcome.LEFT
            echo += self._edit(token)
        return echo, Outcome.OPEN

    def _edit(self, token: str) -> str:
        if token in _BACK:
            return self._take(self.text[-1:])
        if token == "\x15":
            return self._take(self.text)
        if token == "\x17":
            before, blank, _ = self.text.rstrip().rpartition(" ")
            return self._take(self.text[len(before + blank) :])
        # What moves a cursor or turns a line around is not typed by anybody, and not echoed to anybody.
        if len(token) > 1 or token == "\t" or neutral(token) != token or len(self.text) >= self._most:
            return ""
        self.text += token
        return "" if self._hidden else token

    def _take(self, tail: str) -> str:
        self.text = self.text[: len(self.text) - len(tail)]
        return "" if self._hidden else "\b \b" * cell_len(tail)
