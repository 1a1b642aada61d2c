"""Events <-> bytes: the columns inside a chunk, and the compression around them (FORMAT.md, section 2). No I/O.

A batch of n events is stored as columns, because like compresses with like:

    n varint | planes u16 | kind[n] | channel planes | dt planes | length planes | data

`planes` says which byte planes follow, lowest bit first: 2 of the channel, 4 of the milliseconds since the
event before, 4 of the data length. A plane of zeros is left out, so a lone keystroke costs 6 bytes and its data.
"""

import threading
from typing import Any, Final

import zstandard

from recorder.model import MAX_CHANNEL, MAX_EVENT_DATA, Event

MAX_BATCH: Final = 16 * 1024 * 1024
"""Bytes of one batch before compression: a segment of 1 MiB of data with room for its columns, sixteen times over."""

MAX_EVENTS: Final = 1 << 20
"""Events in one batch; a megabyte of single keystrokes."""

MAX_STEP: Final = 0xFFFFFFFF
"""Milliseconds between two events: 49 days, longer than any session."""

STORED: Final = 0
ZSTD: Final = 1

WORTH_COMPRESSING: Final = 128
"""Bytes below which zstd's frame header eats what it saves."""

_CHANNEL_PLANES = 2
_WIDE_PLANES = 4
_FRAME = 5  # codec u8 | raw length u32

FAST, FASTEST = 1, -5
"""Levels for what is compacted later, and under load: 2.0 and 1.1 s/GB where level 3 takes 3.9."""

_LONG_LIVED: Final = (FASTEST, FAST, 3)
_local = threading.local()  # a zstd context serves one thread at a time, and lets go of the interpreter lock


class FormatError(Exception):
    """The bytes are not what FORMAT.md allows. Says what and, where it helps, got and expected."""


def encode_events(events: list[Event], before_ms: int) -> bytes:
    """Columns of `events`; `before_ms` is the time of the event before the first one.

    FormatError if an event cannot be stored: time running backwards, data or channel out of range.
    """
    if not events:
        raise FormatError("a batch needs at least one event")
    if len(events) > MAX_EVENTS:
        raise FormatError(f"{len(events)} events in a batch, at most {MAX_EVENTS}")
    kinds, channels, steps, lengths = bytearray(), bytearray(), bytearray(), bytearray()
    previous = before_ms
    for kind, channel, ms, data in events:
        step = ms - previous
        if not (0 <= kind <= 255 and 0 <= channel <= MAX_CHANNEL and 0 <= step <= MAX_STEP):
            raise FormatError(f"event out of range: kind {kind}, channel {channel}, {step} ms after the one before")
        if len(data) > MAX_EVENT_DATA:
            raise FormatError(f"{len(data)} bytes in an event, at most {MAX_EVENT_DATA}")
        kinds.append(kind)
        channels += channel.to_bytes(_CHANNEL_PLANES, "little")
        steps += step.to_bytes(_WIDE_PLANES, "little")
        lengths += len(data).to_bytes(_WIDE_PLANES, "little")
        previous = ms
    mask, planes = 0, []
    bit = 1
    for column, width in ((channels, _CHANNEL_PLANES), (steps, _WIDE_PLANES), (lengths, _WIDE_PLANES)):
        for plane in range(width):
            values = column[plane::width]
            if any(values):
                planes.append(values)
                mask |= bit
            bit <<= 1
    head = varint(len(events)) + mask.to_bytes(2, "little") + bytes(kinds)
    return b"".join([head, *planes, *[event[3] for event in events]])  # plain tuples do: they come off a socket


