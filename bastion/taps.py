"""What of the bytes that pass is written down, by the kind of the channel. Pure: bytes in, events out.

    terminal            all output; typed text as `typed` allows
    exec, subsystem     each stream whole up to KEEP, from there on by size and hash
    sftp, scp           operations; content by size and hash
    forwards            bytes each way

A rule with `record.content` keeps everything. Each method takes what passes and returns the events that must be
written before it goes on; none means that it need not wait.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from bastion.requests import string
from bastion.sftp import SftpTap
from bastion.streams import KEEP, ScpTap, StreamTap
from bastion.transfer import scp_side
from bastion.typed import TypedText
from policy.model import ChannelKind
from recorder.model import AgentNote, Digest, Exit, ForwardNote, Kind, Note, SftpOp, Start

Events = Sequence[tuple[int, bytes]]

MAX_COMMAND: Final = 12 * 1024
"""Bytes of a command in one START; with MAX_ENV_BYTES of variables it is an event."""

_encode = msgspec.msgpack.Encoder().encode


def note(kind: Kind, what: Note) -> tuple[int, bytes]:
    """An event that says `what`."""
    return kind, _encode(what)


def start_events(start: Start) -> list[tuple[int, bytes]]:
    """A session channel begins. A command that does not fit into one event goes on in the next."""
    command = start.command
    events = []
    for at in range(0, max(len(command), 1), MAX_COMMAND):
        part = replace(start if not at else Start(kind=start.kind), command=command[at : at + MAX_COMMAND])
        part.more = at + MAX_COMMAND < len(command)
        events.append(note(Kind.START, part))
    return events


def early_input(data: memoryview) -> Events:
    """From a person before anything was started: kept, whatever it is."""
    return [(Kind.INPUT, bytes(data))]


def early_output(data: memoryview) -> Events:
    """From a target that talks before it was asked to run anything."""
    return [(Kind.OUTPUT, bytes(data))]


class ChannelTap(Protocol):
    """Both directions of one channel."""

    def user(self, data: memoryview) -> Events: ...

    def target(self, data: memoryview) -> Events: ...

    def error(self, data: bytes) -> Events:
        """Of the target's standard error."""

    def finish(self) -> Events:
        """Nothing more will pass."""


class TerminalTap:
    """A shell or a command on a terminal: whole."""

    def __init__(self, key: bytes) -> None:
        self._typed = TypedText(key, terminal=True)

    def user(self, data: memoryview) -> Events:
        return self._typed.typed(bytes(data))

    def target(self, data: memoryview) -> Events:
        shown = bytes(data)
        return [*self._typed.shown(shown), (Kind.OUTPUT, shown)]

    def error(self, data: bytes) -> Events:
        return [*self._typed.shown(data), (Kind.STDERR, data)]

    def finish(self) -> Events:
        return ()


class StreamsTap:
    """A command without a terminal: three streams, each whole up to `keep` bytes."""

    def __init__(self, key: bytes, keep: int, *, keep_content: bool, hash_content: bool) -> None:
        self._typed = TypedText(key, terminal=False)
        self._in, self._out, self._err = (
            StreamTap(keep=keep, keep_content=keep_content, hash_content=hash_content, stream=stream)
            for stream in ("in", "out", "err")
        )

    def user(self, data: memoryview) -> Events:
        if self._in.passes(data):
            return ()
        kept, digests = self._in.feed(data)
        return [*(self._typed.typed(bytes(kept)) if kept is not None else ()), *_digests(digests)]

    def target(self, data: memoryview) -> Events:
        return () if self._out.passes(data) else self._shown(self._out, Kind.OUTPUT, data)

    def error(self, data: bytes) -> Events:
        return self._shown(self._err, Kind.STDERR, memoryview(data))

    def _shown(self, stream: StreamTap, kind: Kind, data: memoryview) -> Events:
        kept, digests = stream.feed(data)
        if kept is None:
            return _digests(digests)
        shown = bytes(kept)
        return [*self._typed.shown(shown), (kind, shown), *_digests(digests)]

    def finish(self) -> Events:
        return _digests([*self._in.finish(), *self._out.finish(), *self._err.finish()])


