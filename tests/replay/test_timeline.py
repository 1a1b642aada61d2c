"""When events are due: speeds, idle time, pauses; and what keys do. Clocks jump, nothing waits."""

import pytest

from replay.controls import Controls, Do, keys
from replay.text import moment
from replay.timeline import IDLE_MS, MAX_LATE_MS, SPEEDS, Pace


def test_real_time() -> None:
    pace = Pace()
    assert pace.due(1500, 100.0) == 1.5
    assert pace.due(1500, 101.0) == 0.5
    assert pace.due(1500, 101.5) == 0
    pace.show(1500, 101.5)
    assert pace.due(1700, 101.5) == pytest.approx(0.2)


def test_time_does_not_drift_when_an_event_is_shown_late() -> None:
    pace = Pace()
    pace.due(1000, 0.0)
    pace.show(1000, 1.3)
    assert pace.due(2000, 1.3) == pytest.approx(0.7)


def test_a_terminal_that_is_far_too_slow_lets_the_recording_slip() -> None:
    pace = Pace()
    pace.due(1000, 0.0)
    pace.show(1000, 61.0)
    assert pace.due(3000, 61.0) == pytest.approx(1.0)
    assert MAX_LATE_MS == 1000


def test_idle_time_is_cut_and_can_be_given_back() -> None:
    pace = Pace()
    assert pace.due(60_000, 0.0) == IDLE_MS / 1000
    pace.skip_idle = False
    assert pace.due(60_000, 1.0) == 59.0
    pace.skip_idle = True
    assert pace.due(60_000, 1.5) == 0.5


def test_speed_changes_in_the_middle_of_a_gap() -> None:
    pace = Pace(skip_idle=False)
    assert pace.due(10_000, 0.0) == 10
    pace.faster(2.0, 1)
    assert pace.speed == 2
    assert pace.due(10_000, 2.0) == 4
    pace.faster(2.0, 99)
    assert pace.speed == SPEEDS[-1]
    pace.faster(2.0, -99)
    assert pace.speed == SPEEDS[0]


def test_a_pause_costs_no_time() -> None:
    pace = Pace()
    pace.due(1000, 0.0)
    pace.pause(0.4, True)
    assert pace.due(1000, 500.0) is None
    assert pace.position(500.0) == 400
    pace.pause(500.0, False)
    assert pace.due(1000, 500.0) == pytest.approx(0.6)


def test_the_position_never_passes_the_next_event() -> None:
    pace = Pace()
    pace.due(1000, 0.0)
    assert pace.position(50.0, 1000) == 1000


def test_a_clock_that_goes_back_is_no_time() -> None:
    pace = Pace()
    pace.due(1000, 100.0)
    assert pace.due(1000, 50.0) == 1.0


def controls() -> Controls:
    made = Controls(Pace(), 100_000)
    made.pace.jump(50_000, 0.0)
    return made


@pytest.mark.parametrize(
    ("sent", "names"),
    [
        (b" ", ["space"]),
        (b"\x1b[C\x1b[D", ["right", "left"]),
        (b"\x1bOA", ["up"]),
        (b"q", ["q"]),
        (b"\x03", ["q"]),
        (b"\x1b", ["escape"]),
        (b"+-.", ["+", "-", "."]),
        (b"\r", ["enter"]),
        (b"\xff", ["\xff"]),
        (b"\x1b[1;5C", ["\x1b[1;5C"]),
    ],
)
def test_keys(sent: bytes, names: list[str]) -> None:
    assert keys(sent) == names


@pytest.mark.parametrize(
    ("key", "do", "target"),
    [("left", Do.SEEK, 45_000), ("right", Do.SEEK, 55_000), ("up", Do.SEEK, 100_000), ("down", Do.SEEK, 0),
     ("home", Do.SEEK, 0), ("end", Do.SEEK, 100_000), (".", Do.STEP, 0), ("tab", Do.CHANNEL, 0), ("q", Do.QUIT, 0),
     ("z", Do.NOTHING, 0), ("space", Do.STATUS, 0), ("i", Do.STATUS, 0), ("+", Do.STATUS, 0)],
)  # fmt: skip
def test_what_keys_do(key: str, do: Do, target: int) -> None:
    made = controls()
    assert made.press(key, 0.0, 60_000) == do
    assert made.target == target


def test_space_pauses_and_goes_on() -> None:
    made = controls()
    made.press("space", 0.0, 60_000)
    assert made.pace.paused
    made.press("space", 9.0, 60_000)
    assert not made.pace.paused


def test_stepping_waits_afterwards() -> None:
    made = controls()
    made.press(".", 0.0, 60_000)
    assert made.pace.paused


def test_go_to_a_time() -> None:
    made = controls()
    for key in "g1:3x5":
        assert made.press(key, 0.0, 60_000) == Do.STATUS
    assert made.typing == "1:35"
    made.press("back", 0.0, 60_000)
    assert made.press("enter", 0.0, 60_000) == Do.SEEK
    assert (made.target, made.typing) == (63_000, None)


def test_go_to_no_time() -> None:
    made = controls()
    for key in ["g", ":", "enter"]:
        assert made.press(key, 0.0, None) == Do.STATUS
    made.press("g", 0.0, None)
    made.press("escape", 0.0, None)
    assert made.typing is None


@pytest.mark.parametrize(
    ("text", "ms"),
    [("90", 90_000), ("1:30", 90_000), ("1:00:00", 3_600_000), ("2.5", 2500), ("", None), ("x", None), ("-1", None),
     ("1:2:3:4", None), ("inf", None), ("nan", None), ("1e300", None)],
)  # fmt: skip
def test_places_in_a_recording(text: str, ms: int | None) -> None:
    assert moment(text) == ms
