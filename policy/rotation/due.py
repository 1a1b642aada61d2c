"""What the rest of policyd asks of rotations."""

from typing import Protocol


class Rotations(Protocol):
    """What changes secrets on targets."""

    def covers(self, account: str, target: str) -> bool:
        """Whether this account's secret is changed after a checkout."""
        ...

    async def due(self, account: str, target: str, why: str) -> None:
        """Change it as soon as may be, and keep that on disk. Said again for what is due already, nothing new."""
        ...

    def used(self, account: str, target: str) -> None:
        """A person's session on it has ended."""
        ...

    async def settled(self, account: str, target: str) -> None:
        """Wait, for some seconds at most, while it is being changed: the secret in force may be another then."""
        ...

    def in_doubt(self, account: str, target: str) -> bool:
        """Whether it is not known if the secret in force opens: the target may have been told another."""
        ...


class NoRotations:
    """Where nothing is changed on targets."""

    def covers(self, account: str, target: str) -> bool:
        return False

    async def due(self, account: str, target: str, why: str) -> None:
        """Nobody does it."""

    def used(self, account: str, target: str) -> None:
        """Nobody looks."""

    async def settled(self, account: str, target: str) -> None:
        """It is."""

    def in_doubt(self, account: str, target: str) -> bool:
        return False
