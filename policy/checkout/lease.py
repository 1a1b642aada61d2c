"""Passwords that are out: who has which until when, and what brings one back. Pure; a clock is an argument.

    out --the person brings it back--> returned      out --somebody else makes it so--> returned (forced)
    out --its time is over-----------> returned      out --what it rests on is gone---> returned

A row that is returned stays so, and what was shown is due to be changed. Whether something brings it back is judged
from what there is, at each look, and not from what is told: nothing is missed, and a start looks like any other time.

Time is kept by two clocks. The wall clock's end is what people are told and what a start of policyd goes by; the
steady one ends it as well, so that a wall clock set back lends nobody a longer time.
"""

from collections.abc import Callable, Container, Iterable
from datetime import timedelta
from typing import Final

from policy.model import WARNINGS
from policy.naming import CommandRefused, counted
from policy.records import Checkout
from policy.rules.windows import format_duration

SECOND: Final = 1_000_000_000
OVER: Final = "over"
"""Why it came back: its time."""


class Checkouts:
    """Those that are out, in memory; the database's unique index is what makes them exclusive."""

    def __init__(
        self, out: Iterable[Checkout] = (), *, now: int = 0, clock: float = 0.0, told: Container[str] = ()
    ) -> None:
        """`told`: ids of those whose end was told of before a restart."""
        self._out: dict[tuple[str, str], Checkout] = {}
        self._deadlines: dict[str, float] = {}
        self._warnings: dict[str, list[float]] = {}  # those of WARNINGS that are still to come
        self._told: set[str] = set()
        self.wake: Callable[[], None] = lambda: None
        """Called when something that they rest on may have gone."""
        for one in out:
            # Never longer than it was given for, should the clock have been set back while we were not there.
            self.put(one, clock + max(0.0, min(one.ends - now, one.ends - one.taken) / SECOND), clock)
            if one.id in told:
                self._told.add(one.id)

    def __len__(self) -> int:
        return len(self._out)

    def put(self, one: Checkout, deadline: float, clock: float) -> None:
        """`deadline` and now, on the steady clock, in seconds."""
        assert (one.account, one.target) not in self._out, "its password is out"
        self._out[one.account, one.target] = one
        self._deadlines[one.id] = deadline
        self._warnings[one.id] = [before for before in WARNINGS if before < deadline - clock]

    def drop(self, one: Checkout) -> None:
        if (mine := self._out.get((one.account, one.target))) is not None and mine.id == one.id:
            del self._out[one.account, one.target]
            del self._deadlines[one.id], self._warnings[one.id]
            self._told.discard(one.id)

    def all(self) -> list[Checkout]:
        """Those that end first, first."""
        return sorted(self._out.values(), key=lambda one: one.ends)

    def at(self, account: str, target: str) -> Checkout | None:
        return self._out.get((account, target))

    def find(self, word: str) -> Checkout | None:
        """By id, or by ACCOUNT@TARGET."""
        account, at, target = word.rpartition("@")
        if at:
            return self.at(account, target)
        return next((one for one in self._out.values() if one.id == word), None)

    def is_over(self, one: Checkout, now: int, clock: float) -> bool:
        return one.ends <= now or self._deadlines.get(one.id, 0.0) <= clock

    def to_warn(self, now: int, clock: float) -> list[tuple[Checkout, float, bool]]:
        """Whose holder is to hear now how many seconds are left, and whether for the first time; each once."""
        found = []
        for one in self._out.values():
            coming, left = self._warnings[one.id], self._left(one, now, clock)
            due = [before for before in coming if left <= before]
            self._warnings[one.id] = [before for before in coming if before not in due]
            if due and left > 0:
                found.append((one, min(due), one.id not in self._told))
                self._told.add(one.id)
        return found

    def next_moment(self, now: int, clock: float) -> float | None:
        """Seconds until the first one is over, or is to be told of; None if none is out."""
        moments = [self._left(one, now, clock) - max(self._warnings[one.id], default=0.0) for one in self._out.values()]
        return max(0.0, min(moments)) if moments else None

    def _left(self, one: Checkout, now: int, clock: float) -> float:
        """Seconds until its end, by the clock that says so first."""
        return min((one.ends - now) / SECOND, self._deadlines[one.id] - clock)


def how_long(asked: int, *limits: timedelta | None) -> int:
    """Seconds of a checkout: those that are asked for, or the most there is. CommandRefused if it is too long."""
    most = min(limit for limit in limits if limit is not None)
    seconds = int(most.total_seconds())
    if seconds < 1:
        raise CommandRefused("there is no time left for it now", "try again within its hours", code=77)
    if asked < 0:
        raise CommandRefused(f"{counted(asked, 'second')}, want 1 or more, or 0 for the most there is")
    if asked > seconds:
        wanted, longest = format_duration(timedelta(seconds=asked)), format_duration(timedelta(seconds=seconds))
        raise CommandRefused(f"{wanted} is too long for this: at most {longest}", f"ask for less: --for {longest}")
    return asked or seconds
