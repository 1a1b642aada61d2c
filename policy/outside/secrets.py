"""What calls to the outside bring along: secrets and CAs, read where they are kept each time they are needed.

So a token may be renewed without a word to policyd, and is in memory only while it is used.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from policy.rules.ruleset import RuleSet
from policy.tickets.model import Kind
from policy.tickets.ticketfile import MAX_FILE

MAX_SECRET: Final = 4 * 1024
"""Bytes of a token or password; the longest real ones, signed web tokens, take some 2 KiB."""
MAX_TRUST: Final = 32 * 1024
"""Bytes of PEM, some 15 certificates; it travels in one message."""


class OutsideError(Exception):
    """Why it cannot be read, with its path, for the log: people are told less."""


class NotForUs(OutsideError):
    """It is there, and this user may not read it."""


def missing(rules: RuleSet, base: Path) -> Iterator[str]:
    """What rules name and is not as it should be, one problem each, for whoever checks them before they count.

    Credentials exist in policyd's unit alone, and what the one who checks may not read is policyd's to find wrong.
    """
    for key, place in named(rules):
        kind, _, name = place.partition(":")
        try:
            if kind == "file" and key.endswith(("ca", "file")):
                _read(base / name, MAX_FILE, private=False)
            elif kind == "file":
                read_secret(place, base, {})
        except NotForUs:
            pass
        except OutsideError as error:
            yield f"{key}: {error}"


def named(rules: RuleSet) -> list[tuple[str, str]]:
    """What in the rules names each place, and the place: `file:PATH`, `credential:NAME`, or ""."""
    found = []
    for system in rules.tickets.values():
        where = f"tickets.{system.name}"
        found += [(f"{where}.token", system.token), (f"{where}.ca", f"file:{system.ca}" if system.ca else "")]
        if system.kind is Kind.FILE:
            found.append((f"{where}.file", f"file:{system.url}"))
    for to in rules.notify:
        where = f"notify `{to.name}`"
        found += [(f"{where}: webhook", to.webhook), (f"{where}: key", to.key), (f"{where}: password", to.password)]
        found.append((f"{where}: ca", f"file:{to.ca}" if to.ca else ""))
    if (directory := rules.directory) is not None:
        found.append(("directory.password", directory.password))
        found.append(("directory.ca", f"file:{directory.ca}" if directory.ca else ""))
    return found


def read_secret(where: str, base: Path, environ: Mapping[str, str]) -> str:
    """The text at `file:PATH` (relative to `base`) or `credential:NAME`; "" for ""."""
    if not where:
        return ""
    kind, _, name = where.partition(":")
    if kind == "file":
        path = base / name
    elif folder := environ.get("CREDENTIALS_DIRECTORY"):
        path = Path(folder) / name
    else:
        raise OutsideError(f"`{where}`: $CREDENTIALS_DIRECTORY is not set")
    text = _read(path, MAX_SECRET, private=kind == "file").strip()
    if not text or not text.isascii() or not text.isprintable():
        raise OutsideError(f"`{path}` holds no secret of one line")
    return text


def read_trust(name: str, base: Path) -> str:
    """A file of CAs in PEM; "" for ""."""
    return _read(base / name, MAX_TRUST, private=False) if name else ""


def _read(path: Path, limit: int, *, private: bool) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            data = os.read(handle, limit + 1) if stat.S_ISREG(status.st_mode) else b""
        finally:
            os.close(handle)
    except PermissionError:
        raise NotForUs(f"`{path}`: permission denied") from None
    except OSError as error:
        raise OutsideError(f"`{path}`: {(error.strerror or '').lower()}") from None
    if not stat.S_ISREG(status.st_mode):
        raise OutsideError(f"`{path}` is not a regular file")
    if private and status.st_mode & 0o007:
        raise OutsideError(f"others may use `{path}`: chmod o= {path}")
    if len(data) > limit:
        raise OutsideError(f"`{path}` is longer than {limit} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise OutsideError(f"`{path}` is not UTF-8") from None
