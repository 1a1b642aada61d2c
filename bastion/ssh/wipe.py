"""Overwriting secrets in memory: CPython frees an object without clearing it, and a quiet process reuses little.

What a password passes on its way into a packet cannot all be reached (asyncssh and the cipher make copies of their own,
which are the first to be overwritten); the objects that live longest can.
"""

import ctypes
import sys
from typing import Final

_BYTES: Final = bytes.__basicsize__ - 1  # where the content of a bytes object begins; the last byte is a zero
SHARED: Final = 1
"""Length up to which CPython has one object for all (b"", "a"): overwriting it would change everybody's."""


def wipe(*secrets: object) -> None:
    """Overwrite the content of bytes and ASCII texts that nobody uses any more, interned ones excepted."""
    for secret in secrets:
        if type(secret) is bytes and len(secret) > SHARED:
            ctypes.memset(id(secret) + _BYTES, 0, len(secret))
        elif type(secret) is str and len(secret) > SHARED and secret.isascii():
            # Compact ASCII (PEP 393): the text and its zero are the end of the object.
            ctypes.memset(id(secret) + sys.getsizeof(secret) - len(secret) - 1, 0, len(secret))
