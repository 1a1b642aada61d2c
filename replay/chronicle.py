"""Events -> text in the order of time, for a pipe or a terminal without a picture to keep. Pure.

Output passes the filter; what happened beside it stands on lines of its own, `[0:01.250] channel 1: exec ...`.
"""

from typing import Final

from recorder.model import Event, Kind, Start
from replay import notes
from replay.safe import SOFT, Filter, lines
from replay.text import clock, neutral

MAX_LINE: Final = 4096
"""Characters of typed text that wait for Enter."""


class Chronicle:
    """`channel`: this one alone. `raw`: for a terminal in raw mode, where a line feed does not return the carriage.

    `rows`: see Filter.
    """

    def __init__(self, *, channel: int | None = None, typed: bool = False, raw: bool = False, rows: int = 0) -> None:
        self._channel = channel
        self._typed = typed
        self._raw = raw
        self._rows = rows
        self._filters: dict[tuple[int, int], Filter] = {}
        self._terminals: set[int] = set()
        self._named: int | None = None  # the channel that the reader knows the output is of
        self._input: dict[int, str] = {}
        self._at_start = True  # of a line
        self._drawn = False  # since the last line of ours, output has used sequences

    def show(self, event: Event) -> str:
        """What to write for `event`; often nothing."""
        if self._channel is not None and event.channel != self._channel:
            return ""
        match event.kind:
            case Kind.OUTPUT | Kind.STDERR:
                return self._output(event)
            case Kind.RESIZE:
                return ""
            case Kind.INPUT | Kind.REVEALED:
                return self._type(event) if self._typed else ""
            case Kind.SEALED_INPUT:
                return self._line(event, notes.line(event)) if self._typed else ""
        found = notes.note(event)
        if isinstance(found, Start):
            self._named = event.channel
            if found.term:
                self._terminals.add(event.channel)
        return self._line(event, notes.line(event))

    def _output(self, event: Event) -> str:
        before = ""
        if self._named != event.channel:
            before = self._line(event, "goes on")
            self._named = event.channel
        feed = self._filters.setdefault((event.channel, event.kind), Filter(self._rows)).feed
        as_is = event.channel in self._terminals or not self._raw
        text = feed(event.data) if as_is else lines(feed, event.data)
        if text:
            self._at_start = text.endswith("\n")
            self._drawn = self._drawn or "\x1b" in text or "\x0e" in text
        return before + text

    def _type(self, event: Event) -> str:
        """By lines: an event is mostly one key."""
        text = self._input.get(event.channel, "") + event.data.decode("utf-8", "replace")
        *done, rest = text.replace("\r\n", "\r").replace("\n", "\r").split("\r")
        self._input[event.channel] = rest[-MAX_LINE:]
        return "".join(self._line(event, f"typed: {neutral(line)}") for line in done)

    def _line(self, event: Event, text: str) -> str:
        end = "\r\n" if self._raw else "\n"
        # Attack: output that ends in hidden text or line-drawing characters, and what we say next cannot be read.
        before = (SOFT if self._drawn else "") + ("" if self._at_start else end)
        self._at_start, self._drawn = True, False
        return f"{before}[{clock(event.ms, fine=True)}] channel {event.channel}: {text}{end}"
