"""The gateway's end of a recording, against a real SOCK_SEQPACKET server that misbehaves in every way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from bastion.errors import ExitCode, RecorderLost
from bastion.session import Session
from bastion.ssh import recording as module
from bastion.ssh.burst import burst
from bastion.ssh.channels import DATA, End, Flow
from bastion.ssh.pace import KEYS, READ, SHARED, Pace
from bastion.ssh.recording import Recording, health
from recorder.messages import MAX_MESSAGE, Ack, Ended, Open, Opened
from recorder.model import MAX_EVENT_DATA, Kind
from tests.bastion.aio import asynchronous, quiet, until
from tests.bastion.leg import PaperLeg, PaperOwner
from tests.bastion.recorderd import Recorderd, Tape

STALL = 30.0
OPENING = Open(session="0" * 32, t0_us=1, public={"protocol": "ssh"}, private={"person": "alice"})


class Live:
    """A recording with one flow towards a person, and what happened to it."""

    def __init__(self, recorder: Recorderd) -> None:
        self.recorder = recorder
        self.session = Session(lambda: 0, expires_in=None, idle=None)
        self.lost: list[RecorderLost] = []
        self.pressure: list[bool] = []
        self.leg = PaperLeg()
        end = End(self.leg, PaperOwner())
        end.remote, end.max_packet = 0, 1 << 20
        self.recording: Recording
        self.end = end

    async def open(self) -> None:
        self.recording = await Recording.open(self.recorder.run, OPENING, self.session, self.lost.append)
        self.recording.on_pressure = self.pressure.append
        self.flow = Flow(self.end, self.recording, 1, lambda data: [(Kind.OUTPUT, bytes(data))])

    @property
    def tape(self) -> Tape:
        return self.recorder.tape

    def output(self, data: bytes) -> None:
        with burst():
            self.flow.data(memoryview(data))

    @property
    def shown(self) -> bytes:
        return self.leg.data()


@asynccontextmanager
async def live(tmp_path: Path, **settings: Any) -> AsyncIterator[Live]:
    recorder = Recorderd(tmp_path)
    for name, value in settings.items():
        setattr(recorder, name, value)
    one = Live(recorder)
    try:
        await one.open()
        yield one
    finally:
        if hasattr(one, "recording"):
            one.recording.close()
        recorder.stop()


# --- the promise ----------------------------------------------------------------------------------------


@asynchronous
async def test_recorded_then_shown(tmp_path: Path) -> None:
    async with live(tmp_path, hold=True) as one:
        assert one.recording.file == f"{OPENING.session}.rec"
        assert one.tape.open == OPENING
        one.output(b"root@web1:~# ")
        await until("it is recorded", lambda: one.tape.events)
        await quiet()
        assert one.shown == b""
        one.tape.acknowledge()
        await until("it is shown", lambda: one.shown)
        assert one.shown == b"root@web1:~# "


@asynchronous
async def test_one_burst_is_one_message(tmp_path: Path) -> None:
    async with live(tmp_path) as one:
        with burst():
            for number in range(50):
                one.output(b"%d," % number)
        await until("all is shown", lambda: one.shown.count(b",") == 50)
        assert one.tape.seq == 1


@pytest.mark.parametrize(
    ("kind", "data", "size"),
    [
        (Kind.INPUT, b"k", SHARED),
        (Kind.SEALED_INPUT, bytes(36), SHARED),
        (Kind.INPUT, bytes(KEYS + 1), READ),  # from a file
        (Kind.OUTPUT, b"k", READ),
        (Kind.DIGEST, bytes(36), READ),  # of bulk itself
    ],
)
@asynchronous
async def test_reads_are_small_behind_a_key(
    kind: Kind, data: bytes, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live(tmp_path) as one:
        monkeypatch.setattr(module, "pace", pace := Pace())
        with burst():
            one.recording.record(kind, 1, data)
        assert pace.read_size(asyncio.get_running_loop().time()) == size


@asynchronous
async def test_late_acknowledgements_in_pieces_release_what_they_cover(tmp_path: Path) -> None:
    async with live(tmp_path, hold=True) as one:
        for number in range(5):
            one.output(b"%d" % number)
        await until("five messages", lambda: one.tape.seq == 5)
        one.tape.acknowledge(2)
        await until("two are shown", lambda: one.shown == b"01")
        one.tape.acknowledge(1)  # out of order: says nothing new
        one.tape.acknowledge(2)
        await quiet()
        assert one.shown == b"01"
        assert one.session.acknowledged == 2
        one.tape.acknowledge(5)
        await until("the rest", lambda: one.shown == b"01234")
        assert one.lost == []


@asynchronous
async def test_an_acknowledgement_overtaken_by_an_older_one_in_the_same_read_counts(tmp_path: Path) -> None:
    async with live(tmp_path, hold=True) as one:
        for number in range(3):
            one.output(b"%d" % number)
        await until("three messages", lambda: one.tape.seq == 3)
        one.tape.say(Ack(seq=3))
        one.tape.say(Ack(seq=1))
        await until("all is shown", lambda: one.shown == b"012")


@asynchronous
async def test_an_acknowledgement_of_what_was_never_sent_loses_the_recorder(tmp_path: Path) -> None:
    async with live(tmp_path, hold=True) as one:
        one.output(b"secret")
        await until("one message", lambda: one.tape.seq == 1)
        one.tape.acknowledge(2)
        await until("it is lost", lambda: one.lost)
        assert one.shown == b""
        assert "never sent" in one.lost[0].cause
        assert one.lost[0].code is ExitCode.RECORDING_FAILED


# --- ways to lose it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["refused", "hangs up", "nonsense", "second Opened", "Ended unasked", "too long"])
@asynchronous
async def test_a_recorder_that_says_anything_else_is_lost_and_nothing_more_is_shown(how: str, tmp_path: Path) -> None:
    async with live(tmp_path, hold=True) as one:
        one.output(b"held")
        await until("one message", lambda: one.tape.seq == 1)
        match how:
            case "refused":
                one.tape.say(module.Refused(cause="no space left on device"))
            case "hangs up":
                one.tape.hang_up()
            case "nonsense":
                one.tape.say_raw(b"\xc1nonsense")
            case "second Opened":
                one.tape.say(Opened(file="other"))
            case "Ended unasked":
                one.tape.say(Ended())
            case "too long":
                one.tape.say_raw(b"\0" * (MAX_MESSAGE + 1))
        await until("it is lost", lambda: one.lost)
        one.output(b"after")
        await quiet()
        assert len(one.lost) == 1, "told once"
        assert one.shown == b""
        if how == "refused":
            assert "no space left on device" in one.lost[0].cause
        assert all(line.startswith("bastion: ") for line in one.lost[0].lines())
        assert len(one.lost[0].lines()) == 2
        await one.recording.end("failed")  # quiet


@asynchronous
async def test_acknowledgements_before_a_refusal_in_the_same_read_count(tmp_path: Path) -> None:
    async with live(tmp_path, hold=True) as one:
        one.output(b"a")
        one.output(b"b")
        await until("two messages", lambda: one.tape.seq == 2)
        one.tape.acknowledge(1)
        one.tape.say(module.Refused(cause="disk"))
        await until("it is lost", lambda: one.lost)
        assert one.shown == b"a", "this one is written"


@asynchronous
async def test_a_recorder_that_never_reads_stops_the_reading_and_the_rest_arrives_in_order(tmp_path: Path) -> None:
    async with live(tmp_path) as one:
        one.tape.stop_reading()
        block = bytes(range(256)) * (MAX_EVENT_DATA // 256)
        count = 0
        while not one.pressure:
            one.output(pack(">I", count) + block[4:])
            count += 1
            assert count < 100, "nothing limits what waits for recorderd"
        assert one.pressure == [True]
        assert one.shown == b""
        one.tape.go_on_reading()
        await until("the pressure is gone", lambda: one.pressure == [True, False])
        await until("everything is shown", lambda: len(one.shown) == count * MAX_EVENT_DATA)
        assert one.tape.of(Kind.OUTPUT) == one.shown
        assert [one.shown[at : at + 4] for at in range(0, len(one.shown), MAX_EVENT_DATA)] == [
            pack(">I", number) for number in range(count)
        ]


@asynchronous
async def test_a_recorder_lost_while_messages_wait_for_it(tmp_path: Path) -> None:
    async with live(tmp_path) as one:
        one.tape.stop_reading()
        for _ in range(40):
            one.output(b"x" * MAX_EVENT_DATA)
        one.tape.hang_up()
        await until("it is lost", lambda: one.lost)
        assert one.shown == b""


class Jumping:
    """The loop's clock for what is counted in seconds of silence."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        loop = asyncio.get_running_loop()
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self.ahead)