class FilesTap:
    """SFTP, or the old scp: operations on files. Bytes that are neither are recorded as those of any command."""

    def __init__(self, parser: SftpTap | ScpTap, now: "Clock", otherwise: StreamsTap, *, keep_content: bool) -> None:
        self._parser = parser
        self._now = now
        self._otherwise = otherwise
        self._keep = keep_content

    def user(self, data: memoryview) -> Events:
        events = _operations(self._parser.user(data, self._now()))
        if self._parser.broken:
            # Attack: break the parser on purpose, and what follows is seen by nobody.
            return [*events, *self._otherwise.user(data)]
        return [*events, (Kind.CONTENT_IN, bytes(data))] if self._keep else events

    def target(self, data: memoryview) -> Events:
        events = _operations(self._parser.target(data, self._now()))
        if self._parser.broken:
            return [*events, *self._otherwise.target(data)]
        return [*events, (Kind.CONTENT_OUT, bytes(data))] if self._keep else events

    def error(self, data: bytes) -> Events:
        return [(Kind.STDERR, data)]

    def finish(self) -> Events:
        return [*_operations(self._parser.finish(self._now())), *self._otherwise.finish()]


class ForwardTap:
    """A forwarded stream: how much, and what if a rule demands it."""

    def __init__(self, kind: str, destination: bytes, origin: bytes, *, keep_content: bool) -> None:
        self.kind, self.destination, self.origin = kind, destination, origin
        self._keep = keep_content
        self._sent = self._received = 0

    def start(self) -> Events:
        return [self._note("open")]

    def user(self, data: memoryview) -> Events:
        self._sent += len(data)
        return [(Kind.CONTENT_IN, bytes(data))] if self._keep else ()

    def target(self, data: memoryview) -> Events:
        self._received += len(data)
        return [(Kind.CONTENT_OUT, bytes(data))] if self._keep else ()

    def error(self, data: bytes) -> Events:
        return [(Kind.STDERR, data)]

    def finish(self) -> Events:
        return [self._note("close")]

    def _note(self, state: str) -> tuple[int, bytes]:
        sent, received = self._sent, self._received
        if self.kind in (ChannelKind.AGENT, ChannelKind.X11):
            # The target opens these and names no destination: the person's own agent or display is meant.
            return note(Kind.AGENT, AgentNote(state=state, kind=self.kind, sent=sent, received=received))
        told = ForwardNote(
            state=state, kind=self.kind, destination=self.destination, origin=self.origin, sent=sent, received=received
        )
        return note(Kind.FORWARD, told)


class Clock(Protocol):
    def __call__(self) -> float: ...


def tap_for(start: Start, *, key: bytes, now: Clock, keep_content: bool, hash_content: bool) -> ChannelTap:
    """The tap of a session channel that begins with `start`."""
    if start.term and start.kind not in (ChannelKind.SFTP, ChannelKind.SCP):
        return TerminalTap(key)
    streams = StreamsTap(key, KEEP, keep_content=keep_content, hash_content=hash_content)
    match start.kind:
        case ChannelKind.SFTP:
            return FilesTap(SftpTap(hash_content=hash_content), now, streams, keep_content=keep_content)
        case ChannelKind.SCP if (side := scp_side(start.command)) is not None:
            from_user, path = side
            scp = ScpTap(path=path, from_user=from_user, hash_content=hash_content)
            return FilesTap(scp, now, streams, keep_content=keep_content)
        case ChannelKind.SCP:
            # rsync: what moves is between its two ends and compressed; how much, and what its streams hashed to
            return StreamsTap(key, 0, keep_content=keep_content, hash_content=hash_content)
        case _:
            return streams


def exit_events(name: bytes, rest: bytes) -> Events:
    """What a target says of the end of a command (RFC 4254 section 6.10); ValueError or IndexError if malformed."""
    if name == b"exit-status":
        if len(rest) != 4:
            raise ValueError("exit status is malformed")
        return [note(Kind.EXIT, Exit(status=int.from_bytes(rest)))]
    if name == b"exit-signal":
        signal, at = string(rest, 0)
        message, _ = string(rest, at + 1)
        return [note(Kind.EXIT, Exit(signal=signal.decode("ascii", "replace"), core=rest[at] != 0, message=message))]
    return ()


def _operations(operations: Sequence[SftpOp]) -> Events:
    return [note(Kind.SFTP, operation) for operation in operations] if operations else ()


def _digests(digests: Sequence[Digest]) -> Events:
    return [note(Kind.DIGEST, digest) for digest in digests] if digests else ()
