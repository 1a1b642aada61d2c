"""A recording in other programs' words: asciicast, text, JSON lines. Pure: events in, lines out.

asciicast v2 (https://docs.asciinema.org/manual/asciicast/v2/) and not v3: every player reads it, also the asciinema 2
that Debian 12 and 13 ship. It carries one terminal's text and no more, so it loses bytes that are not UTF-8, other
channels, file operations; its header says so. What passes is filtered as in `play`, because `asciinema play` writes
it to the auditor's terminal as it stands. `jsonl` is exact and complete.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from recorder.model import Event, Kind, Marker, Start
from replay import notes
from replay.escapes import CONTROL, TEXT, Parser
from replay.facts import Channel
from replay.safe import Filter, lines
from replay.screen import Screen
from replay.text import clock, neutral

LOSSY: Final = (
    "one channel, as filtered text: bytes that are not UTF-8 show as U+FFFD, sequences that do more than draw are"
    " left out; the recording itself is the evidence"
)

MAX_LINE: Final = 64 * 1024
"""Characters of a line without an end; then it is broken."""

_NAME: Final = {kind.value: kind.name.lower() for kind in Kind}


def asciicast(
    events: Iterable[Event], channel: Channel, about: dict[str, Any], *, typed: bool = False
) -> Iterator[str]:
    """Lines of an asciicast v2 file of one channel; `about` goes into its header, times in seconds."""
    start = channel.start or Start(kind="?")
    header: dict[str, Any] = {
        "version": 2,
        "width": start.columns or 80,
        "height": start.rows or 24,
        "timestamp": int(about.get("t0_us", 0)) // 1_000_000,
        "title": f"{about.get('session', '')} channel {channel.number}",
        "env": {"TERM": neutral(start.term, 64)} if start.term else {},
    }
    if start.command:
        header["command"] = neutral(start.command)
    yield json.dumps({**header, "bastion": {**about, "lossy": LOSSY}})
    filters: dict[int, Filter] = {}
    for event in events:
        if event.channel != channel.number:
            continue
        at = round((event.ms - channel.begun) / 1000, 3)
        match event.kind:
            case Kind.OUTPUT | Kind.STDERR:
                feed = filters.setdefault(event.kind, Filter()).feed
                text = feed(event.data) if channel.has_terminal else lines(feed, event.data)
                if text:
                    yield json.dumps([at, "o", text])
            case Kind.RESIZE if notes.geometry(event.data):
                yield json.dumps([at, "r", event.data.decode()])
            case Kind.INPUT | Kind.REVEALED if typed:
                yield json.dumps([at, "i", event.data.decode("utf-8", "replace")])
            case Kind.MARKER:
                found = notes.note(event)
                if isinstance(found, Marker):
                    yield json.dumps([at, "m", neutral(found.text)])


def jsonl(events: Iterable[Event], about: dict[str, Any]) -> Iterator[str]:
    """First line `about`, then one line per event, complete: `ms`, `channel`, `event`, and its text or note.

    Data that is UTF-8 is `text`, other is `base64`; bytes inside notes likewise, as `{"base64": ...}`.
    """
    yield json.dumps({"recording": about})
    for event in events:
        row: dict[str, Any] = {"ms": event.ms, "channel": event.channel, "event": _NAME.get(event.kind, event.kind)}
        if event.kind == Kind.SEALED_INPUT:
            row |= {"commitment": event.data[:32].hex(), "length": notes.sealed_length(event.data)}
        else:
            found = notes.note(event)
            row |= plain(found) if found is not None else _data(event.data)
        yield json.dumps(row)


def plain(found: Any) -> dict[str, Any]:
    """A note as JSON can carry it."""
    fields: dict[str, Any] = msgspec.structs.asdict(found)
    return {name: _value(name, value) for name, value in fields.items()}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        if name == "sha256":
            return value.hex()
        data = _data(value)
        return data.get("text", data)
    if isinstance(value, dict):
        return {key: _value(key, inner) for key, inner in value.items()}
    return value


def _data(data: bytes) -> dict[str, str]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


class Lines:
    """Output without a terminal, as lines of text: no escape sequence, and what a carriage return covers is gone."""

    def __init__(self) -> None:
        self._parser = Parser()
        self._line = ""
        self._returned = False

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        done = []
        for kind, body, _, _ in self._parser.feed(data):
            if kind == TEXT:
                self._line = body if self._returned else self._line + body
                self._returned = False
                if len(self._line) > MAX_LINE:
                    done += self.rest()
            elif kind == CONTROL and body == "\n":
                done.append(self._line)
                self._line, self._returned = "", False
            elif kind == CONTROL:
                self._returned = body == "\r"
                self._line += "\t" if body == "\t" else ""
        return done

    def rest(self) -> list[str]:
        """The line without an end."""
        rest, self._line = self._line, ""
        return [rest] if rest else []


class Transcript:
    """A session as plain text: what a person would have read on each screen, and a line for each thing that happened.

    A terminal's lines come when they scroll off or are cleared, and at its end what still stands on it; output without
    a terminal comes as it is, line by line. No escape sequence is left.
    """

    def __init__(self, *, typed: bool = False) -> None:
        self._typed = typed
        self._screens: dict[int, Screen] = {}
        self._lines: dict[tuple[int, int], Lines] = {}
        self._input: dict[int, str] = {}
        self._out: list[str] = []
        self._cleared: list[str] = []

    def events(self, events: Iterable[Event]) -> Iterator[str]:
        """Lines, as they become final."""
        for event in events:
            self._take(event)
            yield from self._out
            self._out.clear()
        for number in [*self._screens, *(channel for channel, _ in self._lines)]:
            self._close(number)
        yield from self._out

    def _take(self, event: Event) -> None:
        match event.kind:
            case Kind.OUTPUT | Kind.STDERR:
                if (screen := self._screens.get(event.channel)) is not None:
                    screen.feed(event.data)
                else:
                    self._out.extend(self._lines.setdefault((event.channel, event.kind), Lines()).feed(event.data))
            case Kind.RESIZE:
                size = notes.geometry(event.data)
                if size and event.channel in self._screens:
                    self._screens[event.channel].resize(*size)
            case Kind.INPUT | Kind.REVEALED:
                if self._typed:
                    self._type(event)
            case _:
                self._happened(event)

    def _happened(self, event: Event) -> None:
        found = notes.note(event)
        if event.kind == Kind.EXIT:
            self._close(event.channel)
        self._out.append(f"[{clock(event.ms, fine=True)}] channel {event.channel}: {notes.line(event)}")
        if isinstance(found, Start) and found.term:
            self._screens[event.channel] = Screen(found.columns or 80, found.rows or 24, self._gone)

    def _type(self, event: Event) -> None:
        """Typed text by lines, because an event is mostly one key."""
        text = self._input.get(event.channel, "") + event.data.decode("utf-8", "replace")
        *done, rest = text.replace("\r\n", "\r").replace("\n", "\r").split("\r")
        self._input[event.channel] = rest[-4096:]
        for line in done:
            self._out.append(f"[{clock(event.ms, fine=True)}] channel {event.channel}: typed: {neutral(line)}")

    def _gone(self, left: list[str]) -> None:
        if len(left) > 1:
            while left and not left[-1]:
                left.pop()
            if left == self._cleared:  # `watch` and its like clear the same picture again and again
                return
            self._cleared = list(left)
        self._out.extend(left)

    def _close(self, number: int) -> None:
        for kind in (Kind.OUTPUT, Kind.STDERR):
            if (number, kind) in self._lines:
                self._out.extend(self._lines.pop((number, kind)).rest())
        screen = self._screens.pop(number, None)
        if screen is not None:
            left = screen.lines()
            while left and not left[-1]:
                left.pop()
            self._out.extend(left)
