"""What /proc says of a process, taken apart. Pure."""

from typing import Final

MAX_FILE: Final = 4096
"""Bytes read of /proc/PID/stat and cgroup: one line each, some more with the control groups of version 1."""


def unit_of(cgroup: str) -> str:
    """The systemd unit that a process runs in, by its /proc/PID/cgroup; empty if that cannot be told.

    It is the first component that is no slice, as systemd itself reads it. Attack: a user runs `shop.service` under
    their own manager, /user.slice/.../user@1000.service/app.slice/shop.service: that is user@1000.service.
    """
    path = _path(cgroup)
    if path.endswith(" (deleted)"):
        return ""
    for name in path.strip("/").split("/"):
        if not name.endswith(".slice"):
            return name.removeprefix("_") if name.endswith((".service", ".scope")) else ""
    return ""


def started_of(stat: str) -> int:
    """When a process began, in clock ticks since boot, by its /proc/PID/stat (proc_pid_stat(5), field 22); -1."""
    # the name before it is the process's own to choose, and may hold blanks and `)`
    fields = stat.rpartition(")")[2].split()
    number = fields[19] if len(fields) > 19 else ""
    return int(number) if number.isascii() and number.isdigit() and len(number) < 20 else -1


def _path(cgroup: str) -> str:
    """Of systemd's own hierarchy, or of the unified one.

    A container on a host with control groups of version 1 shows both, and its systemd uses the unified one alone: all
    processes are at `/` of the other, which names no unit and says nothing. Only root moves processes to there.
    """
    paths: dict[str, str] = {}
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and controllers == "") or controllers == "name=systemd":
            paths.setdefault(controllers, path)
    own = paths.get("name=systemd", "/")
    return own if own != "/" else paths.get("", "")
