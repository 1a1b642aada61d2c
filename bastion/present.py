"""Answers of policyd as text for people and as JSON for programs, at a terminal of ours and over ssh alike.

The gateway prints them between other people's keystrokes: a thousand rows take milliseconds (a table of `rich` takes
three tenths of a second).
"""

import json
from collections.abc import Sequence
from io import StringIO
from typing import Final

from rich.cells import cell_len, chop_cells

from bastion.text import neutral
from bastion.values import fields, for_terminal
from policy.messages import Done, Revealed, Rows

GAP: Final = 2
NARROWEST: Final = 6
"""Cells of a folded column; less cannot be read."""
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def as_json(answer: Rows | Done | Revealed) -> str:
    """One JSON value on one line."""
    if isinstance(answer, Revealed):
        return json.dumps(fields(answer))
    if isinstance(answer, Rows):
        return json.dumps([dict(zip(answer.columns, row, strict=False)) for row in answer.rows])
    return json.dumps({"text": answer.text, **answer.data})


def as_text(answer: Rows | Done | Revealed, width: int | None) -> str:
    """A table, or a sentence and what it leaves out. `width` in columns; None: a pipe, which gets whole lines.

    A secret is text for a terminal here; a pipe gets its bytes, and from elsewhere.
    """
    if isinstance(answer, Revealed):
        return for_terminal(answer)
    if isinstance(answer, Rows):
        return table(answer.columns, answer.rows, width) if answer.rows else ""
    lines = [neutral(answer.text, keep_lines=True)]
    lines += [f"  {neutral(name)}: {neutral(value)}" for name, value in answer.data.items()
              if value not in answer.text and value != "0"]  # fmt: skip
    return "\n".join(lines) + "\n"


def qr(text: str) -> str:
    """A QR code drawn with half blocks, for phones."""
    import segno  # nothing else needs it, and most commands are over before it is imported

    out = StringIO()
    segno.make(text).terminal(out=out, compact=True)
    return out.getvalue()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Columns lined up below a header; cells are from outside and made harmless, and folded where they do not fit.

    Folding at 80 columns would cut what `grep` and `awk` look for, so a pipe gets whole lines.
    """
    head = [neutral(name) for name in columns]
    body = [[neutral(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(head, *body, strict=True)]
    if width is not None:
        _squeeze(widths, width - GAP * (len(widths) - 1))
    lines = [line if width is None else f"{_BOLD}{line}{_PLAIN}" for line in _folded(head, widths)]
    for row in body:
        lines += _folded(row, widths)
    return "\n".join(lines) + "\n"


def _squeeze(widths: list[int], room: int) -> None:
    """Take from the widest columns until all fit, or none can give more."""
    while sum(widths) > room and (widest := max(widths)) > NARROWEST:
        lower = max([one for one in widths if one < widest] + [NARROWEST])
        many = widths.count(widest)
        step = min(widest - lower, -(-(sum(widths) - room) // many))
        for number, one in enumerate(widths):
            if one == widest:
                widths[number] -= step


def _folded(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One row as lines."""
    parts = [[cell] if cell_len(cell) <= size else chop_cells(cell, size)
             for cell, size in zip(cells, widths, strict=True)]  # fmt: skip
    lines = []
    for number in range(max(map(len, parts))):
        line = ""
        for part, size in zip(parts, widths, strict=True):
            piece = part[number] if number < len(part) else ""
            line += piece + " " * (size - cell_len(piece) + GAP)
        lines.append(line.rstrip())
    return lines
