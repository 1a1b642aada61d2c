"""The database: the only place that knows SQL. Everything here is synchronous; callers use threads.

One writer, many readers: `Store.write` takes `BEGIN IMMEDIATE`, so a change that waits for nobody is either
whole or absent. SQLite runs in WAL mode with `synchronous=NORMAL`: what was committed survives the death of any
process at once, and the loss of power after `Store.sync`. A commit then costs a write and no wait for the disk.
"""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError
from sqlalchemy.pool import QueuePool

from policy.errors import PolicyError
from policy.store import migrate
from policy.store.tables import Conflict, Tables, in_batches

__all__ = ["Conflict", "Store", "StoreError", "Tables", "create", "in_batches", "open_store", "path_of", "status"]

BUSY_SECONDS = 5.0
"""How long a statement waits for another process's lock; a decision that takes longer is denied anyway."""

LOG_PAGES = 16 * 1024
"""64 MiB of log: from here on a commit moves it, whatever that takes; before, `relieve` has done so long ago."""

log = structlog.get_logger()


class StoreError(PolicyError):
    """The database cannot be used."""


class Store:
    """An open database whose schema fits this program."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._path, self._opened = path, _identity(path)
        self._log = Path(f"{path}-wal")
        self._writer: Connection | None = None  # kept open; used by one thread at a time

    @contextmanager
    def write(self) -> Iterator[Tables]:
        """One transaction that may change things; committed at the end of the block, undone by an exception.

        StoreError if the database does not do it: disk full, locked for too long, damaged, gone.
        """
        # Attack, or mistake: SQLite goes on in a file that was removed, and what it is told there is nowhere.
        if _identity(self._path) != self._opened:
            raise StoreError("database: its file is gone, or another one is in its place")
        try:
            writer = self._writer = self._writer or self._engine.connect()
            with writer.begin():
                yield Tables(writer)
        except DBAPIError as error:
            self._drop_writer()
            raise StoreError(f"database: {error.orig}") from None

    def sync(self) -> None:
        """What was committed before the call is on disk at its return. OSError if it is not: then trust nothing.

        The commits are in the write-ahead log, or were moved from there by a checkpoint, which syncs both files
        itself. SQLite holds no lock on the log that our closing of it would give up.
        """
        try:
            handle = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._writer is None:
                return  # nothing was written yet
            raise  # Attack, or mistake: it was removed, and commits go where nobody finds them again
        try:
            os.fdatasync(handle)
        finally:
            os.close(handle)

    @contextmanager
    def read(self) -> Iterator[Tables]:
        """One consistent view."""
        try:
            with self._engine.connect().execution_options(bastion_read=True) as connection, connection.begin():
                yield Tables(connection)
        except DBAPIError as error:
            raise StoreError(f"database: {error.orig}") from None

    def checkpoint(self) -> None:
        """Move what is in the write-ahead log to where it belongs, and empty the log: no old page is left there.

        StoreError if somebody reads at this moment.
        """
        with self._pragmas() as cursor:
            busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError("database: somebody reads it at this moment")

    def relieve(self) -> None:
        """Move what nobody reads any more out of the write-ahead log, while others read and commit."""
        try:
            with self._pragmas() as cursor:
                cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except StoreError as error:  # a full disk: commits will say so, and find room first if it is made
            log.warning("checkpoint-failed", error=error.cause)

    @contextmanager
    def _pragmas(self) -> Iterator[Any]:
        """A cursor outside of every transaction. StoreError, also where no connection can be opened any more."""
        try:
            raw = self._engine.raw_connection()
            try:
                yield raw.cursor()
            finally:
                raw.close()
        except sqlite3.Error as error:
            raise StoreError(f"database: {error}") from None

    def close(self) -> None:
        self._drop_writer()
        self._engine.dispose()

    def _drop_writer(self) -> None:
        """After an error nobody knows in what state a connection is."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.invalidate()
            writer.close()


def create(url: str, base: Path) -> Store:
    """Make the database, or bring an older one up to date; a file of ours is 0600. StoreError if it cannot be."""
    engine = _engine(url, base, make=True)
    try:
        with engine.begin() as connection:
            migrate.upgrade(connection)
    except DatabaseError as error:
        raise StoreError(f"database `{url}`: {error.orig}") from None
    except migrate.CannotUpgrade as error:
        raise StoreError(f"database `{url}`: {error}", "make a new state: `bastion init DIR`") from None
    return Store(engine, base / _file(url))


def open_store(url: str, base: Path) -> Store:
    """Open a database that `create` made. StoreError if it is missing, damaged, or of another version."""
    engine = _engine(url, base, make=False)
    found, wanted = _revision(engine, url), migrate.wanted()
    if found == wanted:
        return Store(engine, base / _file(url))
    engine.dispose()
    if found is None:
        raise StoreError(f"database `{url}` is empty", "run `bastion-policyd init`")
    if migrate.known(found):
        raise StoreError(
            f"database `{url}` has schema {found}, this program needs {wanted}", "run `bastion-policyd db upgrade`"
        )
    raise StoreError(
        f"database `{url}` has schema {found}, which a newer program made (this one needs {wanted})",
        "start the newer version, or restore the backup made before it",
    )


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def path_of(url: str, base: Path) -> Path:
    """The file of a database; StoreError if it is none."""
    return base / _file(url)


def status(url: str, base: Path) -> tuple[str | None, str]:
    """Revision of the database, and the revision this program needs."""
    engine = _engine(url, base, make=False)
    try:
        return _revision(engine, url), migrate.wanted()
    finally:
        engine.dispose()


def _revision(engine: Engine, url: str) -> str | None:
    try:
        return migrate.current(engine)
    except DatabaseError as error:
        engine.dispose()
        raise StoreError(f"database `{url}`: {error.orig}", "restore it from a backup") from None


def _file(url: str) -> str:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError("database: want sqlite:///FILE") from None
    if parsed.drivername != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise StoreError(f"database `{parsed.render_as_string()}`: only sqlite:///FILE is supported")
    return parsed.database


def _engine(url: str, base: Path, *, make: bool) -> Engine:
    path = base / _file(url)
    if make:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Made here and not by SQLite, so that the file is never readable by others, whatever the umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    elif not path.exists():
        raise StoreError(f"database `{path}` does not exist", "run `bastion-policyd init`")
    if not stat.S_ISREG(path.stat().st_mode):
        raise StoreError(f"database `{path}` is not a regular file", "restore it from a backup")
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=4,  # one writer, a few readers
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        hide_parameters=True,  # password hashes and sealed secrets stay out of error texts
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(raw: Any, _record: object) -> None:
    # The driver's own transaction handling neither takes the write lock at BEGIN nor covers DDL; ours does.
    raw.isolation_level = None
    # secure_delete: a root key that was taken out, or a secret, is not left in a page that is free.
    for pragma in (
        "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "trusted_schema=OFF", "secure_delete=ON",
        f"wal_autocheckpoint={LOG_PAGES}",
    ):  # fmt: skip
        raw.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("bastion_read", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
