"""Password hashes: argon2id, in threads, few at a time; an unknown person costs as much as a known one."""

import functools
from typing import Final

import trio
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from policy.vault.secret import Secret

_HASHER: Final = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)
"""RFC 9106 section 4, second choice, with one lane: about 0.1 s and 64 MiB each."""

AT_ONCE: Final = 2
"""Hashes under way: 128 MiB, whatever the number of strangers that try passwords."""

WAITING: Final = 64
"""Tries that may wait for a turn; a longer queue outlasts the time a login may take."""


class Busy(Exception):
    """Too many passwords are being tried; treat it as a wrong one."""


class Passwords:
    """Hashing and checking within the limits above."""

    def __init__(self) -> None:
        self._turns = trio.CapacityLimiter(AT_ONCE)

    async def hash(self, password: Secret) -> str:
        """A PHC string."""
        return await trio.to_thread.run_sync(lambda: _HASHER.hash(password.reveal()), limiter=self._turns)

    async def check(self, phc: str, password: Secret) -> bool:
        """Whether it fits; with an empty `phc` the same work for the answer no. Busy if too many wait."""
        if self._turns.statistics().tasks_waiting >= WAITING:
            raise Busy
        return await trio.to_thread.run_sync(lambda: _check(phc, password), limiter=self._turns)


def _check(phc: str, password: Secret) -> bool:
    try:
        return _HASHER.verify(phc or _dummy(), password.reveal()) and bool(phc)
    except (Argon2Error, InvalidHashError):
        return False


@functools.cache
def _dummy() -> str:
    """A hash that nothing fits, of the same cost as a real one."""
    return _HASHER.hash(b"\0 nobody")
