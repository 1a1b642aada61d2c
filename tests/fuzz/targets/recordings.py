"""Parsers of recorderd and of those who read recordings."""

import msgspec

from recorder import messages
from recorder.codec import FormatError, compress, decompress
from recorder.columns import decode_events, encode_events
from recorder.model import Event, Kind
from tests.fuzz.registry import target

REQUESTS = tuple(
    messages.encode(body)
    for body in (
        messages.Open(session="0" * 32, t0_us=1, public={"protocol": "ssh"}, private={"person": "alice"}),
        messages.Append(seq=1, events=[(0, 0, 5, b"out"), (1, 0, 9, b"in")]),
        messages.End(reason="closed", by="alice", text="t"),
        messages.Status(),
    )
)
EVENTS = [Event(Kind.OUTPUT, 0, 5, b"$ "), Event(Kind.INPUT, 0, 900, b"l"), Event(Kind.STDERR, 300, 70_000, b"e" * 300)]
BATCHES = (encode_events(EVENTS, 0), encode_events(EVENTS[:1], 5))


@target("recorder-request", errors=(msgspec.MsgspecError,), samples=REQUESTS)
def request(raw: bytes) -> None:
    messages.decode_request(raw)


@target("recorder-reply", errors=(msgspec.MsgspecError,), samples=(messages.encode(messages.Ack(seq=1)),))
def reply(raw: bytes) -> None:
    messages.decode_reply(raw)


@target("events", errors=(FormatError,), samples=BATCHES)
def events(raw: bytes) -> None:
    """What is accepted has exactly one encoding."""
    assert encode_events(decode_events(raw, 0), 0) == raw


@target("compressed", errors=(FormatError,), samples=(compress(b"a" * 500), compress(b"short")))
def compressed(raw: bytes) -> None:
    decompress(raw)
