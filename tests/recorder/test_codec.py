"""Columns and compression: what goes in comes out, in one canonical form, and nothing else is taken."""

import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from recorder.codec import MAX_BATCH, FormatError, compress, decompress
from recorder.columns import decode_columns, decode_events, encode_events
from recorder.model import MAX_CHANNEL, MAX_EVENT_DATA, Event, Kind

batches = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, MAX_CHANNEL), st.integers(0, 100_000), st.binary(max_size=300)),
    min_size=1,
    max_size=40,
)


def events_of(batch: list[tuple[int, int, int, bytes]], start: int = 0) -> list[Event]:
    events, ms = [], start
    for kind, channel, step, data in batch:
        ms += step
        events.append(Event(kind, channel, ms, data))
    return events


@given(batches, st.integers(0, 2**40))
def test_events_come_back_as_they_were(batch: list[tuple[int, int, int, bytes]], start: int) -> None:
    events = events_of(batch, start)
    assert decode_events(encode_events(events, start), start) == events


def test_one_keystroke_by_hand() -> None:
    columns = bytes.fromhex(
        "01"  # one event
        "4400"  # planes: dt low byte (bit 2), length low byte (bit 6)
        "01"  # Kind.INPUT; its channel is 0, so no plane
        "05"  # 5 ms after the event before
        "01"  # one byte of data
        "6c"  # "l"
    )
    event = Event(Kind.INPUT, 0, 1005, b"l")
    assert encode_events([event], 1000) == columns
    assert decode_events(columns, 1000) == [event]


@given(batches, st.integers(0, 40), st.integers(0, 40))
def test_some_of_the_events_are_those_of_all(batch: list[tuple[int, int, int, bytes]], start: int, more: int) -> None:
    events = events_of(batch)
    start = min(start, len(events))
    assert decode_columns(encode_events(events, 0), 0).events(start, start + more) == events[start : start + more]


@given(batches, st.data())
def test_what_is_cut_or_lengthened_is_refused(batch: list[tuple[int, int, int, bytes]], data: st.DataObject) -> None:
    whole = encode_events(events_of(batch), 0)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"\0"):
        with pytest.raises(FormatError):
            decode_events(wrong, 0)


@given(st.binary(max_size=400))
def test_any_bytes_are_canonical_or_refused(data: bytes) -> None:
    try:
        events = decode_events(data, 0)
    except FormatError:
        return
    assert encode_events(events, 0) == data


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([], id="none"),
        pytest.param([Event(0, 0, 5, b""), Event(0, 0, 4, b"")], id="time runs backwards"),
        pytest.param([Event(0, MAX_CHANNEL + 1, 0, b"")], id="channel"),
        pytest.param([Event(256, 0, 0, b"")], id="kind"),
        pytest.param([Event(0, 0, 0, bytes(MAX_EVENT_DATA + 1))], id="data"),
        pytest.param([Event(0, 0, 2**32, b"")], id="49 days of silence"),
    ],
)
def test_what_cannot_be_stored_is_refused(events: list[Event]) -> None:
    with pytest.raises(FormatError):
        encode_events(events, 0)


def test_a_short_batch_that_claims_a_million_events_is_refused() -> None:
    with pytest.raises(FormatError, match="cut short"):
        decode_events(b"\xff\xff\x3f\x7f\x00", 0)


def test_planes_nobody_knows_are_refused() -> None:
    with pytest.raises(FormatError, match="unknown planes"):
        decode_events(b"\x01\x00\x80\x01" + bytes(20), 0)


@given(st.binary(max_size=5000))
def test_compression_is_undone(raw: bytes) -> None:
    assert decompress(compress(raw)) == raw


def test_text_shrinks_and_noise_is_stored() -> None:
    text = b"drwxr-xr-x 2 root root 4096 Nov 23 12:00 bin\r\n" * 100
    noise = random.Random(1).randbytes(4096)
    assert len(compress(text)) < len(text) // 10
    assert compress(noise) == b"\0" + len(noise).to_bytes(4, "big") + noise


@pytest.mark.parametrize(
    "framed",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0\0\0\0", id="cut in the frame"),
        pytest.param(b"\2\0\0\0\1x", id="unknown codec"),
        pytest.param(b"\0\0\0\0\2x", id="stored, wrong length"),
        pytest.param(b"\0" + (MAX_BATCH + 1).to_bytes(4, "big"), id="too long"),
        pytest.param(b"\1\0\0\0\4" + b"zstd", id="not zstd"),
    ],
)
def test_a_bad_frame_is_refused(framed: bytes) -> None:
    with pytest.raises(FormatError):
        decompress(framed)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    """100 MiB of zeros in 10 KB: both the frame's word and ours are checked before memory is taken."""
    bomb = zstandard.ZstdCompressor(level=3, write_content_size=True).compress(bytes(100 << 20))
    for claimed in (100 << 20, 1000):
        with pytest.raises(FormatError):
            decompress(b"\1" + claimed.to_bytes(4, "big") + bomb)
    unsized = zstandard.ZstdCompressor(level=3, write_content_size=False).compress(bytes(1 << 20))
    with pytest.raises(FormatError):
        decompress(b"\1" + (1000).to_bytes(4, "big") + unsized)
