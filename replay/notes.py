"""What an event says, in one line for people. Pure.

Every name and text in a note comes from a person, a client or a target: it passes `neutral` here and nowhere later.
"""

from typing import Final

import msgspec

from recorder.model import (
    AccessNote,
    AgentNote,
    Digest,
    Event,
    Exit,
    ForwardNote,
    Kind,
    Marker,
    Note,
    SftpOp,
    Start,
)
from replay.text import neutral, size

NOTE_OF: Final[dict[int, type[Note]]] = {
    Kind.MARKER: Marker,
    Kind.EXIT: Exit,
    Kind.START: Start,
    Kind.SFTP: SftpOp,
    Kind.FORWARD: ForwardNote,
    Kind.AGENT: AgentNote,
    Kind.ACCESS: AccessNote,
    Kind.DIGEST: Digest,
}
"""Kinds whose data is a msgpack map."""

STREAMS: Final = frozenset({Kind.OUTPUT, Kind.STDERR})
TYPED: Final = frozenset({Kind.INPUT, Kind.SEALED_INPUT, Kind.REVEALED})

_COMMITMENT = 32  # bytes in front of the length in SEALED_INPUT
_STATUS: Final = {1: "end of file", 2: "no such file", 3: "permission denied", 4: "failure", 8: "not supported"}
"""SSH_FX_*, draft-ietf-secsh-filexfer-02 section 7."""


def note(event: Event) -> Note | None:
    """The note an event carries; None if it is of another kind, or is not what FORMAT.md says."""
    kind = NOTE_OF.get(event.kind)
    if kind is None:
        return None
    try:
        return msgspec.msgpack.decode(event.data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # the last for maps in maps without end
        return None


def sealed_length(data: bytes) -> int:
    """Bytes typed while the target's echo was off."""
    return int.from_bytes(data[_COMMITMENT : _COMMITMENT + 4], "big")


def geometry(data: bytes) -> tuple[int, int] | None:
    """`b"120x40"` -> (120, 40); None if it is no size. A client without a window says 0x0."""
    columns, cross, rows = data[:16].partition(b"x")
    if not (cross and columns.isdigit() and rows.isdigit()):
        return None
    return (int(columns), int(rows)) if int(columns) and int(rows) else None


def line(event: Event) -> str:
    """One line about an event that is not part of a stream of output; empty if there is nothing to say."""
    if event.kind == Kind.RESIZE:
        return f"terminal resized to {neutral(event.data, 20)}"
    if event.kind == Kind.SEALED_INPUT:
        return f"typed without echo: {sealed_length(event.data)} bytes, not kept"
    if event.kind in (Kind.INPUT, Kind.REVEALED):
        return f"typed: {neutral(event.data)}"
    if event.kind == Kind.CLIPBOARD:
        return f"clipboard: {size(len(event.data))}"
    if event.kind in STREAMS:
        return ""
    found = note(event)
    if found is None:
        return f"an event of kind {event.kind} that this version cannot read ({size(len(event.data))})"
    return describe(found)


def describe(found: Note) -> str:
    """One line for a note."""
    match found:
        case Start():
            terminal = f", terminal {neutral(found.term, 64)} {found.columns}x{found.rows}" if found.term else ""
            command = f" `{neutral(found.command)}`" if found.command else ""
            return f"{neutral(found.kind, 32)}{command}{terminal}"
        case Exit():
            return ended(found)
        case SftpOp():
            return operation(found)
        case ForwardNote():
            moved = f", {size(found.sent)} sent, {size(found.received)} received" if found.state == "close" else ""
            origin = f" from {neutral(found.origin, 300)}" if found.origin else ""
            return f"{neutral(found.kind, 32)} {neutral(found.destination, 300)}{origin}: {_state(found.state)}{moved}"
        case AgentNote():
            moved = f", {size(found.sent)} sent, {size(found.received)} received" if found.state == "close" else ""
            return f"{neutral(found.kind, 32)} asked for by the target: {_state(found.state)}{moved}"
        case AccessNote():
            return access(found)
        case Digest():
            name = {"in": "input", "out": "output", "err": "standard error"}.get(
                found.stream, neutral(found.stream, 16)
            )
            sha = f", sha256 {found.sha256.hex()}" if found.sha256 else ""
            return f"{size(found.size)} of {name} not kept (from byte {found.start}){sha}"
        case Marker():
            return f"mark: {neutral(found.text)}"
    return ""


def _state(state: str) -> str:
    return {"open": "opened", "close": "closed"}.get(state, neutral(state, 32))


def ended(found: Exit) -> str:
    """How a channel ended: `exit status 1`, `ended by signal TERM`, `closed`."""
    if found.signal:
        said = f": {neutral(found.message, 300)}" if found.message else ""
        return f"ended by signal {neutral(found.signal, 32)}{' (core dumped)' if found.core else ''}{said}"
    return f"exit status {found.status}" if found.status is not None else "closed without a status"


def operation(found: SftpOp) -> str:
    """`write /etc/motd, 812 B, sha256 ...: done`."""
    to = f" -> {neutral(found.to, 1000)}" if found.to else ""
    moved = f", {size(found.size)}" if found.size else ""
    detail = f", {neutral(found.detail, 300)}" if found.detail else ""
    sha = f", sha256 {found.sha256.hex()}" if found.sha256 else ""
    return f"sftp {neutral(found.op, 32)} {neutral(found.path, 1000)}{to}{moved}{detail}{sha}: {status(found)}"


def status(found: SftpOp) -> str:
    return "done" if not found.status else _STATUS.get(found.status, f"status {found.status}")


def access(found: AccessNote) -> str:
    """`denied forward-local db1:5432 (rule default)`, `ended: killed by bob: reason`."""
    detail = f" {neutral(found.detail, 1000)}" if found.detail else ""
    by = f" by {neutral(found.by, 100)}" if found.by else ""
    if found.what == "ended":
        return f"session ended: {neutral(found.reason, 100)}{by}{':' if detail else ''}{detail}"
    rule = f" (rule {neutral(found.rule, 100)})" if found.rule else ""
    reason = f": {neutral(found.reason, 1000)}" if found.reason else ""
    kind = f" {neutral(found.kind, 32)}" if found.kind else ""
    return f"{neutral(found.what, 32)}{kind}{detail}{by}{rule}{reason}"
