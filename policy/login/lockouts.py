"""Who failed too often: persons and source addresses, for a while. In memory, and in the database for a restart.

`lock_after` wrong passwords of a person, as many wrong codes, or `source_failures` from a source, within `lock_minutes`
lock that way in for `lock_minutes` from the last of them. While something is locked nothing more is counted, so nobody
can be kept out for ever.
"""

import ipaddress
from collections import deque
from collections.abc import Iterable
from typing import Final

from policy.model import PolicySettings
from policy.names import plain_address

PERSON: Final = "person"  # wrong passwords
CODE: Final = "code"  # wrong codes of a person
SOURCE: Final = "source"

MAX_SUBJECTS: Final = 50_000
"""Persons and sources remembered, some 20 MB; a botnet of more makes the longest forgotten go first."""


class Lockouts:
    """Times are Unix seconds."""

    def __init__(self, settings: PolicySettings) -> None:
        self.window: Final = 60.0 * settings.lock_minutes
        self._limits: Final = {PERSON: settings.lock_after, CODE: settings.lock_after, SOURCE: settings.source_failures}
        self._failures: dict[tuple[str, str], deque[float]] = {}
        self._until: dict[tuple[str, str], float] = {}

    def load(self, failures: Iterable[tuple[str, str, int]]) -> None:
        """What the database remembers: kind, subject, nanoseconds, oldest first."""
        for kind, subject, at in failures:
            self.count(kind, subject, at / 1e9)

    def locked_person(self, person: str, now: float) -> bool:
        return self._locked((PERSON, person), now)

    def locked_code(self, person: str, now: float) -> bool:
        return self._locked((CODE, person), now)

    def locked_source(self, source: str, now: float) -> bool:
        return self._locked((SOURCE, network_of(source)), now)

    def count(self, kind: str, subject: str, now: float) -> bool:
        """One failure; true if it is the one that locks."""
        key = (kind, subject)
        if self._locked(key, now):
            return False
        recent = self._failures.pop(key, None) or deque(maxlen=self._limits[kind])
        self._failures[key] = recent  # last in the order of forgetting
        recent.append(now)
        while recent and recent[0] <= now - self.window:
            recent.popleft()
        if len(self._failures) > MAX_SUBJECTS:
            forgotten = next(iter(self._failures))
            del self._failures[forgotten]
            self._until.pop(forgotten, None)
        if len(recent) < self._limits[kind]:
            return False
        self._until[key] = now + self.window
        recent.clear()
        return True

    def failed(self, kind: str, person: str) -> bool:
        """Whether there is anything to clear."""
        return (kind, person) in self._failures or (kind, person) in self._until

    def clear(self, kind: str, person: str) -> None:
        """A right login in the same way, or an administrator's word."""
        self._failures.pop((kind, person), None)
        self._until.pop((kind, person), None)

    def _locked(self, key: tuple[str, str], now: float) -> bool:
        until = self._until.get(key)
        if until is not None and until <= now:
            del self._until[key]
            return False
        return until is not None


def network_of(source: str) -> str:
    """What is locked: the address, or the /64 of an IPv6 one, which is what one customer holds."""
    try:
        address = plain_address(source)
    except ValueError:
        return source
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
