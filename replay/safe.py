"""What a recorded terminal may do to the auditor's terminal: draw, and nothing else. Pure.

An allow-list. Colours, cursor moves, erasing, scroll regions, the alternate screen, line-drawing characters and tabs
pass, written anew from what was understood. Everything else is dropped, among it:

    OSC                  title (CVE-2003-0063), clipboard (52), links (8), colours, working directory (7)
    DCS APC PM SOS       DECRQSS (CVE-2008-2383), sixel, tmux pass-through, key definitions
    ENQ DA DSR DECRQM    a terminal answers into the auditor's shell (CVE-2022-45063)
    CSI t, CSI i, ED 3   window operations, printing, the auditor's own scrollback
    modes                mouse, paste, focus, keypad, 132 columns, synchronised output
    C1 controls, bidi    second spellings of the above, and text turned around
"""

import re
from collections.abc import Callable
from typing import Final

from replay.escapes import CONTROL, CSI, TEXT, Parser

_NUMBERS: Final = re.compile(r"(?:[0-9]{0,4})(?:;[0-9]{0,4}){0,2}")
"""Parameters of what moves or erases: up to three numbers below 10,000. REP with a larger one is a known crash."""

_COLOURS: Final = re.compile(r"[0-9:;]{0,128}")

_PLAIN: Final = frozenset("@ABCDEFGHIJKLMPSXZ`abdefgr")
_PRIVATE_MODES: Final = frozenset({"6", "7", "25", "47", "1047", "1048", "1049"})
"""Origin, wrapping, cursor visible, alternate screen. All are undone by RESET."""

_ESCAPES: Final = frozenset("78DEHM")
_CHARSETS: Final = frozenset("0AB")

SOFT: Final = "\x1b[m\x1b[4l\x1b[?7h\x1b[?25h\x1b(B\x1b)B\x0f"
"""Plain text from here on: no colours, no hidden text, ordinary letters, wrapped and with a cursor."""
_ERASED: Final = "\x1b[H\x1b[2J"

RESET: Final = f"\x1b[?1049l\x1b[?6l\x1b[r{SOFT}\x1b[999;1H\x1b[K"
"""Written when playing ends: undoes whatever passed, and goes below the picture. Leaving origin mode moves the cursor,
so it is left out of SOFT."""


class Filter:
    """Bytes a target wrote -> text that is safe on the auditor's terminal.

    `rows` keeps the picture in that many rows from the top: the recorded terminal was smaller than the auditor's, and
    what scrolled at its last row must scroll there (0: all of them).
    """

    def __init__(self, rows: int = 0) -> None:
        self._parser = Parser()
        self._rows = rows

    def start(self) -> str:
        """What must stand before the first output: an empty picture of the right height."""
        return f"{SOFT}\x1b[?6l{self._region('')}{_ERASED}"

    def feed(self, data: bytes) -> str:
        """The part of `data` that draws."""
        out = []
        for kind, body, between, final in self._parser.feed(data):
            if kind in (TEXT, CONTROL):
                out.append(body)
            elif kind == CSI:
                out.append(self._sequence(body, between, final))
            else:
                out.append(self._escape(between, final))
        return "".join(out)

    def _escape(self, between: str, final: str) -> str:
        if not between:
            if final == "c":  # a full reset also resets the auditor's settings: only its picture is kept
                return self.start()
            return f"\x1b{final}" if final in _ESCAPES else ""
        if between in ("(", ")") and final in _CHARSETS:
            return f"\x1b{between}{final}"
        return "\x1b#8" if (between, final) == ("#", "8") else ""

    def _sequence(self, body: str, between: str, final: str) -> str:
        if between:
            return f"\x1b7{self._region('')}\x1b8{SOFT}" if (body, between, final) == ("", "!", "p") else ""
        if final == "m":
            return f"\x1b[{body}m" if _COLOURS.fullmatch(body) else ""
        if final in "hl":
            return _modes(body, final)
        if not _NUMBERS.fullmatch(body):
            return ""
        if final in ("s", "u"):  # with parameters it would be left and right margins
            return f"\x1b[{final}" if not body else ""
        if final == "T":  # with more than one it starts mouse tracking
            return f"\x1b[{body}T" if ";" not in body else ""
        if final == "J" and body not in ("", "0", "1", "2"):  # 3 erases what the auditor had scrolled off
            return ""
        if final not in _PLAIN:
            return ""
        return self._placed(body, final) if self._rows else f"\x1b[{body}{final}"

    def _placed(self, body: str, final: str) -> str:
        """Rows kept inside the picture."""
        if final == "r":
            return self._region(body)
        if final in "Hfd":
            row, *others = body.split(";")
            return f"\x1b[{';'.join([str(min(int(row or 1), self._rows)), *others])}{final}"
        return f"\x1b[{body}{final}"

    def _region(self, body: str) -> str:
        if not self._rows:
            return f"\x1b[{body}r"
        top, _, bottom = body.partition(";")
        low = min(int(bottom.partition(";")[0] or self._rows) or self._rows, self._rows)
        return f"\x1b[{top or 1};{low}r"


def _modes(body: str, final: str) -> str:
    if body.startswith("?"):
        passed = [mode for mode in body[1:].split(";") if mode in _PRIVATE_MODES]
        return f"\x1b[?{';'.join(passed)}{final}" if passed else ""
    return f"\x1b[4{final}" if body == "4" else ""  # insert mode; 20 would change the auditor's Enter key


def lines(feed: Callable[[bytes], str], data: bytes) -> str:
    """Output of a command without a terminal, for a terminal in raw mode: its line feeds begin a line."""
    return feed(data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
