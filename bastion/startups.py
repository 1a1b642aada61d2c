"""Who may begin to log in: limits on connections that have not logged in, and penalties for sources. Pure.

As sshd's MaxStartups begin:rate:full, PerSourceMaxStartups and PerSourcePenalties (OpenSSH 9.8), per worker.
A *source* is an IPv4 address or the /64 of an IPv6 address, since that is what one customer gets.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from bastion.settings import SshSettings

MAX_SOURCES: Final = 16_384
"""Sources remembered; 4 MiB. sshd remembers 65536, for all its processes together."""

REFUSE_FROM: Final = 15.0
"""Seconds of penalty from which on a source is refused: a typing mistake is free (penalties min of sshd)."""

LONGEST: Final = 600.0
"""Seconds of penalty at most: an address behind a shared gateway must come back (penalties max of sshd)."""

OTHER: Final = "other"


class Outcome(Enum):
    """How a connection ended, and what it costs its source: seconds, as sshd.

    The costs are those of PerSourcePenalties: authfail 5, noauth 1, grace-exceeded 10, crash 90.
    """

    LOGGED_IN = 0.0
    AUTH_FAILED = 5.0
    NO_ATTEMPT = 1.0
    GRACE_EXCEEDED = 10.0
    PROTOCOL_ERROR = 20.0  # what no client sends: scanners, and those who look for a crash


class Refusal(Enum):
    """Why a connection is refused; the value is for the log, the peer is only told to come again."""

    FULL = "too many connections that have not logged in"
    CHANCE = "dropped by chance, near the limit of connections that have not logged in"
    SOURCE = "too many connections from this source that have not logged in"
    PENALTY = "this source is refused for a while after failed logins"


class Startups:
    """`random` gives numbers in [0, 1); `now` is in seconds from any fixed point and never runs backwards."""

    def __init__(self, settings: SshSettings, random: Callable[[], float]) -> None:
        self._settings = settings
        self._random = random
        self._exempt = [ip_network(network, strict=False) for network in settings.penalty_exempt]
        self._pending: Counter[str] = Counter()  # source -> connections that have not logged in
        self._total = 0
        # INVARIANT: ordered by the time of the last penalty, oldest first, at most MAX_SOURCES.
        self._until: OrderedDict[str, float] = OrderedDict()  # source -> when its penalty is over

    @property
    def pending(self) -> int:
        """Connections that have not logged in."""
        return self._total

    def admit(self, address: str, now: float) -> Refusal | None:
        """A connection from `address`: refuse it, or count it until `left`."""
        source = source_of(address)
        if self._until.get(source, 0.0) - now > REFUSE_FROM:
            return Refusal.PENALTY
        if self._pending[source] >= self._settings.startups_per_source:
            return Refusal.SOURCE
        if self._total >= self._settings.startups:
            return Refusal.FULL
        if self._random() < self._chance():
            return Refusal.CHANCE
        self._pending[source] += 1
        self._total += 1
        return None

    def left(self, address: str, now: float, outcome: Outcome) -> None:
        """A connection that was admitted has logged in or is gone. Once for each."""
        source = source_of(address)
        if self._pending[source] > 1:
            self._pending[source] -= 1
        else:
            del self._pending[source]
        self._total -= 1
        if outcome is Outcome.LOGGED_IN or not self._settings.penalties or self._is_exempt(address):
            return
        until = max(self._until.get(source, now), now) + outcome.value
        self._until[source] = min(until, now + LONGEST)
        self._until.move_to_end(source)
        self._evict(now)

    def _chance(self) -> float:
        """Probability to refuse: 0 below `startups_begin`, then from `startups_rate` percent up to all."""
        begin, full = self._settings.startups_begin, self._settings.startups
        if self._total < begin or begin >= full:
            return 0.0
        rate = self._settings.startups_rate / 100
        return rate + (1 - rate) * (self._total - begin) / (full - begin)

    def _is_exempt(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._exempt)

    def _evict(self, now: float) -> None:
        """Forget penalties that are over, and, where there are too many, those that end first of the oldest."""
        while self._until:
            source, until = next(iter(self._until.items()))
            if until > now:
                break
            del self._until[source]
        if len(self._until) > MAX_SOURCES:
            # Attack: an IPv6 sweep that fills the table to wash a source out of it. A short penalty goes first.
            oldest = [source for source, _ in zip(self._until, range(_LOOKED_AT), strict=False)]
            del self._until[min(oldest, key=self._until.__getitem__)]


_LOOKED_AT: Final = 64


def source_of(address: str) -> str:
    """The source an address belongs to. An IPv4 address written as IPv6 is the IPv4 address."""
    parsed = _parsed(address)
    if parsed is None:
        return OTHER
    if isinstance(parsed, IPv6Address):
        return str(IPv6Address(int(parsed) >> 64 << 64)) + "/64"
    return str(parsed)


def plain_source(address: str) -> str:
    """An address as policy compares it: no zone, and IPv4 as IPv4 also when it came in over IPv6."""
    parsed = _parsed(address)
    return address if parsed is None else str(parsed)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None  # a UNIX socket, or what a test passes: one source together
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
