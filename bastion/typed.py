"""Which typed text may be recorded in the clear. Pure.

SSH does not tell when the terminal of the target has its echo off. So printable text is *sealed* (recorded as a
keyed commitment and its length) until the target has echoed it, and then *revealed*; once a line is being echoed
its further text is recorded at once. Control bytes and the sequences of arrow and function keys are no text.

    unsure   -- text typed: SEALED_INPUT --> echo of it seen: REVEALED --> echoing
    echoing  -- text typed: INPUT; Enter, a new line of output, or text without its echo --> unsure
    guarded  -- the output ends with a prompt for a secret: everything is sealed until Enter and never revealed,
                whatever is echoed (a `*` for each key is no reason to show the key)
    full screen -- vim, less, tmux: INPUT, unless guarded

INVARIANT: the events of `typed` cover the bytes typed, each once and in order; REVEALED repeats sealed ones only.

What this cannot know: inside a full-screen program (tmux) a secret asked for without a word like `password`.
"""

import hashlib
import hmac
import re
from typing import Final

from bastion.screen_state import TAIL, ScreenState
from recorder.model import MAX_EVENT_DATA, Kind

MAX_CHUNKS: Final = 64
"""Pieces of typed text that may wait for their echo: six seconds of fast typing on a line that stands still."""

MAX_WAITING: Final = 8 * 1024
"""Bytes that may wait for their echo: two full input lines of a terminal (4096 in Linux)."""

PATIENCE: Final = 256
"""Chunks of output without the echo of what was typed before them, after which it is not looked for any more."""

SURE: Final = 4
"""Bytes that must agree before an echo is believed that other text follows at once. `S` is not the echo of a
password because the target answers `Sorry`."""

_REDRAW: Final = 64  # bytes of the line before the cursor that a line editor draws again with the new character
_LOOK: Final = 4096  # bytes of output searched for an echo: an input line
_MASKS: Final = frozenset("*•●".encode())

# What a terminal sends for keys and reports, in one piece. Anything else behind an escape counts as text: sealed.
_KEYS: Final = re.compile(
    rb"(?:\x1b\[[0-9;?<=>]{0,32}[@-~]|\x1bO[A-Za-z]|\x1b[\]P_^][^\x07\x1b]{0,256}(?:\x07|\x1b\\)|[\x00-\x1f\x7f])+"
)
_ENDS: Final = frozenset(b"\r\n\x03\x04\x1a\x1c")  # Enter, and what leaves a prompt: ^C ^D ^Z ^\
_NOISE: Final = re.compile(
    rb"(?:\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,1024}(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\x00-\x09\x0b-\x1f])+"
)
_GAP: Final = 0  # stands for noise

Events = list[tuple[Kind, bytes]]


class _Chunk:
    """Text that was typed in one piece and waits for its echo; `ends` if Enter followed it."""

    __slots__ = ("ends", "sealed", "text")

    def __init__(self, text: bytes, *, sealed: bool) -> None:
        self.text = text
        self.sealed = sealed
        self.ends = False


def sealed(key: bytes, number: int, text: bytes) -> tuple[Kind, bytes]:
    """Commitment: HMAC-SHA256(key, u64 number of the commitment in its channel | text), then u32 length."""
    digest = hmac.digest(key, number.to_bytes(8, "big") + text, hashlib.sha256)
    return Kind.SEALED_INPUT, digest + len(text).to_bytes(4, "big")


