"""Durations, and windows of the week in a time zone. Pure; time zones come from the system's or tzdata's tables."""

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

MAX_DURATION: Final = timedelta(days=31)  # a longer session or idle time is a slip of the pen

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_DURATION: Final = re.compile(r"(?:(\d{1,5})d)?(?:(\d{1,5})h)?(?:(\d{1,5})m)?(?:(\d{1,5})s)?", re.ASCII)
_HOURS: Final = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)
_ZONE: Final = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")
_DAY: Final = 24 * 60
_HORIZON: Final = 8  # days; a window that has not closed by then never does


def parse_duration(text: str) -> timedelta:
    """`15m`, `4h`, `1h30m`, `2d`; ValueError says what is wrong."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"got `{text[:40]}`, want a duration like `15m`, `4h` or `1h30m`")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not timedelta() < duration <= MAX_DURATION:
        raise ValueError(f"got `{text}`, want more than 0 and at most 31d")
    return duration


def format_duration(duration: timedelta) -> str:
    """`1h30m`, for people; part seconds are dropped."""
    seconds = int(duration.total_seconds())
    parts = [(seconds // 3600, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"


def parse_days(text: str) -> frozenset[int]:
    """`mon-fri`, `sat,sun`, `fri-mon`: Monday is 0. ValueError says what is wrong."""
    days: set[int] = set()
    for part in text.replace(" ", "").lower().split(","):
        first, dash, last = part.partition("-")
        for word in (first, last) if dash else (first,):
            if word not in DAYS:
                raise ValueError(f"got `{word[:20]}`, want {', '.join(DAYS)}, or `mon-fri`")
        begin, end = DAYS.index(first), DAYS.index(last if dash else first)
        days.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(days)


def parse_hours(text: str) -> tuple[int, int]:
    """`08:00-18:00` as minutes of the day; an end before the start is on the next day. ValueError."""
    match = _HOURS.fullmatch(text.replace(" ", ""))
    if match is None:
        raise ValueError(f"got `{text[:20]}`, want hours like `08:00-18:00`")
    begin_hour, begin_minute, end_hour, end_minute = map(int, match.groups())
    begin, end = begin_hour * 60 + begin_minute, end_hour * 60 + end_minute
    if max(begin_minute, end_minute) > 59 or begin >= _DAY or end > _DAY:
        raise ValueError(f"got `{text}`, want times from 00:00 to 24:00")
    if begin == end:
        raise ValueError(f"got `{text}`, which is no time at all; the whole day is `00:00-24:00`")
    return begin, end


def parse_zone(text: str) -> ZoneInfo:
    """An IANA time zone; ValueError with a near name."""
    try:
        if not _ZONE.fullmatch(text):
            raise ValueError  # where the system has no such file, zoneinfo imports a module of that name
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: `Europe` is a folder
        near = get_close_matches(text[:64], available_timezones(), n=1)
        hint = f"; did you mean `{near[0]}`" if near else ""
        raise ValueError(f"got `{text[:40]}`, want a time zone like `Europe/Berlin`{hint}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """Open on `days`, during `hours`, by the wall clocks of `zone`.

    A window over midnight belongs to the day on which it opens. An hour that the clocks skip never is; an hour
    that they repeat is there twice.
    """

    days: frozenset[int] = frozenset(range(7))
    hours: tuple[tuple[int, int], ...] = ((0, _DAY),)
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    text: str = ""  # as written, for people

    def is_open(self, now: datetime) -> bool:
        """At an aware instant."""
        local = now.astimezone(self.zone)
        today, minute = local.weekday(), local.hour * 60 + local.minute
        for begin, end in self.hours:
            if begin < end:
                if today in self.days and begin <= minute < end:
                    return True
            elif (today in self.days and minute >= begin) or ((today - 1) % 7 in self.days and minute < end):
                return True
        return False

    def closes(self, now: datetime) -> datetime | None:
        """When the window that is open at `now` closes, in UTC; None if it does not within a week."""
        moments = sorted(moment for moment in self._edges(now) if moment > now)
        return next((moment for moment in moments if not self.is_open(moment)), None)

    def _edges(self, now: datetime) -> list[datetime]:
        """Instants at which it may close: each end of hours, by either reading of a repeated hour, and each leap."""
        edges: list[datetime] = []
        first = now.astimezone(self.zone).date() - timedelta(days=1)
        for day in (first + timedelta(days=step) for step in range(_HORIZON + 2)):
            for begin, end in self.hours:
                ending = day + timedelta(days=(end <= begin) + (end == _DAY))
                minute = end % _DAY
                for fold in (0, 1):
                    wall = time(minute // 60, minute % 60, tzinfo=self.zone, fold=fold)
                    edges.append(datetime.combine(ending, wall).astimezone(UTC))
            if leap := self._leap(day):
                edges.append(leap)
        return edges

    def _leap(self, day: date) -> datetime | None:
        """The minute of this day at which the clocks are changed, if they are."""
        low = datetime.combine(day, time(), tzinfo=self.zone).astimezone(UTC)
        high = datetime.combine(day + timedelta(days=1), time(), tzinfo=self.zone).astimezone(UTC)
        before, after = low.astimezone(self.zone).utcoffset(), high.astimezone(self.zone).utcoffset()
        if before == after:
            return None
        while high - low > timedelta(minutes=1):
            middle = low + timedelta(minutes=(high - low) // timedelta(minutes=2))
            low, high = (middle, high) if middle.astimezone(self.zone).utcoffset() == before else (low, middle)
        return high
