"""New passwords by a policy, from random bytes that are given. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

CLASSES: Final = {
    "lower": "abcdefghijklmnopqrstuvwxyz",
    "upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "digit": "0123456789",
    "symbol": "!#%+,-./=?@^_~",
}
"""Symbols that neither a shell, nor chpasswd (`user:password`: no colon), nor a web page takes for something else."""
MIN_LENGTH: Final = 12
MAX_LENGTH: Final = 128
"""Characters; crypt(3) takes 511, but a terminal line and a dialog of PAM may not."""
MIN_BITS: Final = 60.0
"""That a guesser has to try: few classes want a longer password."""

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordPolicy:
    length: int = 24
    classes: tuple[str, ...] = ("lower", "upper", "digit", "symbol")
    symbols: str = CLASSES["symbol"]
    avoid: str = "0O1lI|"  # what people confuse when they read it to somebody

    def alphabet(self, name: str) -> str:
        letters = self.symbols if name == "symbol" else CLASSES[name]
        return "".join(letter for letter in letters if letter not in self.avoid)

    @property
    def everything(self) -> str:
        return "".join(self.alphabet(name) for name in self.classes)


def password(policy: PasswordPolicy, random: Random) -> str:
    """Uniform among all passwords of this length with at least one letter of each class."""
    letters = policy.everything
    while True:  # a password of 24 that lacks one of four classes is rare: one in ten at worst
        found = "".join(letters[_below(len(letters), random)] for _ in range(policy.length))
        if all(any(letter in policy.alphabet(name) for letter in found) for name in policy.classes):
            return found


def _below(limit: int, random: Random) -> int:
    """Uniform in 0..limit-1. A remainder alone would prefer the first letters."""
    while True:
        value = random(1)[0]
        if value < 256 - 256 % limit:
            return value % limit
