"""What a terminal's cells can hold, and how many there are. Pure."""

import re
import unicodedata
from functools import lru_cache
from typing import Final

MAX_COLUMNS: Final = 1000
MAX_ROWS: Final = 500
"""No terminal is larger, and one screen of blanks must not take gigabytes because a client said so."""

SPECIAL: Final = re.compile("[\u00ad\u0300-\U0010ffff]")
"""Finds a character that may not take exactly one column."""

DRAWING: Final = str.maketrans("`afgijklmnopqrstuvwxyz{|}~", "◆▒°±␉┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·")
"""DEC special graphics, the character set of `ESC ( 0`."""


def bounded(columns: int, rows: int) -> tuple[int, int]:
    """A size that a terminal can have."""
    return min(max(columns, 2), MAX_COLUMNS), min(max(rows, 2), MAX_ROWS)


@lru_cache(1024)
def numbers(body: str) -> list[int] | None:
    """`5;12` -> [5, 12]; None for what is no list of sensible numbers."""
    parts = body.split(";")
    if len(parts) > 16 or any(len(part) > 5 or not (part.isdecimal() or not part) for part in parts):
        return None
    return [int(part) if part else 0 for part in parts]


@lru_cache(4096)
def width_of(char: str) -> int:
    """Columns of a character: 0 for one that combines, 2 for one of East Asian width."""
    if char < "\u0300":
        return 0 if char == "\u00ad" else 1
    if unicodedata.category(char) in ("Mn", "Me", "Cf") or "\u1160" <= char <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
