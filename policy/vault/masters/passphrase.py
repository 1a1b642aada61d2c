"""A passphrase that a person types after each start: argon2id (RFC 9106) makes the wrapping key of it.

Nothing on the machine opens the vault then, so whoever takes disk and backups along has a password to guess at 256 MiB
a try. The price is that policyd starts locked (`policy.vault.unlocking`).
"""

import secrets
import struct
import unicodedata
from dataclasses import dataclass
from typing import Final, Self

import trio
from argon2.low_level import ARGON2_VERSION, Type, hash_secret_raw

from policy.vault.masters import wrapping
from policy.vault.secret import KEY_BYTES, NotYet, Secret, VaultError, WrongPassphrase

SHORTEST: Final = 12
"""Characters. Asked of new ones; six words of a list have 25."""
LONGEST: Final = 1024
"""Characters; what is read for a password anywhere here."""
UNLOCK: Final = "run: bastion vault unlock"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one derivation takes. Kept beside the wrapped key, so that later versions may ask for more."""

    mebibytes: int = 256
    passes: int = 3
    lanes: int = 1
    salt: bytes = b""

    LAYOUT = struct.Struct(">HBB16s")
    MOST_MEBIBYTES = 512  # policyd's unit has 1 GiB
    MOST_PASSES = 16

    def encoded(self) -> bytes:
        return self.LAYOUT.pack(self.mebibytes, self.passes, self.lanes, self.salt)

    @classmethod
    def decoded(cls, data: bytes) -> Self:
        """VaultError for what nobody here wrote. Attack: a row that asks for all memory, before any tag says no."""
        if len(data) != cls.LAYOUT.size:
            raise VaultError("wrapped root key: it is damaged", "restore the database from a backup")
        cost = cls(*cls.LAYOUT.unpack(data))
        if not (8 <= cost.mebibytes <= cls.MOST_MEBIBYTES and 1 <= cost.passes <= cls.MOST_PASSES and cost.lanes == 1):
            raise VaultError("wrapped root key: its cost is out of range", "restore the database from a backup")
        return cost


class PassphraseMaster:
    """Holds what it derived from then on, since a vault that is re-keyed while it runs asks nobody again."""

    kind = "passphrase"

    def __init__(self, cost: Cost | None = None) -> None:
        self._cost = cost or Cost()
        self._passphrase: Secret | None = None
        self._derived: dict[bytes, Secret] = {}  # by their parameters

    def supply(self, passphrase: Secret) -> None:
        """What a person typed, UTF-8. Any number of times: the newest counts."""
        self._passphrase, self._derived = _normalised(passphrase), {}

    async def make(self) -> list[str]:
        """Nothing is kept; VaultError for one that is missing or can be guessed."""
        if self._passphrase is None:
            raise VaultError("the vault has no passphrase yet", "give it on standard input: --passphrase-stdin")
        if len(self._passphrase.reveal().decode()) < SHORTEST:
            raise VaultError(
                f"the passphrase is shorter than {SHORTEST} characters", "take six words that chance has chosen"
            )
        return ["vault behind a passphrase: keep it where people find it, without it every secret is lost"]

    async def wrap(self, root: Secret, bound: bytes) -> bytes:
        """Under the key that opened the vault, or one of a new salt."""
        parameters = next(iter(self._derived), None)
        if parameters is None:
            cost = Cost(self._cost.mebibytes, self._cost.passes, self._cost.lanes, secrets.token_bytes(16))
            parameters = cost.encoded()
            await self._derive(parameters)
        return wrapping.wrap(wrapping.PASSPHRASE, self._derived[parameters], root, bound, parameters)

    async def unwrap(self, wrapped: bytes, bound: bytes) -> Secret:
        """WrongPassphrase, or NotYet as long as nobody has given one."""
        parameters = wrapping.read_parameters(wrapping.PASSPHRASE, wrapped)
        if parameters not in self._derived:
            await self._derive(parameters)
        root = wrapping.unwrap(wrapping.PASSPHRASE, self._derived[parameters], wrapped, bound)
        if root is None:
            self._passphrase, self._derived = None, {}
            raise WrongPassphrase("the passphrase is wrong", "try again: bastion vault unlock")
        return root

    async def _derive(self, parameters: bytes) -> None:
        cost, passphrase = Cost.decoded(parameters), self._passphrase
        if passphrase is None:
            raise NotYet("the vault is locked: it waits for its passphrase", UNLOCK)
        self._derived[parameters] = Secret(await trio.to_thread.run_sync(_argon2, passphrase, cost))

    def forget_passphrase(self) -> None:
        """Once the vault is open; what was derived from it is enough."""
        self._passphrase = None


def _argon2(passphrase: Secret, cost: Cost) -> bytes:
    return hash_secret_raw(
        passphrase.reveal(), cost.salt, time_cost=cost.passes, memory_cost=cost.mebibytes * 1024,
        parallelism=cost.lanes, hash_len=KEY_BYTES, type=Type.ID, version=ARGON2_VERSION,
    )  # fmt: skip


def _normalised(passphrase: Secret) -> Secret:
    """NFC: keyboards write `ü` as one character or two, and people do not know which."""
    try:
        text = passphrase.reveal().decode()
    except UnicodeDecodeError:
        raise VaultError("the passphrase is not UTF-8", "type it in a terminal that is") from None
    if not 0 < len(text) <= LONGEST:
        raise VaultError(f"the passphrase has {len(text)} characters, want 1 to {LONGEST}")
    return Secret(unicodedata.normalize("NFC", text).encode())
