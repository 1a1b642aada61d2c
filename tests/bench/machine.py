"""What processes cost: CPU time to the nanosecond and memory as the kernel shares it out. Linux only."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """Seconds of CPU that a live process has used, ended threads included; 0.0 if it is gone.

    The process clock of another process, as clock_getcpuclockid(3) makes it: `/proc/PID/stat` has ticks of 10 ms,
    which is more than a whole login costs.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def cpu_with_children(pid: int) -> float:
    """Seconds of CPU of a listener, of the children it has reaped (in ticks) and of its living descendants."""
    reaped = 0.0
    try:
        fields = _stat(pid)
        reaped = (int(fields[13]) + int(fields[14])) / TICK
    except OSError:
        pass
    return cpu(pid) + reaped + sum(cpu(child) for child in descendants(pid))


def pss(pid: int) -> int:
    """Bytes of memory of a process, shared pages counted by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no Pss of process {pid}")


def descendants(pid: int) -> list[int]:
    """Living children, their children, and so on."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(_stat(int(folder.name))[1])
        except OSError:  # it ended while we looked
            continue
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def words_of(pid: int) -> list[str]:
    """The command line of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def total_pss(pids: Iterable[int]) -> int:
    return sum(pss(pid) for pid in pids)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from `state` on; the name before them may hold spaces and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
