"""Lists in pages: as many rows as one message holds, and where to go on. Pure."""

from collections.abc import Iterable
from typing import Final

from policy.messages import MAX_MESSAGE, Rows

PAGE_BYTES: Final = MAX_MESSAGE * 3 // 4
"""Of rows in one page; the rest is for columns, a note, and the one row that goes beyond."""
_CELL: Final = 5  # bytes msgpack takes for a text's length, at most


def paged(columns: list[str], rows: Iterable[tuple[str, list[str]]], after: str = "", limit: int = 0) -> Rows:
    """The rows that follow `after`; each comes with its key, and the keys ascend. `limit` 0: as many as fit."""
    return counted_out(columns, ((key, row) for key, row in rows if key > after), limit)


def counted_out(columns: list[str], rows: Iterable[tuple[str, list[str]]], limit: int = 0) -> Rows:
    """The first rows, in whatever order they come; `next` is the key of the last one if more follow."""
    kept: list[list[str]] = []
    size, last = 0, ""
    for key, row in rows:
        size += sum(len(cell.encode()) + _CELL for cell in row)
        if kept and (size > PAGE_BYTES or len(kept) == limit):
            return Rows(columns=columns, rows=kept, next=last, note=f"more follow after `{last}`")
        kept.append(row)
        last = key
    return Rows(columns=columns, rows=kept)
