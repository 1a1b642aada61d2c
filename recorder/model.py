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
    MARKER = 3  # Marker
    EXIT = 4  # Exit
    START = 5  # Start
    STDERR = 6  # bytes from the target's standard error
    SEALED_INPUT = 7  # 32-byte keyed commitment | u32 length of bytes typed while the target's echo was off
    SFTP = 8  # SftpOp
    CLIPBOARD = 9
    FORWARD = 10  # ForwardNote
    AGENT = 11  # AgentNote
    ACCESS = 12  # AccessNote
    DIGEST = 13  # Digest
    REVEALED = 14  # bytes typed earlier as SEALED_INPUT, as text, because the target has echoed them
    CONTENT_IN = 20  # bytes of a transfer or forward towards the target, kept because a rule demands it
    CONTENT_OUT = 21  # the same, towards the person


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
    Kind.REVEALED: KeyClass.KEYS,
    Kind.CLIPBOARD: KeyClass.CONTENT,
    Kind.CONTENT_IN: KeyClass.CONTENT,
    Kind.CONTENT_OUT: KeyClass.CONTENT,
}
"""Kinds that are not in class VIEW."""


END_REASONS: Final = frozenset(
    {"closed", "expired", "idle", "killed", "target-lost", "client-lost", "policy-lost", "shutdown", "failed",
     "interrupted"}
)  # fmt: skip
"""How a session can end; `interrupted` is written by recovery when nobody said how."""


class Event(NamedTuple):
    """One event, in the order in which recorderd acknowledged it."""

    kind: int
    channel: int
    ms: int  # since the start of the session, from a monotonic clock
    data: bytes


class Note(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What an event that is a msgpack map says. Text from outside is bytes, exactly as it came."""


class Start(Note):
    """A session channel began: shell, exec, subsystem, sftp or scp, by the words of policy's channel kinds."""

    kind: str
    command: bytes = b""  # command line, or name of the subsystem
    more: bool = False  # it is too long for an event, and goes on in the next START of this channel
    term: bytes = b""  # TERM of its terminal; empty: there is none
    columns: int = 0
    rows: int = 0
    env: dict[str, bytes] = {}


class Exit(Note):
    """RFC 4254 section 6.10. Neither status nor signal: the channel was closed without a word."""

    status: int | None = None
    signal: str = ""
    core: bool = False
    message: bytes = b""


class SftpOp(Note):
    """One operation, when its result is known; a transfer, when its handle is closed or the channel ends."""

    op: str  # open read write rename remove mkdir rmdir setstat symlink hardlink readlink stat opendir ...
    path: bytes
    to: bytes = b""  # new name of a rename, target of a link
    status: int = 0  # SSH_FX_*, 0 = done
    size: int = 0  # bytes moved
    extents: list[tuple[int, int]] = []  # offset, length; neighbours joined; at most 64, then `more` is set
    more: bool = False
    sha256: bytes = b""  # of what was moved, in the order of offsets; empty if it came too scattered to hash
    detail: str = ""  # flags of an open, attributes of a setstat
    seconds: float = 0.0  # from open to close, or from request to result


class ForwardNote(Note):
    """A forwarded stream, at its beginning and at its end."""

    state: str  # open | close | refused
    kind: str  # channel kind of policy
    destination: bytes  # HOST:PORT or socket path
    origin: bytes = b""
    sent: int = 0  # bytes from the person's side to the target's
    received: int = 0


class AgentNote(Note):
    """A channel of agent forwarding or X11 was opened by the target, or closed."""

    state: str  # open | close | refused
    kind: str  # agent | x11
    sent: int = 0
    received: int = 0


class AccessNote(Note):
    """What was decided while the session lived, and how it ended."""

    what: str  # granted | allowed | denied | warned | frozen | thawed | ended
    kind: str = ""
    detail: bytes = b""
    rule: str = ""
    by: str = ""
    reason: str = ""
    ref: str = ""


class Digest(Note):
    """Stands for a stretch of a stream that policy does not keep. Written at its end, and each 64 MiB on the way."""

    stream: str  # in | out | err
    start: int  # offset in the stream
    size: int
    sha256: bytes = b""  # of this stretch; empty where the configuration leaves hashing out


class Marker(Note):
    """Something worth finding again."""

    text: str


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
