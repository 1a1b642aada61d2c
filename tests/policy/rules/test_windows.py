"""Hours of the week by wall clocks: zones, midnight, and the two days a year when clocks are changed."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from policy.rules import windows
from policy.rules.windows import When, format_duration, parse_days, parse_duration, parse_hours, parse_zone

BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = When(days=parse_days("mon-fri"), hours=(parse_hours("08:00-18:00"),), zone=BERLIN)


def at(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-24T07:59:59", False), ("2026-11-24T08:00:00", True), ("2026-11-24T17:59:59", True),
        ("2026-11-24T18:00:00", False), ("2026-11-28T12:00:00", False), ("2026-07-01T08:00:00", True),
    ],
)  # fmt: skip
def test_office_hours_in_their_own_zone(moment, is_open):
    assert OFFICE.is_open(at(moment)) is is_open
    assert OFFICE.is_open(at(moment).astimezone(UTC)) is is_open


def test_the_same_utc_hour_is_open_in_summer_and_closed_in_winter():
    assert OFFICE.is_open(datetime(2026, 7, 1, 6, 30, tzinfo=UTC))
    assert not OFFICE.is_open(datetime(2026, 12, 1, 6, 30, tzinfo=UTC))


def test_a_window_over_midnight_belongs_to_the_day_it_opens():
    night = When(days=parse_days("fri"), hours=(parse_hours("22:00-06:00"),), zone=BERLIN)
    assert night.is_open(at("2026-11-27T23:00:00"))  # Friday
    assert night.is_open(at("2026-11-28T05:59:00"))  # Saturday
    assert not night.is_open(at("2026-11-27T05:00:00"))
    assert not night.is_open(at("2026-11-28T22:30:00"))
    assert night.closes(at("2026-11-27T23:00:00")) == at("2026-11-28T06:00:00")


def test_the_hour_that_is_skipped_never_is():
    """On 2026-03-29 02:00 becomes 03:00: a window inside it does not open, one across it is an hour shorter."""
    inside = When(hours=(parse_hours("02:10-02:50"),), zone=BERLIN)
    begin = at("2026-03-29T00:00:00").astimezone(UTC)
    assert not any(inside.is_open(begin + timedelta(minutes=minute)) for minute in range(8 * 60))
    across = When(hours=(parse_hours("01:30-03:30"),), zone=BERLIN)
    now = at("2026-03-29T01:30:00").astimezone(UTC)
    assert across.closes(now) - now == timedelta(hours=1)
    until = When(hours=(parse_hours("01:00-02:30"),), zone=BERLIN)
    closing = until.closes(at("2026-03-29T01:30:00"))
    assert closing == at("2026-03-29T03:00:00"), "02:30 never comes: it closes with the leap"


def test_the_hour_that_is_repeated_is_there_twice():
    """On 2026-10-25 03:00 becomes 02:00."""
    window = When(hours=(parse_hours("02:00-03:00"),), zone=BERLIN)
    assert window.is_open(at("2026-10-25T02:30:00", fold=0))
    assert window.is_open(at("2026-10-25T02:30:00", fold=1))
    now = at("2026-10-25T02:00:00").astimezone(UTC)
    assert window.closes(now) - now == timedelta(hours=2)
    until = When(hours=(parse_hours("01:00-02:30"),), zone=BERLIN)
    now = at("2026-10-25T01:00:00").astimezone(UTC)
    closing = until.closes(now)
    assert closing is not None
    assert not until.is_open(closing)
    assert all(until.is_open(now + timedelta(minutes=minute)) for minute in range(int((closing - now).seconds / 60)))


def test_every_minute_of_the_days_of_change_agrees_with_the_wall_clock():
    window = When(hours=(parse_hours("01:15-02:45"), parse_hours("23:30-00:30")), zone=BERLIN)
    for day in ("2026-03-28T22:00:00", "2026-10-24T22:00:00"):
        now = at(day).astimezone(UTC)
        for _ in range(36 * 60):
            now += timedelta(minutes=1)
            local = now.astimezone(BERLIN)
            minute = local.hour * 60 + local.minute
            assert window.is_open(now) is (75 <= minute < 165 or minute >= 23 * 60 + 30 or minute < 30), local


def test_always_open_never_closes():
    assert When().closes(datetime(2026, 1, 1, tzinfo=UTC)) is None
    whole = When(hours=(parse_hours("00:00-24:00"),), zone=BERLIN, days=parse_days("mon"))
    assert whole.closes(at("2026-11-23T12:00:00")) == at("2026-11-24T00:00:00")


def test_leap_day():
    assert OFFICE.is_open(at("2028-02-29T09:00:00"))


@pytest.mark.parametrize(
    "text", ["", "8:00-18:00", "08:00", "08:60-09:00", "24:00-25:00", "08:00-08:00", "٠٨:00-18:00"]
)
def test_hours_that_are_none(text):
    with pytest.raises(ValueError, match="got"):
        parse_hours(text)


def test_days():
    assert parse_days("fri-mon") == {4, 5, 6, 0}
    assert parse_days("sat, SUN") == {5, 6}
    for text in ("", "mon-", "-fri", "monday", "mon--fri"):
        with pytest.raises(ValueError, match="want"):
            parse_days(text)


@pytest.mark.parametrize(("text", "seconds"), [("15m", 900), ("1h30m", 5400), ("2d", 172800), ("90s", 90)])
def test_durations(text, seconds):
    assert parse_duration(text).total_seconds() == seconds
    assert parse_duration(format_duration(parse_duration(text))).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "0m", "15", "m", "1.5h", "-1h", "32d", "15 m", "99999d", "١٥m"])
def test_durations_that_are_none(text):
    with pytest.raises(ValueError, match="got"):
        parse_duration(text)


def test_a_zone_is_no_path(monkeypatch):
    """Where the system has no such file, zoneinfo imports a module by that name."""
    asked = []
    monkeypatch.setattr(windows, "ZoneInfo", lambda text: asked.append(text))
    for text in ("../../etc/passwd", "/etc/localtime", "a" * 100, "os.path", "A/B/C/D"):
        with pytest.raises(ValueError, match="want a time zone"):
            parse_zone(text)
    assert not asked


def test_zones():
    assert parse_zone("Europe/Berlin") is BERLIN
    for text in ("Europe", "../../etc/passwd", "Europe/Berlín", ""):
        with pytest.raises(ValueError, match="want a time zone"):
            parse_zone(text)
    with pytest.raises(ValueError, match="did you mean `Europe/Berlin`"):
        parse_zone("Europe/Berln")
