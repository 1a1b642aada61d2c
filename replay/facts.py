"""What happened in a session, gathered from its events: channels, operations, forwards, decisions, the end. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from msgspec.structs import replace

from recorder.model import AccessNote, AgentNote, Digest, Event, Exit, ForwardNote, Kind, Marker, SftpOp, Start
from replay.notes import note, sealed_length

Found = TypeVar("Found")

MAX_LISTED: Final = 100_000
"""Notes kept of one sort. An rsync over sftp makes some ten thousand; after this many they are only counted."""

MAX_COMMAND: Final = 256 * 1024
"""Bytes of a command put together again: more comes in no request."""


@dataclass(slots=True)
class Channel:
    """One channel as it went; times in ms since the session's start, sizes in bytes."""

    number: int
    begun: int
    start: Start | None = None
    exit: Exit | None = None
    finished: int | None = None
    typed: int = 0
    typed_unseen: int = 0  # with echo off: counted, not kept
    output: int = 0
    stderr: int = 0

    @property
    def kind(self) -> str:
        return self.start.kind if self.start else "?"

    @property
    def has_terminal(self) -> bool:
        return bool(self.start and self.start.term)


@dataclass(slots=True)
class Facts:
    """Feed every event to `see`, in order."""

    channels: dict[int, Channel] = field(default_factory=dict)
    operations: list[tuple[Event, SftpOp]] = field(default_factory=list)
    forwards: list[tuple[Event, ForwardNote]] = field(default_factory=list)
    agents: list[tuple[Event, AgentNote]] = field(default_factory=list)
    access: list[tuple[Event, AccessNote]] = field(default_factory=list)
    digests: list[tuple[Event, Digest]] = field(default_factory=list)
    markers: list[tuple[Event, Marker]] = field(default_factory=list)
    end: tuple[Event, AccessNote] | None = None
    unlisted: int = 0
    unreadable: int = 0
    events: int = 0

    @property
    def denied(self) -> bool:
        return any(found.what == "denied" for _, found in self.access)

    @property
    def kinds(self) -> list[str]:
        """What was used, each word once: shell, exec, sftp, the kinds of forwards."""
        words = [channel.kind for channel in self.channels.values() if channel.start]
        words += [found.kind for _, found in self.forwards] + [found.kind for _, found in self.agents]
        return list(dict.fromkeys(words))

    def see(self, event: Event) -> None:
        """Take one event."""
        self.events += 1
        kind, size = event.kind, len(event.data)
        if kind == Kind.OUTPUT:
            self._channel(event).output += size
        elif kind == Kind.STDERR:
            self._channel(event).stderr += size
        elif kind == Kind.INPUT:
            self._channel(event).typed += size
        elif kind == Kind.SEALED_INPUT:
            self._channel(event).typed_unseen += sealed_length(event.data)
        elif kind not in (Kind.RESIZE, Kind.REVEALED, Kind.CLIPBOARD):
            self._note(event)

    def _channel(self, event: Event) -> Channel:
        channel = self.channels.get(event.channel)
        if channel is None:
            channel = self.channels[event.channel] = Channel(event.channel, event.ms)
        return channel

    def _note(self, event: Event) -> None:
        found = note(event)
        match found:
            case Start():
                channel = self._channel(event)
                if channel.start is not None and channel.start.more and len(channel.start.command) < MAX_COMMAND:
                    found = replace(channel.start, command=channel.start.command + found.command, more=found.more)
                channel.start = found
            case Exit():
                channel = self._channel(event)
                channel.exit, channel.finished = found, event.ms
            case SftpOp():
                self._list(self.operations, event, found)
            case ForwardNote():
                self._list(self.forwards, event, found)
            case AgentNote():
                self._list(self.agents, event, found)
            case AccessNote(what="ended"):
                self.end = event, found
            case AccessNote():
                self._list(self.access, event, found)
            case Digest():
                self._list(self.digests, event, found)
            case Marker():
                self._list(self.markers, event, found)
            case _:
                self.unreadable += 1

    def _list(self, where: list[tuple[Event, Found]], event: Event, found: Found) -> None:
        if len(where) < MAX_LISTED:
            where.append((event, found))
        else:
            self.unlisted += 1


def gather(events: Iterable[Event]) -> Facts:
    """The facts of all `events`."""
    facts = Facts()
    for event in events:
        facts.see(event)
    return facts
