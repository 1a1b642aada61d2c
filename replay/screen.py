"""A terminal that keeps text: what stood on the screen at any time, and the lines that left it. Pure.

Compared in tests with libvterm, the terminal of Neovim. Colours are not kept, but the newest colour sequence is, so
that playing can go on from a picture drawn anew. Fed by a hostile target: every size and count is bounded.
"""

from collections.abc import Callable
from typing import Final

from replay.cells import DRAWING, SPECIAL, bounded, numbers, width_of
from replay.escapes import CONTROL, CSI, TEXT, Parser

MAX_MARKS: Final = 8
"""Combining marks on one character; `zalgo` text must not grow a cell without end."""

_GAP: Final = ""
"""The right half of a wide character: it has no text of its own."""


class Screen:
    """`gone` takes lines that leave: one that scrolls off the top of the main screen, or all that are cleared away."""

    def __init__(self, columns: int = 80, rows: int = 24, gone: Callable[[list[str]], None] | None = None) -> None:
        self.columns, self.rows = bounded(columns, rows)
        self._gone = gone
        self._parser = Parser()
        self._reset()

    def _reset(self) -> None:
        self._cells = [self._blank() for _ in range(self.rows)]
        self._main: list[list[str]] | None = None  # the main screen while the other one is shown
        self.x = self.y = 0
        self.top, self.bottom = 0, self.rows - 1
        self.colours = ""
        self._at_edge = False  # the last column was written; the next character wraps first
        self._wraps, self._inserts, self._origin = True, False, False
        self._charsets, self._shift = ["B", "B"], 0
        self._tabs = set(range(8, self.columns, 8))
        self._last = ""
        self._saved = self._state()

    @property
    def alternate(self) -> bool:
        return self._main is not None

    def lines(self) -> list[str]:
        """The rows, top down, without trailing blanks."""
        return ["".join(row).rstrip(" ") for row in self._cells]

    def feed(self, data: bytes) -> None:
        """Draw what a target wrote."""
        for kind, body, between, final in self._parser.feed(data):
            if kind == TEXT:
                self._put(body)
            elif kind == CONTROL:
                self._control(body)
            elif kind == CSI:
                self._sequence(body, between, final)
            else:
                self._escape(between, final)

    def resize(self, columns: int, rows: int) -> None:
        """Keep the top-left part; rows above the cursor scroll off if the cursor would not fit."""
        columns, rows = bounded(columns, rows)
        while self.rows > rows and self.y >= rows:
            self._leave(self._cells.pop(0))
            self.rows -= 1
            self.y -= 1
        self.columns, self.rows = columns, rows
        self._cells = self._fitted(self._cells)
        if self._main:
            self._main = self._fitted(self._main)
        self.x, self.y = min(self.x, columns - 1), min(self.y, rows - 1)
        self.top, self.bottom = 0, rows - 1
        self._tabs = set(range(8, columns, 8))
        self._at_edge = False

    def _fitted(self, cells: list[list[str]]) -> list[list[str]]:
        fitted = [(row + [" "] * (self.columns - len(row)))[: self.columns] for row in cells[: self.rows]]
        return fitted + [self._blank() for _ in range(self.rows - len(fitted))]

    def _blank(self) -> list[str]:
        return [" "] * self.columns

    def _leave(self, row: list[str]) -> None:
        if self._gone is not None and self._main is None:
            self._gone(["".join(row).rstrip(" ")])

    def _clear(self) -> None:
        """All rows are about to go."""
        if self._gone is not None:
            self._gone(self.lines())

    # --- text ---------------------------------------------------------------------------------------

    def _put(self, text: str) -> None:
        if self._charsets[self._shift] == "0":
            text = text.translate(DRAWING)
        if self._inserts or not self._wraps or SPECIAL.search(text):
            self._put_each(text)
            return
        at, end, columns = 0, len(text), self.columns
        while at < end:
            if self._at_edge:
                self.x, self._at_edge = 0, False
                self._line_feed()
            count = min(end - at, columns - self.x)
            row = self._cells[self.y]
            if row[self.x] is _GAP or (self.x + count < columns and row[self.x + count] is _GAP):
                self._split(row, self.x, self.x + count)
            row[self.x : self.x + count] = text[at : at + count]
            at += count
            self.x += count
            if self.x >= columns:
                self.x, self._at_edge = columns - 1, True
        self._last = text[-1]

    def _put_each(self, text: str) -> None:
        """Characters one by one: wide ones, combining ones, or in insert mode."""
        for char in text:
            width = width_of(char)
            if not width:
                self._combine(char)
                continue
            if (self._at_edge or self.x + width > self.columns) and self._wraps:
                self.x, self._at_edge = 0, False
                self._line_feed()
            self.x = min(self.x, self.columns - width)
            row = self._cells[self.y]
            if self._inserts:
                row[self.x : self.x] = [" "] * width
                del row[self.columns :]
            self._split(row, self.x, self.x + width)
            row[self.x] = char
            if width == 2:
                row[self.x + 1] = _GAP
            self.x += width
            if self.x >= self.columns:
                self.x, self._at_edge = self.columns - 1, True
            self._last = char

    def _combine(self, mark: str) -> None:
        row = self._cells[self.y]
        at = self.x if self._at_edge else self.x - 1
        if at > 0 and row[at] is _GAP:
            at -= 1
        if at >= 0 and len(row[at]) <= MAX_MARKS:
            row[at] += mark

    def _split(self, row: list[str], start: int, end: int) -> None:
        """Overwriting one half of a wide character leaves a blank in place of the other."""
        if start and row[start] is _GAP:
            row[start - 1] = row[start] = " "
        if end < self.columns and row[end] is _GAP:
            row[end] = " "

    # --- moving -------------------------------------------------------------------------------------

    def _control(self, char: str) -> None:
        if char in "\n\v\f":
            self._line_feed()
        elif char == "\r":
            self.x = 0
        elif char == "\b":
            self.x = max(0, self.x - 1)
        elif char == "\t":
            self._tab(1)
            return
        else:
            self._shift = 1 if char == "\x0e" else 0
            return
        self._at_edge = False

    def _tab(self, count: int) -> None:
        for _ in range(min(count, self.columns)):
            self.x = min((stop for stop in self._tabs if stop > self.x), default=self.columns - 1)

    def _line_feed(self) -> None:
        if self.y == self.bottom:
            self._scroll_up(1)
        elif self.y < self.rows - 1:
            self.y += 1

    def _scroll_up(self, count: int, top: int | None = None) -> None:
        start = self.top if top is None else top
        for _ in range(min(count, self.bottom - start + 1)):
            row = self._cells.pop(start)
            if top is None and not start:
                self._leave(row)
            self._cells.insert(self.bottom, self._blank())

    def _scroll_down(self, count: int, top: int | None = None) -> None:
        start = self.top if top is None else top
        for _ in range(min(count, self.bottom - start + 1)):
            del self._cells[self.bottom]
            self._cells.insert(start, self._blank())

    def _escape(self, between: str, final: str) -> None:
        if between in ("(", ")"):
            self._charsets[between == ")"] = final
        elif between:
            if (between, final) == ("#", "8"):
                self._cells = [["E"] * self.columns for _ in range(self.rows)]
        elif final == "M":
            if self.y == self.top:
                self._scroll_down(1)
            else:
                self.y = max(0, self.y - 1)
        elif final in "DE":
            self._line_feed()
            if final == "E":
                self.x = 0
        elif final == "H":
            self._tabs.add(self.x)
        elif final == "7":
            self._saved = self._state()
        elif final == "8":
            self._restore()
        elif final == "c":
            self._clear()
            self._reset()

    def _state(self) -> tuple[int, int, bool, tuple[str, str], int, str]:
        """What ESC 7 keeps (DEC STD 070, DECSC)."""
        return self.x, self.y, self._origin, (self._charsets[0], self._charsets[1]), self._shift, self.colours

    def _restore(self) -> None:
        x, y, self._origin, charsets, self._shift, self.colours = self._saved
        self._charsets = list(charsets)
        self.x, self.y, self._at_edge = min(x, self.columns - 1), min(y, self.rows - 1), False

    # --- control sequences --------------------------------------------------------------------------

    def _sequence(self, body: str, between: str, final: str) -> None:
        if final == "m":
            if not between and body[:1] not in ("<", "=", ">", "?"):
                self._colour(body)
            return
        if between:
            if (between, final) == ("!", "p"):
                self.colours, self._wraps, self._inserts, self._origin = "", True, False, False
                self._charsets, self._shift = ["B", "B"], 0
                self.top, self.bottom = 0, self.rows - 1
            return
        if body[:1] == "?":
            if final in "hl":
                for mode in body[1:].split(";"):
                    self._mode(mode, final == "h")
            return
        if final in "hl":
            self._inserts = (final == "h") if body == "4" else self._inserts
            return
        values = numbers(body)
        if values is None:
            return
        first = values[0]
        if final in _MOVES:
            self._move(final, max(first, 1), values)
        elif final in _EDITS:
            self._edit(final, first, max(first, 1))
        elif final == "r":
            self._margins(max(first, 1) - 1, (values[1] if len(values) > 1 else 0) or self.rows)
        elif final == "s" and not body:
            self._saved = self._state()
        elif final == "u" and not body:
            self._restore()
        elif final == "b":
            if self._last:
                self._put(self._last * min(max(first, 1), self.columns * self.rows))
        elif final == "g":
            self._tabs = set() if first == 3 else self._tabs - {self.x}

    def _colour(self, body: str) -> None:
        """Remember what would bring the colours back; starts over at each reset."""
        if body in ("", "0"):
            self.colours = ""
        elif body.startswith("0;"):
            self.colours = f"\x1b[{body}m"
        elif len(self.colours) < 512:  # a target that never resets must not grow this for ever
            self.colours += f"\x1b[{body}m"

    def _mode(self, mode: str, on: bool) -> None:
        if mode == "7":
            self._wraps = on
        elif mode == "6":
            self._origin = on
            self.x, self.y, self._at_edge = 0, self.top if on else 0, False
        elif mode in ("47", "1047", "1048", "1049"):
            if on and mode in ("1048", "1049"):
                self._saved = self._state()
            if mode != "1048":
                self._switch(on)
            if on and mode == "1049":
                self._cells = [self._blank() for _ in range(self.rows)]
            if not on and mode in ("1048", "1049"):
                self._restore()

    def _switch(self, alternate: bool) -> None:
        if alternate and self._main is None:
            self._main = self._cells
            self._cells = [self._blank() for _ in range(self.rows)]
        elif not alternate and self._main is not None:
            self._clear()
            self._cells, self._main = self._main, None

    def _margins(self, top: int, bottom: int) -> None:
        top, bottom = min(top, self.rows - 1), min(bottom, self.rows) - 1
        self.top, self.bottom = (top, bottom) if top < bottom else (0, self.rows - 1)
        self.x, self.y, self._at_edge = 0, self.top if self._origin else 0, False

    def _move(self, final: str, count: int, values: list[int]) -> None:
        low, high = (self.top, self.bottom) if self._origin else (0, self.rows - 1)
        if final in "Hf":
            self.y = min(low + count - 1, high)
            self.x = max(values[1] if len(values) > 1 else 1, 1) - 1
        elif final in "AF":
            self.y = max(self.top if self.y >= self.top else 0, self.y - count)
        elif final in "BEe":
            self.y = min(self.bottom if self.y <= self.bottom else self.rows - 1, self.y + count)
        elif final in "Ca":
            self.x += count
        elif final == "D":
            self.x = max(0, self.x - count)
        elif final in "G`":
            self.x = count - 1
        elif final == "d":
            self.y = min(low + count - 1, high)
        elif final == "I":
            self._tab(count)
        elif final == "Z":
            for _ in range(min(count, self.columns)):
                self.x = max((stop for stop in self._tabs if stop < self.x), default=0)
        if final in "EF":
            self.x = 0
        self.x, self._at_edge = min(self.x, self.columns - 1), False

    def _edit(self, final: str, how: int, count: int) -> None:
        row, x, y = self._cells[self.y], self.x, self.y
        self._at_edge = False
        if final == "K":
            self._erase(y, x if how == 0 else 0, x + 1 if how == 1 else self.columns)
        elif final == "J":
            if how == 2 or (how == 0 and x == y == 0):
                self._clear()
            if how == 0:
                self._erase(y, x, self.columns)
            elif how == 1:
                self._erase(y, 0, x + 1)
            for other in range(self.rows):
                if (how == 0 and other > y) or (how == 1 and other < y) or how == 2:
                    self._cells[other] = self._blank()
        elif final == "X":
            self._erase(y, x, min(x + count, self.columns))
        elif final in "P@":
            count = min(count, self.columns - x)
            self._split(row, x, x)
            if final == "P":
                self._split(row, x, x + count)
                row[x:] = row[x + count :] + [" "] * count
            else:
                row[x:] = [" "] * count + row[x : self.columns - count]
        elif final in "LM" and self.top <= y <= self.bottom:
            (self._scroll_down if final == "L" else self._scroll_up)(count, y)
        elif final == "S":
            self._scroll_up(count)
        elif final == "T":
            self._scroll_down(count)

    def _erase(self, y: int, start: int, end: int) -> None:
        row = self._cells[y]
        self._split(row, start, end)
        row[start:end] = [" "] * (end - start)


_MOVES: Final = frozenset("ABCDEFGHIZ`adef")
_EDITS: Final = frozenset("JKXP@LMST")
