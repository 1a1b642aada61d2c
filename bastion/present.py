"""Answers of policyd as text for people and as JSON for programs, at a terminal of ours and over ssh alike."""

import json
from io import StringIO

from bastion.text import neutral
from policy.messages import Done, Rows


def as_json(answer: Rows | Done) -> str:
    """One JSON value on one line."""
    if isinstance(answer, Rows):
        return json.dumps([dict(zip(answer.columns, row, strict=False)) for row in answer.rows])
    return json.dumps({"text": answer.text, **answer.data})


def as_text(answer: Rows | Done, width: int | None) -> str:
    """A table, or a sentence and what it leaves out. `width` in columns; None: a pipe, which gets whole lines."""
    if isinstance(answer, Rows):
        return table(answer.columns, answer.rows, width) if answer.rows else ""
    lines = [neutral(answer.text, keep_lines=True)]
    lines += [f"  {neutral(name)}: {neutral(value)}" for name, value in answer.data.items() if value not in answer.text]
    return "\n".join(lines) + "\n"


def table(columns: list[str], rows: list[list[str]], width: int | None) -> str:
    """Columns lined up; cells are from outside and made harmless."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        grid.add_column(neutral(column), overflow="fold")
    for row in rows:
        grid.add_row(*(Text(neutral(cell)) for cell in row))
    out = StringIO()
    # Folding at 80 columns would cut what `grep` and `awk` look for.
    Console(file=out, width=width or 1000, highlight=False, force_terminal=width is not None).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
