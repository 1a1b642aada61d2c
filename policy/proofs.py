"""How long ago a person showed a second factor, for rules like `mfa = "15m"`.

Remembered per person and source address, in memory alone: after a restart everybody is asked again. A thief of a key
at another address gains nothing from the owner's code.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from policy.conditions import SECOND_FACTORS, Factor, FactorKind

MAX_REMEMBERED: Final = 20_000
"""(person, address) pairs, some 5 MB; the longest unused go first."""

Proven = Iterable[tuple[FactorKind, float]]


class Proofs:
    """Times are of trio's clock."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], dict[FactorKind, float]] = {}

    def remember(self, person: str, source: str, factors: Proven) -> None:
        for kind, at in factors:
            if kind in SECOND_FACTORS:
                known = self._seen.pop((person, source), {})
                known[kind] = max(at, known.get(kind, at))
                self._seen[person, source] = known
        if len(self._seen) > MAX_REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def forget(self, person: str) -> None:
        """Its second factor was taken away, or the person was."""
        for key in [key for key in self._seen if key[0] == person]:
            del self._seen[key]

    def factors(self, person: str, source: str, here: Proven, now: float) -> tuple[Factor, ...]:
        """Those of this connection, and what is remembered from others; ages count to `now`."""
        found = [Factor(kind=kind, age=timedelta(seconds=max(0.0, now - at))) for kind, at in here]
        found += [
            Factor(kind=kind, age=timedelta(seconds=now - at), here=False)
            for kind, at in self._seen.get((person, source), {}).items()
            if at <= now
        ]
        return tuple(found)
