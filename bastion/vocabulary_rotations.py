"""What can be said about rotations. Pure. Many at once: `bastion vault rotate`, on the bastion itself."""

from typing import Final

from bastion.words import ALL, Given, Option, Takes, Word
from policy.messages import Rotate, RotationList, RotationPlan

_WHY: Final = Option("--reason", "the audit trail keeps it", Takes.TEXT, "TEXT")


def _rotate(given: Given) -> Rotate:
    return Rotate(places=["@".join(given.place())], reason=given.text("--reason"))


ROTATIONS: Final = (
    Word(name="account rotate", arguments="ACCOUNT@TARGET", about="change its password or key now (owners)",
         ask=_rotate, options=(_WHY,)),
    Word(name="vault rotations", arguments="[ACCOUNT@TARGET]", about="secrets that are being changed (owners)",
         ask=lambda given: RotationList(place=given.word(0), all=given.has("--all")), options=(ALL,), here=True),
    Word(name="vault rotating", arguments="[ACCOUNT@TARGET]", about="which secrets change how, and when (owners)",
         ask=lambda given: RotationPlan(places=list(given.rest[:1])), here=True),
)  # fmt: skip
