"""What is known of the directory since policyd began: how its syncs went. `policy.ldap.sync` makes them."""

from dataclasses import dataclass, field
from typing import Final

import trio

from policy.ldap.planning import Plan, Step

CHECKS_AT_ONCE: Final = 4
"""Passwords that the directory is asked about; the courier has other things to do, too."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a sync."""

    at: float  # Unix seconds
    plan: Plan | None = None
    done: list[Step] = field(default_factory=list)
    problem: str = ""
    stopped: str = ""  # the problem, if it is that too many would lose something


@dataclass(slots=True, kw_only=True)
class Synced:
    last: Outcome | None = None  # that was carried out, or failed
    good: float | None = None  # Unix seconds of the last one that was carried out
    failures: int = 0  # in a row
    alarm: str = ""  # the event that people were told of last, until it is good again
    checks: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(CHECKS_AT_ONCE))
    turns: dict[str, trio.Lock] = field(default_factory=dict)  # of names whose password is being checked
    checking: int = 0  # of them, with those that wait
    turn: trio.Lock = field(default_factory=trio.Lock)  # one at a time: a plan is for the persons it was made of
