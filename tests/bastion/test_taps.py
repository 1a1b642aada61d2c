"""What of the bytes that pass is written down, by the kind of the channel."""

import hashlib
from struct import pack
from typing import Any

import msgspec
import pytest

from bastion.taps import (
    KEEP,
    MAX_COMMAND,
    ChannelTap,
    Events,
    FilesTap,
    ForwardTap,
    StreamsTap,
    TerminalTap,
    early_input,
    early_output,
    exit_events,
    note,
    start_events,
    tap_for,
)
from policy.model import CHANNELS, ChannelKind
from recorder.model import MAX_EVENT_DATA, Digest, Exit, ForwardNote, Kind, SftpOp, Start

KEY = b"k" * 32
SECRET = {Kind.SEALED_INPUT, Kind.INPUT, Kind.REVEALED}


def tap(kind: ChannelKind, command: bytes = b"", term: bytes = b"", **settings: Any) -> ChannelTap:
    return tap_for(
        Start(kind=kind.value, command=command, term=term), key=KEY, now=lambda: 1.0,
        **{"keep_content": False, "hash_content": True, **settings},
    )  # fmt: skip


def of(events: Events, *kinds: Kind) -> bytes:
    return b"".join(data for kind, data in events if kind in kinds)


def digests(events: Events) -> list[Digest]:
    return [msgspec.msgpack.decode(data, type=Digest) for kind, data in events if kind is Kind.DIGEST]


def operations(events: Events) -> list[SftpOp]:
    return [msgspec.msgpack.decode(data, type=SftpOp) for kind, data in events if kind is Kind.SFTP]


def pump(feed: Any, data: bytes, size: int = 32768) -> Events:
    return [event for at in range(0, len(data), size) for event in feed(memoryview(data)[at : at + size])]


# --- which tap ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "command", "term", "expected"),
    [
        (ChannelKind.SHELL, b"", b"xterm", TerminalTap),
        (ChannelKind.EXEC, b"top", b"xterm", TerminalTap),
        (ChannelKind.SUBSYSTEM, b"netconf", b"xterm", TerminalTap),
        (ChannelKind.SHELL, b"", b"", StreamsTap),
        (ChannelKind.EXEC, b"uptime", b"", StreamsTap),
        (ChannelKind.SUBSYSTEM, b"netconf", b"", StreamsTap),
        (ChannelKind.SFTP, b"sftp", b"", FilesTap),
        (ChannelKind.SFTP, b"sftp", b"xterm", FilesTap),
        (ChannelKind.SCP, b"scp -t /tmp", b"", FilesTap),
        (ChannelKind.SCP, b"rsync --server . /srv", b"", StreamsTap),
        (ChannelKind.SCP, b"/usr/bin/rsync --server . /srv", b"", StreamsTap),
    ],
)
def test_each_kind_has_its_tap(kind: ChannelKind, command: bytes, term: bytes, expected: type) -> None:
    assert type(tap(kind, command, term)) is expected


@pytest.mark.parametrize("kind", [kind for kind in sorted(CHANNELS) if not kind.startswith("forward")])
@pytest.mark.parametrize("term", [b"", b"xterm"])
def test_nothing_is_silent(kind: ChannelKind, term: bytes) -> None:
    """Whatever kind a session channel has, bytes of no known protocol are recorded from the first one on."""
    one = tap(kind, b"scp -t /tmp" if kind is ChannelKind.SCP else b"x", term)
    data = b"\xff" * 64
    events = [*one.user(memoryview(data)), *one.target(memoryview(data)), *one.error(b"err"), *one.finish()]
    assert of(events, Kind.STDERR) == b"err"
    assert of(events, Kind.OUTPUT) == data, "the target's"
    assert of(events, *SECRET) or operations(events)


# --- terminals and streams ------------------------------------------------------------------------------


def test_a_terminal_is_recorded_whole() -> None:
    one = tap(ChannelKind.SHELL, term=b"xterm")
    shown = pump(one.target, b"x" * (2 * KEEP))
    assert of(shown, Kind.OUTPUT) == b"x" * (2 * KEEP)
    assert one.finish() == ()


