"""What a recording is made of: events, key classes, identities, settings. No I/O.

The glossary of `FORMAT.md` in types. An *event* is one thing that happened on one channel of one
session at a time given in whole milliseconds since the session's start.
"""

from enum import IntEnum, IntFlag
from typing import Final, NamedTuple, NewType

import msgspec

SessionId = NewType("SessionId", str)
"""UUIDv7 as 32 lower-case hexadecimal digits: sorts by start, safe as a file name."""

MAX_EVENT_DATA: Final = 32 * 1024
"""Bytes of data in one event. OpenSSH never sends a channel packet above 32 KiB; senders split longer data."""

MAX_CHANNEL: Final = 0xFFFF
"""Highest channel number in a recording. Numbers count up per session and are never reused."""


class Kind(IntEnum):
    """Kind of an event; the number is what the file stores. 32 and above are extensions."""

    OUTPUT = 0  # bytes from the target's terminal or standard output
    INPUT = 1  # bytes the person sent, as text
    RESIZE = 2  # "COLSxROWS"
    MARKER = 3  # msgpack map, something worth finding again
    EXIT = 4  # msgpack map: status | signal, core, message
    START = 5  # msgpack map: channel kind, command | subsystem, terminal, environment
    STDERR = 6  # bytes from the target's standard error
    SEALED_INPUT = 7  # 32-byte keyed commitment | u32 length of bytes typed while the target's echo was off
    SFTP = 8  # msgpack map: op, path, size, extents, status, sha256
    CLIPBOARD = 9
    FORWARD = 10  # msgpack map: open | close, addresses, bytes each way, sha256 each way
    AGENT = 11  # msgpack map: agent channel opened or closed
    ACCESS = 12  # msgpack map: decision, grant, end of session with who and why
    DIGEST = 13  # msgpack map: what replaced content that policy does not keep: bytes, sha256, since


class KeyClass(IntEnum):
    """Which key protects an event, so that an auditor may be given one class and not another."""

    VIEW = 0  # what the screen showed: output, sizes, markers, starts, exits
    KEYS = 1  # what was typed
    CONTENT = 2  # files, clipboard
    GRAPHICS = 3


class KeyClasses(IntFlag):
    """A set of key classes, as a recipient slot carries it."""

    VIEW = 1
    KEYS = 2
    CONTENT = 4
    GRAPHICS = 8
    ALL = 15


CLASS_OF: Final[dict[Kind, KeyClass]] = {
    Kind.INPUT: KeyClass.KEYS,
    Kind.SEALED_INPUT: KeyClass.KEYS,
    Kind.CLIPBOARD: KeyClass.CONTENT,
}
"""Kinds that are not in class VIEW."""


class Event(NamedTuple):
    """One event, in the order in which recorderd acknowledged it."""

    kind: int
    channel: int
    ms: int  # since the start of the session, from a monotonic clock
    data: bytes


class RecorderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[recorder]` table of bastion.toml."""

    directory: str = "recordings"  # relative to [bastion] state
    auditors: list[
        str
    ] = []  # files with auditors' public keys (PEM, X25519); empty = readable by file permission alone
    sync_ms: int = 200  # group commit: at most this much is lost with the power
    reserve_mib: int = 64  # held back so that end records can always be written
    low_water_mib: int = 512  # below this much free space new sessions are refused
    segment_seconds: int = 300  # compaction of the tail into a segment, by age ...
    segment_kib: int = 1024  # ... or by size
