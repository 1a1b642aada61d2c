"""What one event leads to leaves together: one write per leg, one message to the recorder."""

from typing import Final, Protocol


class Outlet(Protocol):
    def flush(self) -> None:
        """Write what has been gathered."""


_waiting: list[Outlet] = []
_depth = 0


class Burst:
    """What is gathered inside is written at its end. Never held across an `await`."""

    __slots__ = ()

    def __enter__(self) -> None:
        global _depth
        _depth += 1

    def __exit__(self, *_: object) -> None:
        global _depth
        _depth -= 1
        if not _depth:
            _flush()


_BURST: Final = Burst()


def burst() -> Burst:
    """`with burst():` four times a keystroke, so without the generator that contextlib would make each time."""
    return _BURST


def gathered(outlet: Outlet) -> None:
    """`outlet` has something to write; outside of a burst it is written at once by `settle`."""
    _waiting.append(outlet)


def settle() -> None:
    """To be called after gathering: outside of a burst, write."""
    if not _depth:
        _flush()


def _flush() -> None:
    # Still a burst: what an inner connection of `ssh -J` writes are messages on the outer one, and leave together.
    # One write each of them took a sixth of the gateway's CPU of a download that way.
    global _depth
    _depth += 1
    try:
        while _waiting:
            _waiting.pop().flush()
    finally:
        _depth -= 1
