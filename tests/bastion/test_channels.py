"""Ends and flows: order, sizes, closing, and what is dropped."""

from struct import pack

import pytest
from asyncssh.packet import SSHPacket

from bastion.errors import PeerError
from bastion.session import OVERHEAD, WINDOW, Session
from bastion.ssh.channels import (
    CLOSE,
    DATA,
    EOF,
    EXTENDED_DATA,
    GRACE,
    MAX_PACKET,
    REQUEST,
    SUCCESS,
    WINDOW_ADJUST,
    End,
    Events,
    Flow,
)
from recorder.model import Kind
from tests.bastion.leg import PaperLeg, PaperOwner


def silent(data: memoryview) -> Events:
    return ()


def whole(data: memoryview) -> Events:
    return [(Kind.OUTPUT, bytes(data))]


class Pair:
    """Two legs with an open channel on each, linked both ways."""

    def __init__(self, tap: object = silent, max_packet: int = 32768) -> None:
        self.journal = Session(lambda: 0, expires_in=None, idle=None)
        self.owner = PaperOwner()
        self.user, self.target = PaperLeg(), PaperLeg()
        self.near, self.far = End(self.user, self.owner), End(self.target, self.owner)
        self.near.remote, self.near.max_packet = 7, max_packet
        self.far.remote, self.far.max_packet = 9, max_packet
        self.near.flow = self.up = Flow(self.far, self.journal, 1, tap)  # type: ignore[arg-type]
        self.far.flow = self.down = Flow(self.near, self.journal, 1, tap)  # type: ignore[arg-type]

    def acknowledge(self) -> None:
        for append in self.journal.take():
            self.journal.acknowledge(append.seq)


