"""What is due when, and what may run beside what. Pure: times are nanoseconds since the epoch, and given."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from policy.records import Account, RotationRow, Target
from policy.rotation.plan import ENDED, State
from policy.rotation.settings import Entry

SECOND: Final = 1_000_000_000
SPREAD: Final = 0.2
"""Of `every`: ten thousand accounts that were added in one hour are not all changed in one hour."""
FIRST_WAIT: Final = 60.0
LONGEST_WAIT: Final = 6 * 3600.0
"""Seconds between tries. The first is soon, since a target that restarts is back in a minute; the last is rare enough
not to fill a target's log, or to lock its account."""
USER_CA: Final = "user-ca"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An account, with what decides how it is changed."""

    account: Account
    target: Target

    @property
    def key(self) -> tuple[str, str]:
        return self.target.name, self.account.name


def entry_for(entries: Sequence[Entry], place: Place) -> Entry | None:
    """The first one that fits; None for accounts that have nothing to change."""
    if place.account.kind == USER_CA:
        return None
    return next((entry for entry in entries if _fits(entry, place)), None)


def unfit(entry: Entry, place: Place, accounts: Iterable[Account]) -> str:
    """Why this account cannot be changed by its entry; "" if it can."""
    if entry.via and entry.via == place.account.name:
        return ""  # it changes itself
    if entry.via and all(one.name != entry.via for one in accounts):
        return f"there is no account `{entry.via}@{place.target.name}` that could change it"
    if place.account.kind == "key" and entry.driver not in ("ssh", "script"):
        return f"a key is not changed by `{entry.driver}`"
    return ""


def due_at(entry: Entry, place: Place, made: int) -> int | None:
    """When the secret that was made then has to be changed; None: never for its age."""
    if entry.every is None:
        return None
    digest = hashlib.sha256(f"{place.target.name} {place.account.name}".encode()).digest()
    part = int.from_bytes(digest[:4]) / 2**32
    return made + int(entry.every * (1 - SPREAD * part) * SECOND)


def next_try(row: RotationRow) -> int:
    """The earliest time of its next run."""
    if not row.attempts:
        return row.began
    wait = min(FIRST_WAIT * 4.0 ** min(row.attempts - 1, 16), LONGEST_WAIT)
    return row.changed + int(wait * SECOND)


def runnable(
    rows: Sequence[RotationRow], entries: Mapping[tuple[str, str], Entry], now: int, *, busy: Iterable[str],
    running: Mapping[str, int], pressed: frozenset[str] = frozenset(),
) -> list[RotationRow]:  # fmt: skip
    """Those to start now. `busy`: targets at which one is under way; `running`: how many of each entry are.

    `pressed`: ids that somebody asked for anew, whose waiting is over.

    What a crash or doubt left behind comes first. One at a time on each target; and an account that changes others is
    left alone while one of those is to be changed or in doubt, so that never both of a pair are in doubt.
    """
    taken = set(busy)
    counts = dict(running)
    open_rows = [row for row in rows if State(row.state) not in ENDED]
    changers = {
        (row.target, via)
        for row in open_rows
        if (via := _via(row, entries)) != row.account and (row.state != State.WANTED or not row.attempts)
    }
    doubtful = {row.place for row in open_rows if row.state != State.WANTED}
    found: list[RotationRow] = []
    for row in sorted(open_rows, key=lambda one: (one.state == State.WANTED, one.began, one.id)):
        entry = entries.get(row.place)
        if row.target in taken or (row.id not in pressed and next_try(row) > now):
            continue
        if row.state == State.WANTED and row.place in changers:
            continue
        if (row.target, _via(row, entries)) in doubtful - {row.place}:
            continue  # who would change it is itself in doubt
        if entry is not None:
            if counts.get(entry.name, 0) >= entry.at_once:
                continue
            counts[entry.name] = counts.get(entry.name, 0) + 1
        taken.add(row.target)
        found.append(row)
    return found


def wake_at(rows: Iterable[RotationRow], now: int) -> int | None:
    """When the next one that waits for its time may run."""
    return min((at for row in rows if (at := next_try(row)) > now), default=None)


def _via(row: RotationRow, entries: Mapping[tuple[str, str], Entry]) -> str:
    entry = entries.get(row.place)
    return (entry.via if entry is not None else "") or row.account


def _fits(entry: Entry, place: Place) -> bool:
    labels = place.target.labels
    if entry.targets and not any(fnmatchcase(place.target.name, pattern) for pattern in entry.targets):
        return False
    for name, values in entry.labels:
        value = labels.get(name)
        if value is None or not (value in values or "*" in values):
            return False
    return "*" in entry.accounts or place.account.name in entry.accounts