def decode_events(data: bytes, before_ms: int) -> list[Event]:
    """Inverse of `encode_events`; FormatError for anything it would not have written.

    Only the one canonical encoding is accepted: two files with the same events have the same bytes.
    """
    count, at = read_varint(data)
    if not 1 <= count <= MAX_EVENTS:
        raise FormatError(f"{count} events in a batch, 1 to {MAX_EVENTS} expected")
    mask = int.from_bytes(data[at : at + 2], "little")
    at += 2
    if mask >> (_CHANNEL_PLANES + 2 * _WIDE_PLANES):
        raise FormatError(f"unknown planes {mask:#x}")
    # Before anything is allocated: a short input must not ask for a long table.
    if at + count * (1 + mask.bit_count()) > len(data):
        raise FormatError("columns are cut short")
    kinds = data[at : at + count]
    at += count
    columns = []
    bit = 1
    for width in (_CHANNEL_PLANES, _WIDE_PLANES, _WIDE_PLANES):
        column = bytearray(width * count)
        for plane in range(width):
            if mask & bit:
                values = data[at : at + count]
                if not any(values):
                    raise FormatError("a plane of zeros is written out")
                column[plane::width] = values
                at += count
            bit <<= 1
        columns.append([int.from_bytes(column[i : i + width], "little") for i in range(0, width * count, width)])
    events = []
    ms = before_ms
    for kind, channel, step, length in zip(kinds, *columns, strict=True):
        if length > MAX_EVENT_DATA:
            raise FormatError(f"{length} bytes in an event, at most {MAX_EVENT_DATA}")
        ms += step
        end = at + length
        events.append(Event(kind, channel, ms, data[at:end]))
        at = end
    if at != len(data):
        raise FormatError(f"{len(data)} bytes in a batch, its columns say {at}")
    return events


def compress(raw: bytes, level: int = 3) -> bytes:
    """codec u8 | raw length u32 | body. Stored as it is where compression does not pay."""
    if len(raw) > MAX_BATCH:
        raise FormatError(f"{len(raw)} bytes to compress, at most {MAX_BATCH}")
    codec, body = STORED, raw
    if len(raw) >= WORTH_COMPRESSING:
        smaller = _compressor(level, len(raw)).compress(raw)
        if len(smaller) < len(raw):
            codec, body = ZSTD, smaller
    return bytes([codec]) + len(raw).to_bytes(4, "big") + body


def decompress(framed: bytes) -> bytes:
    """Inverse of `compress`; FormatError before a byte is unpacked if the length is a bomb or a lie."""
    if len(framed) < _FRAME:
        raise FormatError("a compressed part is cut short")
    codec, length, body = framed[0], int.from_bytes(framed[1:_FRAME], "big"), framed[_FRAME:]
    if length > MAX_BATCH:
        raise FormatError(f"{length} bytes after decompression, at most {MAX_BATCH}")
    if codec == STORED:
        raw = body
    elif codec == ZSTD:
        try:
            # The frame's own size is checked first: the library allocates what the frame claims.
            if zstandard.frame_content_size(body) != length:
                raise FormatError("the zstd frame disagrees about its length")
            raw = zstandard.ZstdDecompressor().decompress(body, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as exc:
            raise FormatError(f"zstd: {exc}") from None
    else:
        raise FormatError(f"unknown compression {codec}")
    if len(raw) != length:
        raise FormatError(f"{len(raw)} bytes after decompression, {length} expected")
    return raw


def _compressor(level: int, size: int) -> zstandard.ZstdCompressor:
    """Contexts of high levels are big (80 MB at 19 without a size): they are made for their input, then dropped."""
    if level in _LONG_LIVED:
        kept: dict[Any, zstandard.ZstdCompressor] = _local.__dict__
        if level not in kept:
            kept[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
        return kept[level]
    parameters = zstandard.ZstdCompressionParameters.from_level(level, source_size=size, write_content_size=1)
    return zstandard.ZstdCompressor(compression_params=parameters)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes) -> tuple[int, int]:
    """The number at the start of `data` and where it ends; at most three bytes, shortest form only."""
    number = 0
    for at, byte in enumerate(data[:3]):
        number |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:
            if at and not byte:
                raise FormatError("a number is not in its shortest form")
            return number, at + 1
    raise FormatError("a number is cut short or too long")
