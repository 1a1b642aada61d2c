"""What one event leads to leaves together: one write per leg, one message to the recorder."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Outlet(Protocol):
    def flush(self) -> None:
        """Write what has been gathered."""


_waiting: list[Outlet] = []
_depth = 0


@contextmanager
def burst() -> Iterator[None]:
    """What is gathered inside is written at its end. Never held across an `await`."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _flush()


def gathered(outlet: Outlet) -> None:
    """`outlet` has something to write; outside of a burst it is written at once by `settle`."""
    _waiting.append(outlet)


def settle() -> None:
    """To be called after gathering: outside of a burst, write."""
    if not _depth:
        _flush()


def _flush() -> None:
    while _waiting:
        _waiting.pop().flush()
