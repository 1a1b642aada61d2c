"""Events <-> the columns inside a chunk or segment (FORMAT.md, section 2). No I/O.

A batch of n events is stored as columns, because like compresses with like:

    n varint | planes u16 | kind[n] | channel planes | dt planes | length planes | data

`planes` says which byte planes follow, lowest bit first: 2 of the channel, 4 of the milliseconds since the
event before, 4 of the data length. A plane of zeros is left out, so a lone keystroke costs 6 bytes and its data.
"""

import struct
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from operator import sub
from typing import Final, NamedTuple

from recorder.codec import FormatError, read_varint, varint
from recorder.model import MAX_EVENT_DATA, Event

MAX_EVENTS: Final = 1 << 20
"""Events in one batch; a megabyte of single keystrokes."""

MAX_STEP: Final = 0xFFFFFFFF
"""Milliseconds between two events: 49 days, longer than any session."""

_PLANES: Final = 10
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
    if not events:
        raise FormatError("a batch needs at least one event")
    if len(events) > MAX_EVENTS:
        raise FormatError(f"{len(events)} events in a batch, at most {MAX_EVENTS}")
    kinds, channels, times, datas = zip(*events, strict=True)
    steps = map(sub, times, (before_ms, *times))
    lengths = [*map(len, datas)]
    if max(lengths) > MAX_EVENT_DATA:
        raise _too_long(max(lengths))
    count, planes, written = len(events), [], 0
    try:
        kind_bytes = bytes(kinds)
        number = 0
        for (letter, width), values in zip(_COLUMNS, (channels, steps, lengths), strict=True):
            column = struct.pack(f"<{count}{letter}", *values)
            for plane in range(width):
                values_of_plane = column[plane::width]
                if values_of_plane.count(0) < count:
                    planes.append(values_of_plane)
                    written |= 1 << number
                number += 1
    except (struct.error, ValueError):
        raise FormatError("an event is out of range: its kind, its channel, or its time") from None
    return b"".join([varint(count), written.to_bytes(2, "little"), kind_bytes, *planes, *datas])


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


def _too_long(size: int) -> FormatError:
    return FormatError(f"{size} bytes in an event, at most {MAX_EVENT_DATA}")
