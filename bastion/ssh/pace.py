"""How much one read takes: less while somebody types, because their keys wait behind it. Of one process. Pure.

A key and its echo pass the gateway four times (both legs, two acknowledgements), each time behind the read that is
under way. 256 KiB with their hash take half a millisecond; with 64 KiB the median key under bulk took 1.6 to 2.8 ms,
with 24 KiB 1.0 to 1.2, at a fifth more CPU a byte.
"""

from typing import Final

READ: Final = 256 * 1024
"""Bytes of one read. Less costs system calls, more makes other people's keystrokes wait (measured)."""
SHARED: Final = 24 * 1024
"""Bytes of one read while somebody types."""
LULL: Final = 1.0
"""Seconds after the last key after which nobody is considered typing: the slowest typist is faster."""
KEYS: Final = 64
"""Bytes of input up to which it was typed: a key, its sequence, its commitment. What is longer came from a file."""


class Pace:
    """`now` in seconds of the event loop's clock."""

    __slots__ = ("_typed",)

    def __init__(self) -> None:
        self._typed = -LULL

    def typed(self, now: float) -> None:
        """A key has come."""
        self._typed = now

    def read_size(self, now: float) -> int:
        """Bytes that the next read may take."""
        return SHARED if now - self._typed < LULL else READ


pace: Final = Pace()
"""That of this process."""
