"""Commands on rotations: what would be changed, change it, and what became of it."""

from policy.messages.base import Message


class RotationPlan(Message):
    """Accounts with the [[rotation]] entry that changes them, and when: those named, or with these labels, or all.

    A list in pages, as every one.
    """

    places: list[str] = []  # ACCOUNT@TARGET
    labels: dict[str, str] = {}
    after: str = ""
    limit: int = 0


class Rotate(Message):
    """Have these changed now. Rows: account, target, rotation, state; what became of them says RotationList."""

    places: list[str]  # ACCOUNT@TARGET
    reason: str = ""


class RotationList(Message):
    """Rotations, newest first; those with these ids, or of this place; without `all` those that are not ended."""

    ids: list[str] = []
    place: str = ""
    all: bool = False
    after: str = ""
    limit: int = 0