class TypedText:
    """One channel. `key` makes commitments that only its holder can check; `terminal`: a pty was allocated."""

    def __init__(self, key: bytes, terminal: bool) -> None:
        self._key = key
        self._terminal = terminal
        self._screen = ScreenState()
        self._sealed = 0  # commitments so far
        self._echoing = False
        self._guarded = False
        self._misses = 0  # chunks of output since the last key that were not the echo waited for
        self._waiting: list[_Chunk] = []
        self._line = b""  # end of what was echoed on this line
        self._own = False  # the output ends with the echo of what was typed, which is no prompt of the target

    def typed(self, data: bytes | memoryview) -> Events:
        """What to record before `data` goes to the target."""
        data = bytes(data)
        if not self._terminal:
            return self._stream(data)
        if _KEYS.search(data) is None:
            return self._text(data) if data else []  # nearly every key
        events: Events = []
        at = 0
        for keys in _KEYS.finditer(data):
            if at < keys.start():
                events += self._text(data[at : keys.start()])
            events += self._keys(keys.group())
            at = keys.end()
        if at < len(data):
            events += self._text(data[at:])
        return _joined(events)

    def shown(self, data: bytes | memoryview) -> Events:
        """What to record before `data`, output of the target (either stream), goes to the user."""
        if not self._terminal:
            self._screen.text(bytes(data[-TAIL:]))
            return []
        data = bytes(data)
        self._screen.output(data)
        if self._guarded and b"\n" in data:
            self._guarded = False  # the prompt is over; what is typed stays sealed until an echo is seen
        self._own = False
        events = self._echo(data) if self._waiting else []
        if b"\n" in data:
            # Attack by accident: a menu echoes one key, goes to a new line and asks for something with the echo off.
            self._echoing = self._own = False
            self._line = b""
        if self._misses > PATIENCE or self._screen.full_screen:
            self._forget()
        return events

    # --- typed ----------------------------------------------------------------------------------------

    def _stream(self, data: bytes) -> Events:
        """Standard input that is no terminal has no echo: secret is one line after a prompt (`sudo -S`, ansible)."""
        if not self._guarded and not self._screen.asks:
            return _plain(data)
        end = data.find(b"\n")
        self._guarded = end < 0
        if self._guarded:
            return self._seal(data) if data else []
        self._screen.answered()
        return (self._seal(data[:end]) if end else []) + _plain(data[end:])

    def _text(self, text: bytes) -> Events:
        if self._guarded or (not self._own and self._screen.asks):
            self._guarded = True
            self._forget()
            return self._seal(text)
        if self._screen.full_screen:
            return _plain(text)
        if self._echoing and self._waiting and (self._misses or len(self._waiting) > 1):
            self._echoing = False
        self._misses = 0
        self._wait(_Chunk(text, sealed=not self._echoing))
        return _plain(text) if self._echoing else self._seal(text)

    def _keys(self, keys: bytes) -> Events:
        """Control bytes. Within a guarded prompt they belong to the secret, but for those that end it."""
        events: Events = []
        at = 0
        while at < len(keys):
            end = next((i for i in range(at, len(keys)) if keys[i] in _ENDS), len(keys))
            if at < end:
                hidden = self._guarded or (not self._own and self._screen.asks)
                events += self._seal(keys[at:end]) if hidden else _plain(keys[at:end])
            if end < len(keys):
                events += _plain(keys[end : end + 1])
                self._ended()
                end += 1
            at = end
        return events

    def _ended(self) -> None:
        self._guarded = False
        self._echoing = self._own = False
        self._line = b""
        self._screen.answered()
        if self._waiting:
            self._waiting[-1].ends = True

    def _seal(self, text: bytes) -> Events:
        self._sealed += 1
        return [sealed(self._key, self._sealed - 1, text)]

    def _wait(self, chunk: _Chunk) -> None:
        self._waiting.append(chunk)
        if len(self._waiting) == 1 and len(chunk.text) <= MAX_WAITING:
            return  # nearly every key
        while len(self._waiting) > MAX_CHUNKS or sum(len(waiting.text) for waiting in self._waiting) > MAX_WAITING:
            del self._waiting[0]  # stays as it was recorded

    def _forget(self) -> None:
        self._waiting.clear()
        self._echoing = False
        self._line = b""

    # --- echoed ---------------------------------------------------------------------------------------

    def _echo(self, data: bytes) -> Events:
        """Find the echo of waiting text at the beginning of this output."""
        shown = _NOISE.sub(b"\0", data[:_LOOK])
        start = 0
        while start < len(shown) and shown[start] in b"\0\n":
            start += 1
        first = 0
        if b"\n" in shown[:start]:
            # The line ended before its text was shown: that text was not echoed, and what comes is an answer.
            first = next((i + 1 for i, chunk in enumerate(self._waiting) if chunk.ends), 0)
        match = self._match(shown, start, first)
        if match is None:
            self._misses += 1
            self._lost(shown, first)
            return []
        events = self._believe(*match)
        self._own = self._echoing and shown.rstrip(b"\0").endswith(self._line[-min(match[1], SURE) :])
        return events

    def _match(self, shown: bytes, start: int, first: int) -> tuple[int, int] | None:
        """Chunk where an echo begins and bytes echoed, or None. The first that is echoed whole, else the last."""
        partly: tuple[int, int] | None = None
        for index in range(first, len(self._waiting)):
            count = self._agreeing(shown, start, index)
            if count >= len(self._waiting[index].text):
                return index, count
            if count:
                partly = (index, count)
        if partly is None:
            # Typed ahead: the shell shows its prompt, and the line behind it, as the last thing.
            behind = next((i for i in range(len(self._waiting), 0, -1) if self._waiting[i - 1].ends), 0)
            text = b"".join(chunk.text for chunk in self._waiting[behind:])
            if len(text) >= SURE and behind >= first and shown.rstrip(b"\0").endswith(text):
                return behind, len(text)
        return partly

    def _agreeing(self, shown: bytes, start: int, index: int) -> int:
        """Bytes of the text from chunk `index` on that `shown` repeats, 0 if that is no echo."""
        redraws = range(min(len(self._line), _REDRAW) + 1) if self._echoing else (0,)
        for redrawn in redraws:
            before = self._line[len(self._line) - redrawn :]
            at = _after(shown, start, before)
            if at >= 0 and (count := self._follow(shown, at, index)):
                return count
        return 0

    def _follow(self, shown: bytes, at: int, index: int) -> int:
        """Bytes of waiting text that `shown` repeats from `at`: whole chunks, or part of one where `shown` ends."""
        count = whole = 0
        for chunk in self._waiting[index:]:
            for byte in chunk.text:
                while at < len(shown) and shown[at] == _GAP:
                    at += 1
                if at == len(shown) or shown[at] != byte:
                    break
                at += 1
                count += 1
            else:
                whole = count
                if not chunk.ends:
                    continue
            break
        follows = at < len(shown) and shown[at] not in b"\0\n"
        if follows:
            count = whole
        if self._echoing:
            return count
        echoed = b"".join(chunk.text for chunk in self._waiting[index:])[:count]
        # A mask is the echo of any key, so it proves nothing.
        return 0 if (follows and count < SURE) or not set(echoed) - _MASKS else count

    def _believe(self, index: int, count: int) -> Events:
        revealed = bytearray()
        del self._waiting[:index]  # were passed over: they stay sealed
        while count:
            chunk = self._waiting[0]
            part, chunk.text = chunk.text[:count], chunk.text[count:]
            count -= len(part)
            if chunk.sealed:
                revealed += part
            self._line = (self._line + part)[-_REDRAW:]
            if not chunk.text:
                del self._waiting[0]
                if chunk.ends:
                    self._line = b""
                    break
        self._misses = 0
        self._echoing = bool(self._line) and not any(chunk.ends for chunk in self._waiting)
        return [(Kind.REVEALED, bytes(revealed))] if revealed else []

    def _lost(self, shown: bytes, first: int) -> None:
        """Lines that ended are over once the target has gone to a new line."""
        if first:
            del self._waiting[:first]
        elif b"\n" in shown:
            ended = next((i + 1 for i, chunk in enumerate(self._waiting) if chunk.ends), 0)
            del self._waiting[:ended]


def _after(shown: bytes, at: int, text: bytes) -> int:
    """Where `shown` goes on after repeating `text` from `at`, -1 if it does not."""
    for byte in text:
        while at < len(shown) and shown[at] == _GAP:
            at += 1
        if at == len(shown) or shown[at] != byte:
            return -1
        at += 1
    return at


def _plain(data: bytes) -> Events:
    return [(Kind.INPUT, data[i : i + MAX_EVENT_DATA]) for i in range(0, len(data), MAX_EVENT_DATA)]


def _joined(events: Events) -> Events:
    """Neighbouring INPUT events as one, where they fit."""
    joined: Events = []
    for kind, data in events:
        if joined and kind == Kind.INPUT == joined[-1][0] and len(joined[-1][1]) + len(data) <= MAX_EVENT_DATA:
            joined[-1] = (kind, joined[-1][1] + data)
        else:
            joined.append((kind, data))
    return joined
