"""What keeps the memory of the doors off disks and out of other hands: secrets pass through it."""

import ctypes
import os
import resource
from contextlib import suppress
from typing import Final

from bastion.errors import BastionError

_PR_SET_DUMPABLE: Final = 4


def hide_memory() -> None:
    """No core dump, of this process or of what it starts, and no ptrace by others of our user. BastionError.

    Both: the kernel writes no core of a process that is not dumpable whatever its limit is, and what it starts is
    dumpable again, but keeps the limit.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise BastionError(f"prctl: {os.strerror(ctypes.get_errno()).lower()}")
    with suppress(OSError):  # the unit sets it, and may forbid the call
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
