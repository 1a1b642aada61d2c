"""Events <-> the columns inside a chunk or segment (FORMAT.md, section 2). No I/O.

A batch of n events is stored as columns, because like compresses with like:

    n varint | planes u16 | kind[n] | channel planes | dt planes | length planes | data

`planes` says which byte planes follow, lowest bit first: 2 of the channel, 4 of the milliseconds since the
event before, 4 of the data length. A plane of zeros is left out, so a lone keystroke costs 6 bytes and its data.
"""

import struct
from array import array
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import accumulate, chain, islice
from operator import sub
from typing import Final, NamedTuple

from recorder.codec import FormatError, read_varint, varint
from recorder.model import MAX_EVENT_DATA, Event

MAX_EVENTS: Final = 1 << 20
"""Events in one batch; a megabyte of single keystrokes."""

MAX_STEP: Final = 0xFFFFFFFF
"""Milliseconds between two events: 49 days, longer than any session."""

_PLANES: Final = 10
_PIECE: Final = 4096  # numbers, 0.2 ms
_COLUMNS: Final = (("H", 2), ("I", 4), ("I", 4))  # channel, dt, length: struct's letter, bytes
_ONE: Final = struct.Struct("<HII")
_SET: Final = b"0" + b"1" * 255
"""Turns a byte into the binary digit that says whether its plane is written."""

_event = partial(tuple.__new__, Event)  # as Event._make, without a call of Python for each


def encode_events(events: Sequence[Event], before_ms: int) -> bytes:
    """Columns of `events`; `before_ms` is the time of the event before the first one. Plain tuples do.

    FormatError if an event cannot be stored: time running backwards, data or channel out of range.
    """
    if len(events) == 1:
        return _encode_one(events[0], before_ms)
    growing = Growing()
    growing.add(events)
    return growing.encode(before_ms)


class Growing:
    """Columns to which events are added until they are encoded.

    Numbers and bytes, no object for each event: thousands wait in each session for their segment, and the garbage
    collector goes through every object. With 500 sessions that held up everybody's keystrokes for 40 ms.
    """

    __slots__ = ("_channels", "_data", "_kinds", "_lengths", "_times")

    def __init__(self) -> None:
        self._kinds, self._data = bytearray(), bytearray()
        self._channels, self._times, self._lengths = array("H"), array("Q"), array("I")

    def __len__(self) -> int:
        return len(self._kinds)

    @property
    def first_ms(self) -> int:
        return self._times[0]

    def add(self, events: Sequence[Event]) -> None:
        """FormatError if one is out of range; then some columns have it, and this is of no use any more."""
        try:
            for kind, channel, ms, data in events:
                self._kinds.append(kind)
                self._channels.append(channel)
                self._times.append(ms)
                self._lengths.append(len(data))
                self._data += data
        except (ValueError, OverflowError):
            raise FormatError("an event is out of range: its kind, its channel, or its time") from None

    def encode(self, before_ms: int) -> bytes:
        """FormatError as `encode_events`."""
        count, times = len(self._kinds), self._times
        if not 1 <= count <= MAX_EVENTS:
            raise FormatError(f"{count} events in a batch, 1 to {MAX_EVENTS} expected")
        if max(self._lengths) > MAX_EVENT_DATA:
            raise _too_long(max(self._lengths))
        try:
            steps = _packed("I", map(sub, times, chain((before_ms,), times)))
        except struct.error:
            raise FormatError("time runs backwards, or longer than it can") from None
        channels, lengths = _packed("H", self._channels), _packed("I", self._lengths)
        written, planes = 0, []
        number = 0
        for column, width in ((channels, 2), (steps, 4), (lengths, 4)):
            for plane in range(width):
                values = column[plane::width]
                if values.count(0) < count:
                    planes.append(values)
                    written |= 1 << number
                number += 1
        return b"".join([varint(count), written.to_bytes(2, "little"), self._kinds, *planes, self._data])


def _encode_one(event: Event, before_ms: int) -> bytes:
    """The same of one event: a person types one key at a time, and waits for it."""
    kind, channel, ms, data = event
    if len(data) > MAX_EVENT_DATA:
        raise _too_long(len(data))
    try:
        values = _ONE.pack(channel, ms - before_ms, len(data))
        written = int(values[::-1].translate(_SET), 2)
        return bytes((1, written & 0xFF, written >> 8, kind)) + values.translate(None, b"\0") + data
    except (struct.error, ValueError):
        raise FormatError(
            f"event out of range: kind {kind}, channel {channel}, {ms - before_ms} ms after the one before"
        ) from None


class Columns(NamedTuple):
    """A decoded batch whose events are made when they are asked for: most of a segment is skipped by a seek."""

    kinds: bytes
    channels: tuple[int, ...]
    times: list[int]
    ends: list[int]  # of each event's data; it begins where the one before ends
    data: bytes

    def events(self, start: int = 0, end: int | None = None) -> list[Event]:
        part = slice(start, end)
        ends = self.ends[part]
        data, first = self.data, self.ends[start - 1] if start else 0
        datas = [data[a:b] for a, b in zip([first, *ends], ends, strict=False)]
        return [*map(_event, zip(self.kinds[part], self.channels[part], self.times[part], datas, strict=True))]


def decode_events(data: bytes, before_ms: int) -> list[Event]:
    """Inverse of `encode_events`; FormatError for anything it would not have written."""
    return decode_columns(data, before_ms).events()


def decode_columns(data: bytes, before_ms: int) -> Columns:
    """The same, for readers that want some of the events.

    Only the one canonical encoding is accepted: two files with the same events have the same bytes.
    """
    count, at = read_varint(data)
    if not 1 <= count <= MAX_EVENTS:
        raise FormatError(f"{count} events in a batch, 1 to {MAX_EVENTS} expected")
    written = int.from_bytes(data[at : at + 2], "little")
    at += 2
    if written >> _PLANES:
        raise FormatError(f"unknown planes {written:#x}")
    # Before anything is allocated: a short input must not ask for a long table.
    if at + count * (1 + written.bit_count()) > len(data):
        raise FormatError("columns are cut short")
    kinds = data[at : at + count]
    at += count
    columns = []
    for letter, width in _COLUMNS:
        column = bytearray(width * count)
        for plane in range(width):
            if written & 1:
                values = data[at : at + count]
                if values.count(0) == count:
                    raise FormatError("a plane of zeros is written out")
                column[plane::width] = values
                at += count
            written >>= 1
        columns.append(struct.unpack(f"<{count}{letter}", column))
    channels, steps, lengths = columns
    if max(lengths) > MAX_EVENT_DATA:
        raise _too_long(max(lengths))
    times = [*accumulate(steps, initial=before_ms)]
    ends = [*accumulate(lengths)]
    if at + ends[-1] != len(data):
        raise FormatError(f"{len(data)} bytes in a batch, its columns say {at + ends[-1]}")
    return Columns(kinds, channels, times[1:], ends, data[at:])


def _packed(letter: str, numbers: Iterable[int]) -> bytes:
    """Little-endian. Piece by piece: one call for all would keep the interpreter lock from a keystroke's thread."""
    left, pieces = iter(numbers), []
    while piece := tuple(islice(left, _PIECE)):
        pieces.append(struct.pack(f"<{len(piece)}{letter}", *piece))
    return b"".join(pieces)


def _too_long(size: int) -> FormatError:
    return FormatError(f"{size} bytes in an event, at most {MAX_EVENT_DATA}")
