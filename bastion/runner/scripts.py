"""From the name of a script to an open file that nobody but its owner could have written, and what its end means.

The checks are made of the very file that is run, by its descriptor: what stands under the path a moment later is of
no interest.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bastion.text import neutral
from policy.messages import RunScript
from policy.messages.rotation import DONE, REFUSED, UNKNOWN

ACTIONS: Final = frozenset(("change", "verify"))
MAX_DETAIL: Final = 300
HIDDEN: Final = "[secret]"
EXITS: Final[Mapping[int, str]] = {0: DONE, 1: REFUSED}
"""By exit status; 2, any other and a signal are UNKNOWN."""
ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
"""All of it: what a service was started with may hold secrets, or LD_PRELOAD."""

_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


class BadScript(Exception):
    """It is not run; the text is for the operator."""


def open_script(path: str, owner: int) -> int:
    """A descriptor of the script; BadScript unless only root or the user `owner` could have written it."""
    allowed = {0, owner}
    where = Path(path)
    if not where.is_absolute():
        raise BadScript(f"`{neutral(path)}` is no absolute path")
    for folder in where.parents:
        # Attack: whoever may write to a folder above puts another folder in its place.
        found = _stat(folder)
        if found.st_uid not in allowed or (found.st_mode & _WRITABLE and not found.st_mode & stat.S_ISVTX):
            raise BadScript(f"others may write to `{neutral(str(folder))}`, in which the script is")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadScript(f"script `{neutral(path)}` cannot be opened: {(error.strerror or '').lower()}") from None
    found = os.fstat(handle)
    problem = ""
    if not stat.S_ISREG(found.st_mode):
        problem = "is no file"
    elif found.st_uid not in allowed:
        problem = f"belongs to user {found.st_uid}, not to root"
    elif found.st_mode & _WRITABLE:
        problem = "may be written by others: chmod go-w it"
    elif not found.st_mode & 0o111:
        problem = "may not be run: chmod +x it"
    elif found.st_mode & (stat.S_ISUID | stat.S_ISGID):
        problem = "changes the user it runs as"
    if problem:
        os.close(handle)
        raise BadScript(f"script `{neutral(path)}` {problem}")
    return handle


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise BadScript(f"`{neutral(str(path))}` cannot be looked at: {(error.strerror or '').lower()}") from None


def spoken(order: RunScript) -> bytes:
    """What the script reads; BadScript for what cannot be said in JSON."""
    if order.action not in ACTIONS:
        raise BadScript(f"no action of a script is called `{neutral(order.action)[:32]}`")
    try:
        old, new = order.old.decode(), order.new.decode()
    except UnicodeDecodeError:
        raise BadScript("a secret that is no text cannot be said to a script") from None
    said = {
        "action": order.action, "account": order.account, "target": order.target, "address": order.address,
        "port": order.port, "old": old, "new": new,
    }  # fmt: skip
    return json.dumps(said).encode() + b"\n"


def detail(order: RunScript, said: bytes, otherwise: str) -> str:
    """The last line of its standard error, harmless and without the secrets."""
    text = said.decode("utf-8", "replace")
    for secret in (order.new, order.old):
        if secret:
            text = text.replace(secret.decode("utf-8", "replace"), HIDDEN)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return neutral(lines[-1])[:MAX_DETAIL] if lines else otherwise


def outcome(status: int) -> str:
    return EXITS.get(status, UNKNOWN)
