"""What a backup says about itself: a tar of regular files, `manifest.json` the last of them. Pure.

Names are where a file belongs: `config/PATH` counts from the folder of bastion.toml, `root/PATH` from `/`.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from policy.errors import PolicyError

NAME: Final = "manifest.json"
FORMAT: Final = 1
MAX_MANIFEST: Final = 1024 * 1024
"""Bytes; 256 files take some 64 KiB."""
MAX_FILES: Final = 256
"""Configuration, keys, ticket files; recordings are not in it."""
MAX_SMALL: Final = 256 * 1024 * 1024
"""Bytes of a file other than the database; the longest is a node's log, 200 bytes a recording."""
_NAME: Final = re.compile(r"(config|root)(/[A-Za-z0-9._@+ -]{1,255}){1,32}")


class BadBackup(PolicyError):
    """It is none, or not whole."""


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    size: int
    sha256: str
    mode: int  # of its permissions
    what: str  # for people: "database", "head of the audit trail", ...


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int = FORMAT
    bastion: str  # version of the program
    schema: str  # of the database
    made: str  # RFC 3339
    host: str
    rows: int  # of the audit trail
    verified: str  # what was checked before it was made
    apart: str  # what opens it and is not in it, in words
    config: str  # names of these three among the files
    database: str
    head: str
    files: list[File]


def member(path: Path, folder: Path) -> str:
    """The name of a file, absolute and without links. BadBackup for one that could not be put back."""
    if path.is_relative_to(folder):
        name = str(PurePosixPath("config") / path.relative_to(folder))
    else:
        name = "root" + str(path)
    return checked(name)


def checked(name: str) -> str:
    """Attack: a backup made by somebody else names `config/../../etc/cron.d/x`."""
    if not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
        raise BadBackup(f"file `{name[:120]}` has a name that is not taken")
    return name


def place(name: str, into: Path) -> Path:
    """Where it goes: `config/` itself is the folder that is restored to."""
    first, _, rest = checked(name).partition("/")
    return into / rest if first == "config" else into / "root" / rest


def decode(data: bytes) -> Manifest:
    """BadBackup for what no version of ours wrote."""
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadBackup("its manifest cannot be read", "was a newer bastion its maker?") from None
    names = [file.name for file in found.files]
    if found.format != FORMAT:
        raise BadBackup(f"its format is {found.format}, this program knows {FORMAT}", "restore with a newer bastion")
    if len(set(names)) != len(names) or not {found.config, found.database, found.head} <= set(names):
        raise BadBackup("its manifest does not hold together")
    return found