def test_what_is_typed_without_an_echo_is_not_recorded_as_text() -> None:
    one = tap(ChannelKind.SHELL, term=b"xterm")
    one.target(memoryview(b"Password: "))
    events = [*one.user(memoryview(b"hunter2")), *one.user(memoryview(b"\r")), *one.target(memoryview(b"\r\n$ "))]
    assert b"hunter2" not in of(events, *Kind)
    assert any(kind is Kind.SEALED_INPUT for kind, _ in events)


def test_a_stream_is_kept_to_its_limit_and_counted_and_hashed_from_there() -> None:
    one = tap(ChannelKind.EXEC, b"pg_dump")
    data = b"0123456789abcdef" * (KEEP // 8)  # twice KEEP
    events = [*pump(one.target, data), *one.finish()]
    kept = of(events, Kind.OUTPUT)
    assert data.startswith(kept)
    assert len(kept) == KEEP
    (digest,) = digests(events)
    assert (digest.stream, digest.start, digest.size) == ("out", KEEP, len(data) - KEEP)
    assert digest.sha256 == hashlib.sha256(data[KEEP:]).digest()


def test_beyond_the_limit_nothing_waits_for_the_recorder() -> None:
    one = tap(ChannelKind.EXEC, b"pg_dump")
    pump(one.target, b"x" * KEEP)
    assert one.target(memoryview(b"y" * 32768)) == ()


@pytest.mark.parametrize("stream", ["in", "out", "err"])
def test_each_stream_has_its_own_limit(stream: str) -> None:
    one = tap(ChannelKind.EXEC, b"cmd")
    feeds = {"in": one.user, "out": one.target, "err": lambda data: one.error(bytes(data))}
    events = [*pump(feeds[stream], b"x" * (KEEP + 10)), *one.finish()]
    assert [(digest.stream, digest.start, digest.size) for digest in digests(events)] == [(stream, KEEP, 10)]


def test_hashing_can_be_left_out() -> None:
    one = tap(ChannelKind.EXEC, b"cmd", hash_content=False)
    (digest,) = digests([*pump(one.target, b"x" * (KEEP + 10)), *one.finish()])
    assert (digest.size, digest.sha256) == (10, b"")


def test_a_rule_that_keeps_content_keeps_everything() -> None:
    one = tap(ChannelKind.EXEC, b"cmd", keep_content=True)
    events = [*pump(one.target, b"x" * (2 * KEEP)), *one.finish()]
    assert len(of(events, Kind.OUTPUT)) == 2 * KEEP
    assert digests(events) == []


def test_rsync_is_known_by_its_size_and_hash_alone() -> None:
    one = tap(ChannelKind.SCP, b"rsync --server . /srv")
    assert of(pump(one.target, b"x" * 1000), Kind.OUTPUT) == b""
    assert [(digest.stream, digest.size) for digest in digests(one.finish())] == [("out", 1000)]


def test_a_stream_of_nothing_has_no_digest() -> None:
    assert list(tap(ChannelKind.EXEC, b"true").finish()) == []


# --- files ----------------------------------------------------------------------------------------------


def packet(kind: int, body: bytes) -> bytes:
    return pack(">IB", len(body) + 1, kind) + body


def text(value: bytes) -> bytes:
    return pack(">I", len(value)) + value


def test_sftp_is_recorded_as_operations() -> None:
    one = tap(ChannelKind.SFTP, b"sftp")
    events = [
        *one.user(memoryview(packet(1, pack(">I", 3)))),
        *one.target(memoryview(packet(2, pack(">I", 3)))),
        *one.user(memoryview(packet(13, pack(">I", 7) + text(b"/etc/motd")))),
        *one.target(memoryview(packet(101, pack(">II", 7, 0) + text(b"") * 2))),
        *one.finish(),
    ]
    assert [(operation.op, operation.path, operation.status) for operation in operations(events)] == [
        ("remove", b"/etc/motd", 0)
    ]
    assert of(events, Kind.INPUT, Kind.OUTPUT) == b""


def test_who_breaks_the_sftp_parser_is_recorded_as_a_stream() -> None:
    """Attack: a channel that is allowed as sftp, and carries a shell."""
    one = tap(ChannelKind.SFTP, b"sftp")
    events = [*one.user(memoryview(b"id; cat /etc/shadow\n")), *one.target(memoryview(b"uid=0(root)\n"))]
    assert of(events, Kind.OUTPUT) == b"uid=0(root)\n"
    assert any(kind in SECRET for kind, _ in events)
    assert operations(events)


def test_content_of_files_is_kept_where_a_rule_demands_it() -> None:
    one = tap(ChannelKind.SFTP, b"sftp", keep_content=True)
    hello, version = packet(1, pack(">I", 3)), packet(2, pack(">I", 3))
    assert of(one.user(memoryview(hello)), Kind.CONTENT_IN) == hello
    assert of(one.target(memoryview(version)), Kind.CONTENT_OUT) == version


# --- forwards, and what stands beside the streams -------------------------------------------------------


def test_a_forward_says_where_and_how_much() -> None:
    one = ForwardTap("forward-local", b"db:5432", b"127.0.0.1:40000", keep_content=False)
    (begun,) = one.start()
    assert one.user(memoryview(b"abc")) == ()
    assert one.target(memoryview(b"de")) == ()
    (over,) = one.finish()
    said = [msgspec.msgpack.decode(data, type=ForwardNote) for _, data in (begun, over)]
    assert said == [
        ForwardNote(state="open", kind="forward-local", destination=b"db:5432", origin=b"127.0.0.1:40000"),
        ForwardNote(state="close", kind="forward-local", destination=b"db:5432", origin=b"127.0.0.1:40000",
                    sent=3, received=2),
    ]  # fmt: skip


def test_the_content_of_a_forward_is_kept_where_a_rule_demands_it() -> None:
    one = ForwardTap("forward-local", b"db:5432", b"", keep_content=True)
    assert one.user(memoryview(b"abc")) == [(Kind.CONTENT_IN, b"abc")]
    assert one.target(memoryview(b"de")) == [(Kind.CONTENT_OUT, b"de")]
    assert one.error(b"f") == [(Kind.STDERR, b"f")]


@pytest.mark.parametrize(
    ("name", "rest", "said"),
    [
        (b"exit-status", pack(">I", 0), Exit(status=0)),
        (b"exit-status", pack(">I", 2**32 - 1), Exit(status=2**32 - 1)),
        (b"exit-signal", text(b"TERM") + b"\1" + text(b"told to") + text(b"en"),
         Exit(signal="TERM", core=True, message=b"told to")),
        (b"exit-signal", text(b"\x1b[2J\xff") + b"\0" + text(b"\x1b]0;x\x07") + text(b""),
         Exit(signal="\x1b[2J\ufffd", message=b"\x1b]0;x\x07")),
    ],
)  # fmt: skip
def test_how_it_exited(name: bytes, rest: bytes, said: Exit) -> None:
    assert list(exit_events(name, rest)) == [note(Kind.EXIT, said)]


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        (b"exit-status", b""),
        (b"exit-status", b"\0\0"),
        (b"exit-signal", b""),
        (b"exit-signal", text(b"TERM")),
        (b"exit-signal", text(b"TERM") + b"\0"),
    ],
)
def test_an_exit_cut_short_is_an_error_of_the_target(name: bytes, rest: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        exit_events(name, rest)


def test_other_requests_leave_no_exit() -> None:
    assert list(exit_events(b"xon-xoff", b"\1")) == []


def test_bytes_before_the_start_are_kept() -> None:
    assert early_input(memoryview(b"in")) == [(Kind.INPUT, b"in")]
    assert early_output(memoryview(b"out")) == [(Kind.OUTPUT, b"out")]


@pytest.mark.parametrize("size", [0, 1, MAX_COMMAND, MAX_COMMAND + 1, 200_000])
def test_a_command_of_any_length_is_recorded_whole_in_events_that_can_be_read(size: int) -> None:
    """An event has 32 KiB: what was split in the middle of its map was read by nobody."""
    env = {f"LC_{number}": b"x" * 1024 for number in range(15)}
    command = bytes(number % 251 for number in range(size))
    events = start_events(Start(kind="exec", command=command, term=b"xterm", columns=80, rows=24, env=env))
    starts = [msgspec.msgpack.decode(data, type=Start) for _, data in events]
    assert all(len(data) <= MAX_EVENT_DATA for _, data in events)
    assert b"".join(start.command for start in starts) == command
    assert [start.more for start in starts] == [True] * (len(starts) - 1) + [False]
    assert (starts[0].term, starts[0].env) == (b"xterm", env)
