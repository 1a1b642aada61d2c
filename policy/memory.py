"""What keeps this process's memory, which holds every secret, off disks and out of other hands."""

import ctypes
import os
import resource
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE, _PR_GET_DUMPABLE = 4, 3
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK: Final = 14

_libc = ctypes.CDLL(None, use_errno=True)


def protect() -> None:
    """No core dump, no ptrace by others of our user, and nothing in swap where that may be. OSError for the first two.

    Locking is for whoever may lock without a limit: with one, memory would run out at the limit, and not at the
    end of the machine's. Pages are locked when they are touched (MCL_ONFAULT): threads' stacks are mostly untouched.
    """
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")
    with suppress(OSError, ValueError):  # the unit sets it, and may forbid the call
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if _may_lock():
        _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)  # `memory_protection` tells what came of it


def memory_protection() -> dict[str, str]:
    """What holds now, read from the kernel: `swap`, `core dumps`, `ptrace`, each with the way out where it does not."""
    locked = _status("VmLck")
    swap = "kept out" if locked > 0 else "not kept out: the unit wants LimitMEMLOCK=infinity"
    dumpable = _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0
    cores = resource.getrlimit(resource.RLIMIT_CORE)[0] != 0 and dumpable
    return {
        "swap": swap,
        "core dumps": "possible" if cores else "none",
        "ptrace": "possible by the same user" if dumpable else "by root alone",
    }


def _may_lock() -> bool:
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    return unlimited or bool(_status("CapEff", 16) >> _CAP_IPC_LOCK & 1)


def _status(name: str, base: int = 10) -> int:
    """A number of /proc/self/status; 0 if the kernel does not tell it."""
    try:
        with open("/proc/self/status", "rb") as file:
            lines = file.read(64 * 1024).splitlines()
    except OSError:
        return 0
    found = [line.partition(b":")[2].split() for line in lines if line.startswith(f"{name}:".encode())]
    return int(found[0][0], base) if found and found[0] else 0
