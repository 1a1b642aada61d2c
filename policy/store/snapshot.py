"""A copy of a database that others write to: one moment of it, by SQLite's online backup."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

PAGES: Final = 1024
"""4 MiB a step: progress is seen, and a writer is held up by no lock at all (WAL)."""


def snapshot(source: Path, target: Path, progress: Callable[[int, int], None]) -> None:
    """Into a new file of mode 0600. sqlite3.Error, OSError. `progress` is told pages done, and of how many.

    The reader's transaction is held from the first page to the last: SQLite would begin again whenever somebody has
    written in between, and on a busy bastion never come to an end.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(source, timeout=5.0)) as live, closing(sqlite3.connect(target)) as copy:
        live.execute("BEGIN")
        live.execute("SELECT count(*) FROM sqlite_master").fetchone()
        live.backup(copy, pages=PAGES, progress=lambda _, left, total: progress(total - left, total))
        live.rollback()
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        if (found := copy.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
            raise sqlite3.DatabaseError(str(found[0])[:200])
