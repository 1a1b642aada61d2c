"""One recorded session: what waits, what goes, and when it is over."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.session import MAX_EVENTS, OVERHEAD, WINDOW, Session
from bastion.ssh.channels import DATA, Flow
from recorder.messages import MAX_MESSAGE, Append, encode
from recorder.model import MAX_CHANNEL, MAX_EVENT_DATA, Kind

SECOND = 1_000_000_000


class Clock:
    """Monotonic nanoseconds that jump when the test says so."""

    def __init__(self, now: int = 5 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class Wire:
    """The far end of a flow: what was sent on, in order. Stands for `channels.End`, which is tested by itself."""

    max_packet = 1 << 20
    close_sent = False

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.then: Callable[[], None] = lambda: None

    def send(self, kind: int, payload: bytes = b"") -> None:
        self.sent.append(payload[4:])
        self.then()


def session(clock: Clock | None = None, expires_in: float | None = None, idle: float | None = None) -> Session:
    return Session(clock or Clock(), expires_in=expires_in, idle=idle)


def flow(journal: Session, channel: int = 1, kind: int = Kind.OUTPUT) -> tuple[Flow, Wire]:
    wire = Wire()
    return Flow(wire, journal, channel, lambda data: [(kind, bytes(data))]), wire  # type: ignore[arg-type]


def events(appends: list[Append]) -> list[tuple[int, int, int, bytes]]:
    return [event for append in appends for event in append.events]


# --- recorded, acknowledged, sent -----------------------------------------------------------------------


def test_a_byte_goes_on_only_after_its_acknowledgement() -> None:
    journal = session()
    down, wire = flow(journal)
    assert down.data(memoryview(b"root@web1:~# "))
    assert wire.sent == []
    appends = journal.take()
    assert [one.seq for one in appends] == [1]
    assert appends[0].events == [(Kind.OUTPUT, 1, 0, b"root@web1:~# ")]
    assert wire.sent == []
    assert journal.acknowledge(1)
    assert wire.sent == [b"root@web1:~# "]


def test_an_old_acknowledgement_releases_nothing_new() -> None:
    journal = session()
    down, wire = flow(journal)
    down.data(memoryview(b"one"))
    journal.take()
    down.data(memoryview(b"two"))
    journal.take()
    journal.acknowledge(1)
    journal.acknowledge(1)
    journal.acknowledge(0)
    assert wire.sent == [b"one"]
    journal.acknowledge(2)
    assert wire.sent == [b"one", b"two"]


def test_what_is_recorded_and_not_yet_sent_to_the_recorder_is_not_released_by_earlier_acknowledgements() -> None:
    journal = session()
    down, wire = flow(journal)
    down.data(memoryview(b"one"))
    journal.take()
    down.data(memoryview(b"two"))  # recorded, still here
    journal.acknowledge(1)
    assert wire.sent == [b"one"]
    assert journal.has_pending


def test_an_acknowledgement_of_what_was_never_sent_is_refused_and_releases_nothing() -> None:
    journal = session()
    down, wire = flow(journal)
    down.data(memoryview(b"one"))
    assert not journal.acknowledge(1)
    journal.take()
    assert not journal.acknowledge(2)
    assert wire.sent == []


def test_nothing_to_record_waits_for_nothing_but_for_what_came_before_it() -> None:
    journal = session()
    down, wire = flow(journal)
    down.put((), DATA, b"\0\0\0\0free")
    assert wire.sent == [b"free"]
    down.data(memoryview(b"recorded"))
    down.put((), DATA, b"\0\0\0\0behind")
    assert wire.sent == [b"free"]
    journal.take()
    journal.acknowledge(1)
    assert wire.sent == [b"free", b"recorded", b"behind"]


def test_a_flow_fed_by_the_release_of_another_is_not_forgotten() -> None:
    """A release may lead to more recording, on a flow that has just been emptied (`ssh -J` within one process)."""
    journal = session()
    first, one = flow(journal, 1)
    second, two = flow(journal, 2)
    first.data(memoryview(b"a"))
    second.data(memoryview(b"b"))
    two.then = lambda: first.data(memoryview(b"c")) and None
    journal.take()
    journal.acknowledge(1)
    two.then = lambda: None
    assert one.sent == [b"a"]
    journal.take()
    journal.acknowledge(2)
    assert one.sent == [b"a", b"c"]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 2), st.integers(0, 3)),  # flow, events
        st.tuples(st.just("take"), st.just(0), st.just(0)),
        st.tuples(st.just("ack"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("note"), st.just(0), st.just(0)),
    ),
    max_size=80,
)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_invariant_order_is_kept_and_nothing_is_early(script: list[tuple[str, int, int]]) -> None:
    journal = session()
    wires = [Wire(), Wire(), Wire()]
    flows = [Flow(wire, journal, 1, lambda data: ()) for wire in wires]  # type: ignore[arg-type]
    put: list[list[tuple[bytes, int]]] = [[], [], []]  # message, number of its last event
    recorded = last_sent = acknowledged = 0
    after: dict[int, int] = {0: 0}  # seq -> events written once it is acknowledged
    for step, which, count in script:
        match step:
            case "put":
                name = b"%d" % len(put[which])
                flows[which].put([(Kind.OUTPUT, b"x")] * count, DATA, b"\0\0\0\0" + name)
                recorded += count
                put[which].append((name, recorded if count else 0))
            case "note":
                journal.record(Kind.MARKER, 0, b"n")
                recorded += 1
            case "take":
                for append in journal.take():
                    last_sent = append.seq
                    after[last_sent] = after[last_sent - 1] + len(append.events)
                assert after[last_sent] == recorded
            case "ack":
                assert journal.acknowledge(which) is (which <= last_sent)
                if which <= last_sent:
                    acknowledged = max(acknowledged, after[which])
        for wire, messages in zip(wires, put, strict=True):
            assert wire.sent == [name for name, _ in messages[: len(wire.sent)]], "order"
            assert all(last <= acknowledged for _, last in messages[: len(wire.sent)]), "early"
            waiting = messages[len(wire.sent) :]
            assert not waiting or waiting[0][1] > acknowledged, "late"
    journal.take()
    journal.acknowledge(journal._seq)
    for wire, messages in zip(wires, put, strict=True):
        assert wire.sent == [name for name, _ in messages]
    assert journal.owed == 0


# --- messages of a size that the socket takes -----------------------------------------------------------


def test_long_data_becomes_several_events_and_is_one_ticket_to_wait_for() -> None:
    journal = session()
    down, wire = flow(journal)
    data = bytes(range(256)) * 300  # 76,800 bytes
    down.data(memoryview(data))
    appends = journal.take()
    assert b"".join(event[3] for event in events(appends)) == data
    assert max(len(event[3]) for event in events(appends)) == MAX_EVENT_DATA
    for append in appends[:-1]:
        journal.acknowledge(append.seq)
        assert wire.sent == []
    journal.acknowledge(appends[-1].seq)
    assert wire.sent == [data]


@given(st.lists(st.sampled_from([0, 1, 2, 15, 100, 1000, MAX_EVENT_DATA - 1, MAX_EVENT_DATA, MAX_EVENT_DATA * 2 + 1])))
@settings(max_examples=100, deadline=None)
def test_every_append_fits_in_one_message_and_loses_nothing(sizes: list[int]) -> None:
    clock = Clock()
    journal = session(clock)
    clock.now += 2**32 * 1_000_000  # 49 days later, milliseconds take nine bytes
    for size in sizes:
        journal.record(Kind.CONTENT_OUT, MAX_CHANNEL, b"z" * size)
    appends = journal.take()
    assert [append.seq for append in appends] == list(range(1, len(appends) + 1))
    assert all(len(encode(append)) <= MAX_MESSAGE for append in appends)
    assert sum(len(event[3]) for event in events(appends)) == sum(sizes)
    assert journal.take() == []


@pytest.mark.parametrize("size", [0, 1, 14, 15, 16, 17])
def test_a_flood_of_small_events_fits_too(size: int) -> None:
    clock = Clock()
    journal = session(clock)
    clock.now += 2**32 * 1_000_000
    for _ in range(3 * MAX_EVENTS + 1):
        journal.record(Kind.OUTPUT, MAX_CHANNEL, b"k" * size)
    appends = journal.take()
    assert all(len(encode(append)) <= MAX_MESSAGE for append in appends)
    assert all(len(append.events) <= MAX_EVENTS for append in appends)
    assert len(events(appends)) == 3 * MAX_EVENTS + 1


def test_times_never_go_back_and_count_from_the_beginning() -> None:
    clock = Clock(7 * SECOND)
    journal = session(clock)
    journal.record(Kind.OUTPUT, 1, b"a")
    clock.now += 3 * SECOND
    journal.record(Kind.OUTPUT, 1, b"b")
    clock.now -= 2 * SECOND
    journal.record(Kind.OUTPUT, 1, b"c")
    assert [event[2] for event in events(journal.take())] == [0, 3000, 3000]


# --- a recorder that falls behind -----------------------------------------------------------------------


def test_reading_stops_at_the_window_and_goes_on_at_its_half() -> None:
    journal = session()
    for _ in range(WINDOW // MAX_EVENT_DATA):
        journal.record(Kind.OUTPUT, 1, b"x" * MAX_EVENT_DATA)
    journal.record(Kind.OUTPUT, 1, b"x")
    assert journal.is_behind
    appends = journal.take()
    assert journal.is_behind, "sending is not writing"
    for append in appends[: len(appends) // 4]:
        journal.acknowledge(append.seq)
    assert not journal.is_behind
    assert not journal.has_caught_up
    journal.acknowledge(appends[-1].seq)
    assert journal.has_caught_up
    assert journal.owed == 0


@pytest.mark.parametrize("size", [0, 1])
def test_keystrokes_count_for_more_than_their_bytes(size: int) -> None:
    """Attack: bytes sent one by one to a recorder that is stuck; each costs us a hundred times its size."""
    journal = session()
    count = 0
    while not journal.is_behind:
        journal.record(Kind.INPUT, 1, b"k" * size)
        count += 1
        assert count * (OVERHEAD + size) <= WINDOW + OVERHEAD + size
    assert count < 20_000


# --- limits ---------------------------------------------------------------------------------------------


def test_a_session_without_limits_is_never_over() -> None:
    clock = Clock()
    endless = session(clock)
    clock.now += 10**9 * SECOND
    assert endless.over() == ""
    assert endless.until_over() is None


def test_expiry_counts_from_the_beginning_whatever_happens() -> None:
    clock = Clock()
    granted = session(clock, expires_in=60, idle=50)
    for _ in range(59):
        clock.now += SECOND
        granted.active()
        assert granted.over() == ""
    assert granted.until_over() == 1.0
    clock.now += SECOND
    assert granted.over() == "expired"
    assert granted.until_over() == 0.0


def test_idle_counts_from_the_last_byte() -> None:
    clock = Clock()
    granted = session(clock, idle=15)
    clock.now += 14 * SECOND
    granted.active()
    assert granted.until_over() == 15.0
    clock.now += 14 * SECOND
    assert granted.over() == ""
    clock.now += SECOND
    assert granted.over() == "idle"


def test_a_clock_that_jumps_over_both_limits_says_expired() -> None:
    """The machine slept: the grant is what ended, whoever was idle."""
    clock = Clock()
    granted = session(clock, expires_in=3600, idle=60)
    clock.now += 24 * 3600 * SECOND
    assert granted.over() == "expired"


@pytest.mark.parametrize("began", [0, 1, 5 * SECOND])
def test_a_grant_of_no_time_is_over_at_once(began: int) -> None:
    granted = session(Clock(began), expires_in=0.0)
    assert granted.over() == "expired"
    assert granted.until_over() == 0.0