def text(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


# --- data -----------------------------------------------------------------------------------------------


def test_data_that_waits_for_nobody_is_left_to_the_caller() -> None:
    pair = Pair()
    assert pair.near.data(memoryview(b"x" * 32768)) is False
    assert pair.up.bytes == 32768
    assert pair.target.sent == []


def test_data_larger_than_the_other_side_takes_is_split() -> None:
    pair = Pair(max_packet=10)
    assert pair.near.data(memoryview(b"0123456789abcdefghijXYZ")) is True
    assert pair.target.take() == [(DATA, text(b"0123456789")), (DATA, text(b"abcdefghij")), (DATA, text(b"XYZ"))]


def test_a_message_of_data_is_split_too() -> None:
    pair = Pair(max_packet=4)
    pair.far.send(DATA, text(b"abcdefg"))
    assert pair.target.take() == [(DATA, text(b"abcd")), (DATA, text(b"efg"))]


def test_empty_data_passes_as_nothing() -> None:
    pair = Pair(whole)
    pair.near.data(memoryview(b""))
    pair.acknowledge()
    assert pair.target.data() == b""


def test_recorded_data_waits_and_leaves_in_order_with_what_came_between() -> None:
    pair = Pair(whole)
    assert pair.far.data(memoryview(b"one"))
    pair.down.put((), EXTENDED_DATA, pack(">I", 1) + text(b"err"))
    assert pair.far.data(memoryview(b"two"))
    pair.down.put((), EOF, b"")
    assert pair.user.sent == []
    pair.acknowledge()
    assert pair.user.take() == [
        (DATA, text(b"one")), (EXTENDED_DATA, pack(">I", 1) + text(b"err")), (DATA, text(b"two")), (EOF, b"")
    ]  # fmt: skip


def test_what_needs_no_record_does_not_overtake_what_waits() -> None:
    pair = Pair(whole)
    assert pair.far.data(memoryview(b"one"))
    pair.down.tap = silent
    assert pair.far.data(memoryview(b"two")) is True, "the short way is for those who wait for nobody"
    assert pair.user.sent == []
    pair.acknowledge()
    assert pair.user.data() == b"onetwo"


def test_each_direction_waits_for_itself_alone() -> None:
    pair = Pair(whole)
    pair.far.data(memoryview(b"output"))
    pair.near.flow = Flow(pair.far, pair.journal, 1, silent)
    assert pair.near.data(memoryview(b"input")) is False


def test_data_before_there_is_a_flow_goes_to_the_owner() -> None:
    leg, owner = PaperLeg(), PaperOwner()
    end = End(leg, owner)
    assert end.data(memoryview(b"early")) is True
    assert owner.heard == [("message", (DATA, text(b"early")))]


def test_the_same_messages_arrive_when_asyncssh_opens_the_packets() -> None:
    pair = Pair(whole)
    pair.far.process_packet(DATA, 0, SSHPacket(text(b"out")))
    pair.far.process_packet(REQUEST, 0, SSHPacket(text(b"exit-status") + b"\0" + bytes(4)))
    pair.acknowledge()
    assert pair.user.take() == [(DATA, text(b"out"))]
    assert pair.owner.heard == [("message", (REQUEST, text(b"exit-status") + b"\0" + bytes(4)))]


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", b"\0\0\0\4abc", b"\0\0\0\2abc", b"\xff\xff\xff\xff"])
def test_data_that_does_not_fill_its_message_is_an_error(payload: bytes) -> None:
    """Attack: bytes behind the data would pass unseen by the tap."""
    pair = Pair()
    with pytest.raises(PeerError, match="fill"):
        pair.near.process_packet(DATA, 0, SSHPacket(payload))
    assert pair.target.sent == []


# --- windows --------------------------------------------------------------------------------------------


def test_window_adjusts_pass_at_once_whatever_is_held() -> None:
    pair = Pair(whole)
    pair.near.data(memoryview(b"held"))
    pair.near.message(WINDOW_ADJUST, pack(">I", 1000))
    assert pair.target.take() == [(WINDOW_ADJUST, pack(">I", 1000))]


def test_a_window_adjust_carries_nothing_else() -> None:
    """Attack: bytes behind the number would reach the other side unrecorded."""
    pair = Pair()
    pair.near.message(WINDOW_ADJUST, pack(">I", 1000) + b"covert")
    assert pair.target.take() == [(WINDOW_ADJUST, pack(">I", 1000))]
    with pytest.raises(PeerError, match="window"):
        pair.near.message(WINDOW_ADJUST, b"\0\0\1")


# --- closing --------------------------------------------------------------------------------------------


def test_nothing_is_sent_after_our_close() -> None:
    pair = Pair(whole)
    pair.far.data(memoryview(b"held"))
    pair.near.send(CLOSE)
    pair.near.send(CLOSE)
    pair.near.send(DATA, text(b"late"))
    pair.near.send_data(memoryview(b"late"))
    pair.acknowledge()
    pair.near.send(SUCCESS)
    assert pair.user.take() == [(CLOSE, b"")]


def test_data_for_an_end_that_was_closed_is_dropped_before_it_is_sealed() -> None:
    """Attack: CLOSE and then DATA, for a number that the target has meanwhile given to another channel.

    The fast path seals what `data` does not keep; the data would arrive there, recorded as another channel's.
    """
    pair = Pair()
    pair.far.send(CLOSE)
    assert pair.near.data(memoryview(b"for channel 9")) is True
    assert pair.target.take() == [(CLOSE, b"")]


def test_data_behind_a_close_of_the_same_side_is_dropped() -> None:
    pair = Pair()
    pair.near.message(CLOSE, b"")
    assert pair.near.data(memoryview(b"late")) is True
    assert pair.target.sent == []
    assert pair.up.bytes == 0


def test_a_number_is_given_back_only_after_both_closes() -> None:
    pair = Pair()
    number = pair.near.number
    pair.near.message(CLOSE, b"")
    assert number in pair.user.ends
    pair.near.send(CLOSE)
    assert number not in pair.user.ends
    pair.near.release()

    number = pair.far.number
    pair.far.send(CLOSE)
    assert number in pair.target.ends
    pair.far.message(CLOSE, b"")
    assert number not in pair.target.ends


def test_a_close_that_is_held_keeps_the_number() -> None:
    pair = Pair(whole)
    pair.far.data(memoryview(b"output"))
    pair.down.put((), CLOSE, b"")
    pair.near.message(CLOSE, b"")
    assert pair.near.number in pair.user.ends
    pair.acknowledge()
    assert pair.user.take() == [(DATA, text(b"output")), (CLOSE, b"")]
    assert pair.user.ends == {}


def test_a_lost_connection_gives_every_number_back() -> None:
    pair = Pair()
    pair.near.process_connection_close(None)
    assert pair.owner.heard == [("lost", None)]
    assert pair.user.ends == {}
    pair.near.send(DATA, text(b"late"))
    assert pair.user.sent == []


# --- stopping -------------------------------------------------------------------------------------------


def test_stop_drops_what_is_held_and_what_comes_and_records_no_more() -> None:
    pair = Pair(whole)
    pair.far.data(memoryview(b"held"))
    pair.down.stop()
    assert pair.far.data(memoryview(b"later")) is True
    pair.down.put([(Kind.EXIT, b"")], REQUEST, b"")
    appends = pair.journal.take()
    assert [event[3] for append in appends for event in append.events] == [b"held"]
    pair.journal.acknowledge(appends[-1].seq)
    assert pair.user.sent == []
    assert not pair.down.release(0)


# --- opening --------------------------------------------------------------------------------------------


def test_an_end_that_is_not_confirmed_sends_nothing() -> None:
    leg, owner = PaperLeg(), PaperOwner()
    end = End(leg, owner)
    end.send(DATA, text(b"early"))
    end.send_data(memoryview(b"early"))
    end.send(CLOSE)
    assert leg.sent == []
    assert not end.close_sent


def test_a_confirmation_opens_once() -> None:
    """Attack: a second confirmation, or one for a channel that the peer itself opened, would turn a flow around."""
    leg, owner = PaperLeg(), PaperOwner()
    end = End(leg, owner)
    end.process_open_confirmation(5, 100, 32768, SSHPacket(b""))
    assert owner.heard == [("opened", (100, b""))]
    for again in (
        lambda: end.process_open_confirmation(6, 100, 32768, SSHPacket(b"")),
        lambda: end.process_open_failure(1, "no", ""),
    ):
        with pytest.raises(PeerError, match="not waiting"):
            again()
    assert end.remote == 5
    assert len(owner.heard) == 1

    theirs = Pair().near
    with pytest.raises(PeerError, match="not waiting"):
        theirs.process_open_confirmation(6, 100, 32768, SSHPacket(b""))


def test_a_refused_open_gives_the_number_back() -> None:
    leg, owner = PaperLeg(), PaperOwner()
    end = End(leg, owner)
    end.process_open_failure(2, "no", "")
    assert owner.heard == [("failed", (2, "no"))]
    assert leg.ends == {}


# --- windows, sizes, ends -------------------------------------------------------------------------------


def test_standard_error_larger_than_the_other_side_takes_is_split() -> None:
    pair = Pair(max_packet=4)
    pair.far.send(EXTENDED_DATA, pack(">I", 1) + text(b"abcdefg"))
    assert pair.target.take() == [
        (EXTENDED_DATA, pack(">I", 1) + text(b"abcd")), (EXTENDED_DATA, pack(">I", 1) + text(b"efg")),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [DATA, EXTENDED_DATA])
def test_data_beyond_the_window_is_an_error_of_who_sends_it(kind: int) -> None:
    """Attack: the other side would break off, and look as if it had failed."""
    pair = Pair()
    pair.near.send(WINDOW_ADJUST, pack(">I", 100_000))
    piece = text(b"x" * 1000)
    if kind == EXTENDED_DATA:
        piece = pack(">I", 1) + piece
    allowed = (100_000 + GRACE) // 1000
    for _ in range(allowed):
        pair.near.process_packet(kind, 0, SSHPacket(piece))
    with pytest.raises(PeerError, match="window"):
        pair.near.process_packet(kind, 0, SSHPacket(piece))


def test_a_window_grows_to_its_limit_and_no_further() -> None:
    """RFC 4254 section 5.2. Who says so hears of it, not the side that it is told."""
    pair = Pair()
    pair.near.message(WINDOW_ADJUST, pack(">I", 0xFFFFFFFF))
    pair.far.data(memoryview(bytes(1000)))
    pair.near.message(WINDOW_ADJUST, pack(">I", 1000))
    with pytest.raises(PeerError, match="too large"):
        pair.near.message(WINDOW_ADJUST, pack(">I", 1))


def test_nothing_of_a_flow_follows_its_eof() -> None:
    """RFC 4254 section 5.3; a request and the CLOSE may."""
    pair = Pair(whole)
    pair.down.put((), EOF, b"")
    assert pair.far.data(memoryview(b"late")) is True
    for kind in (EOF, EXTENDED_DATA, DATA, REQUEST, CLOSE):
        pair.down.put((), kind, b"")
    assert [kind for kind, _ in pair.user.take()] == [EOF, REQUEST, CLOSE]
    assert pair.journal.ticket == 0


def test_a_start_behind_a_close_is_not_heard() -> None:
    pair = Pair()
    pair.near.message(CLOSE, b"")
    for kind in (REQUEST, CLOSE, EOF, WINDOW_ADJUST):
        pair.near.message(kind, b"exec")
    assert pair.owner.heard == [("message", (CLOSE, b""))]


@pytest.mark.parametrize("size", [0, 1, 63])
def test_a_confirmation_of_packets_too_small_is_an_error(size: int) -> None:
    """Attack: one message of the person becomes 32,768 for the target, in one turn of the loop."""
    end = End(PaperLeg(), PaperOwner())
    with pytest.raises(PeerError, match="at a time"):
        end.process_open_confirmation(1, 1 << 20, size, SSHPacket(b""))


def test_packets_are_never_larger_than_what_is_read() -> None:
    end = End(PaperLeg(), PaperOwner())
    end.process_open_confirmation(1, 1 << 20, 0xFFFFFFFF, SSHPacket(b""))
    assert end.max_packet == MAX_PACKET


def test_what_waits_without_being_recorded_is_counted_until_it_leaves() -> None:
    """Attack: a recorder that stands still, and a flood of requests whose answers wait behind one recorded byte."""
    pair = Pair(whole)
    pair.far.data(memoryview(b"x"))
    down = pair.down
    for _ in range(WINDOW // OVERHEAD + 1):
        down.put((), SUCCESS, b"")
    assert pair.journal.is_behind
    pair.acknowledge()
    assert pair.journal.has_caught_up
    pair.far.data(memoryview(b"x"))
    for _ in range(WINDOW // OVERHEAD + 1):
        down.put((), SUCCESS, b"")
    assert pair.journal.is_behind
    down.stop()
    assert pair.journal.has_caught_up
