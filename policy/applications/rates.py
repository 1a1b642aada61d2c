"""How often somebody may ask: a token bucket each, and one word for the trail a minute. Pure.

Attack: an application that was broken into asks as fast as it can, for every name there is, and with each refusal
makes a row of the audit trail.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

DEFAULT_RATE: Final = 100
"""Reads a second of one application; most read at their start."""
MAX_RATE: Final = 10_000
BURST_SECONDS: Final = 2.0
"""What was not used for so long may be used at once: a service that starts reads all it needs."""
UNKNOWN_RATE: Final = 5.0
"""Tries a second of one source that nobody knows."""
SAY_AGAIN_SECONDS: Final = 60.0
MAX_SOURCES: Final = 4096
"""Buckets kept; the ones that were not used for longest are full again, and are forgotten first."""


class Turn(Enum):
    YES = "yes"
    NO = "no"  # and it is in the trail already
    NO_SAY_SO = "no, say so"  # the first of this minute


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    said: float = float("-inf")
    kept_back: int = 0  # refusals since it was said


class Rates:
    """`now` is monotonic, in seconds."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def take(self, key: str, rate: float, now: float) -> Turn:
        """One turn of `key`, which has `rate` a second."""
        most = max(rate * BURST_SECONDS, 1.0)
        bucket = self._buckets.pop(key, None) or _Bucket(most, now)
        self._buckets[key] = bucket  # the newest stands last
        while len(self._buckets) > MAX_SOURCES:
            del self._buckets[next(iter(self._buckets))]
        bucket.tokens = min(most, bucket.tokens + (now - bucket.at) * rate)
        bucket.at = now
        if bucket.tokens >= 1.0:
            bucket.tokens -= 1.0
            return Turn.YES
        bucket.kept_back += 1
        if now - bucket.said < SAY_AGAIN_SECONDS:
            return Turn.NO
        bucket.said = now
        return Turn.NO_SAY_SO

    def kept_back(self, key: str) -> int:
        """Refusals that no event was made of, counted anew from here."""
        bucket = self._buckets.get(key)
        if bucket is None:
            return 0
        count, bucket.kept_back = bucket.kept_back, 0
        return count