@asynchronous
async def test_a_recorder_that_is_stopped_ends_the_session_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live(tmp_path, hold=True) as one:
        clock = Jumping(monkeypatch)
        clock.ahead += 1000
        one.recording.check(STALL)
        assert one.lost == [], "it owes nothing"
        one.output(b"held")
        await until("one message", lambda: one.tape.seq == 1)
        clock.ahead += STALL - 2
        one.recording.check(STALL)
        assert one.lost == []
        clock.ahead += 3
        one.recording.check(STALL)
        assert "30 seconds" in one.lost[0].cause


@pytest.mark.parametrize("data", [b"held", b""])
@asynchronous
async def test_even_an_event_without_data_is_owed(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with live(tmp_path, hold=True) as one:
        clock = Jumping(monkeypatch)
        for _ in range(2):
            one.recording.record(Kind.MARKER, 0, data)
            one.recording.flush()
        await until("two messages", lambda: one.tape.seq == 2)
        one.tape.acknowledge(1)
        await until("the first is written", lambda: one.session.acknowledged == 1)
        clock.ahead += STALL + 1
        one.recording.check(STALL)
        assert one.lost


@asynchronous
async def test_a_recorder_that_answers_slowly_but_answers_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live(tmp_path, hold=True) as one:
        clock = Jumping(monkeypatch)
        for number in range(4):
            one.output(b"%d" % number)
        await until("four messages", lambda: one.tape.seq == 4)
        for seq in (1, 2, 3, 4):
            clock.ahead += STALL - 5
            one.recording.check(STALL)
            one.tape.acknowledge(seq)
            await until("it counts", lambda seq=seq: one.session.acknowledged == seq)  # type: ignore[misc]
        clock.ahead += 1000
        one.recording.check(STALL)
        assert one.lost == []


# --- the beginning and the end --------------------------------------------------------------------------


@asynchronous
async def test_a_refused_beginning_says_why(tmp_path: Path) -> None:
    with pytest.raises(RecorderLost, match="disk is nearly full"):
        async with live(tmp_path, refuse="the disk is nearly full"):
            pass


@asynchronous
async def test_no_recorder_no_session(tmp_path: Path) -> None:
    with pytest.raises(RecorderLost, match="not there") as caught:
        await Recording.open(tmp_path, OPENING, Session(lambda: 0, expires_in=None, idle=None), lambda error: None)
    assert caught.value.lines()[1].startswith("bastion: start it again:")


@asynchronous
async def test_a_recorder_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_WORD", 0.05)
    with pytest.raises(RecorderLost, match="did not answer"):
        async with live(tmp_path, mute=True):
            pass


@asynchronous
async def test_the_end_carries_everything_recorded_before_it_and_who(tmp_path: Path) -> None:
    async with live(tmp_path) as one:
        with burst():
            one.recording.record(Kind.MARKER, 0, b"last words")
        await one.recording.end("killed", "carol", "kill -9 is not an answer")
        assert one.tape.notes(Kind.MARKER) == [b"last words"]
        assert one.tape.end is not None
        assert (one.tape.end.reason, one.tape.end.by) == ("killed", "carol")
        await until("the socket is closed", lambda: one.tape.closed)
        assert one.lost == []
        await one.recording.end("closed")  # only the first counts


@asynchronous
async def test_nothing_is_recorded_or_shown_after_the_end(tmp_path: Path) -> None:
    async with live(tmp_path, answer_end=False) as one:
        ending = asyncio.ensure_future(one.recording.end("killed"))
        await until("the end has come", lambda: one.tape.end)
        one.output(b"too late")
        await quiet()
        one.tape.say(Ended())
        await ending
        assert one.tape.late == []
        assert one.shown == b""


@asynchronous
async def test_an_end_that_is_never_answered_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    async with live(tmp_path, answer_end=False) as one:
        await one.recording.end("closed")
        await until("the socket is closed", lambda: one.tape.closed)
        assert one.lost == [], "the session is over anyway"


@asynchronous
async def test_two_who_end_it_wait_for_the_same_end(tmp_path: Path) -> None:
    async with live(tmp_path, answer_end=False) as one:
        both = asyncio.gather(one.recording.end("killed"), one.recording.end("closed"))
        await until("the end has come", lambda: one.tape.end)
        await quiet()
        one.tape.say(Ended())
        await both
        assert one.tape.end is not None
        assert one.tape.end.reason == "killed"
        assert one.tape.late == []


@asynchronous
async def test_a_recorder_lost_at_the_end(tmp_path: Path) -> None:
    async with live(tmp_path, answer_end=False) as one:
        ending = asyncio.ensure_future(one.recording.end("closed"))
        await until("the end has come", lambda: one.tape.end)
        one.tape.hang_up()
        await ending
        assert one.lost == []


@asynchronous
async def test_health(tmp_path: Path) -> None:
    recorder = Recorderd(tmp_path)
    assert (await health(tmp_path)).accepting
    recorder.stop()
    with pytest.raises(RecorderLost):
        await health(tmp_path)


def test_data_is_the_only_message_that_is_split() -> None:
    assert DATA == 94, "PaperLeg and the flows speak of the same message"
