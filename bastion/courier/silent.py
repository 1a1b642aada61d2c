"""Servers that gave no answer lately: asked last for a while, and never left out, since all of them may be. Pure."""

from collections.abc import Iterable
from typing import Final

SECONDS: Final = 60.0
"""For so long: each login would wait in vain for a server that is away; one that is back is used within a minute."""
MOST: Final = 64
"""Servers that are remembered; no configuration names as many."""


class Silent:
    """Times are those of the caller's clock, in seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def last(self, servers: Iterable[str], now: float) -> list[str]:
        """The same, those that were silent lately behind the others, else in their order."""
        return sorted(servers, key=lambda server: self._until.get(server, now) > now)

    def silent(self, server: str, now: float) -> None:
        if len(self._until) >= MOST:
            self._until = {name: until for name, until in self._until.items() if until > now}
        if len(self._until) < MOST:
            self._until[server] = now + SECONDS

    def answered(self, server: str) -> None:
        self._until.pop(server, None)
