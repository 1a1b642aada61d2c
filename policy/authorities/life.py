"""How a certificate authority comes and goes. Pure.

    next      made, shown to those who will trust it, signs nothing
    current   signs; one of each use
    retiring  signs no more, and is trusted still: targets and clients that do not know the new one yet go on
    retired   over, and listed as revoked; its private key is destroyed, its public one stays for the list and the trail

`rotate` makes a next, `rotate --promote` puts it in force, `retire` ends what is retiring, or a next that is not
wanted. One of each at most, but for those that are retired: an overlap of three would hide that nobody cleaned up.
Both authorities of one use are versions of one secret; their stages are the states of these versions, so that the
register of the vault vouches for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from policy.errors import PolicyError
from policy.keys.sshkeys import PrivateKey, PublicKey


class Use(StrEnum):
    USER = "user"  # certificates by which the bastion logs in to targets
    HOST = "host"  # certificates by which clients of `ssh -J` know targets


class Stage(StrEnum):
    NEXT = "next"
    CURRENT = "current"
    RETIRING = "retiring"
    RETIRED = "retired"


SECRETS: Final = {Use.USER: "user-ca", Use.HOST: "host-ca"}
"""Names of the secrets."""
TRUSTED: Final = frozenset({Stage.NEXT, Stage.CURRENT, Stage.RETIRING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ca:
    """One authority. Times are nanoseconds; `since` it signed, `until` it was trusted."""

    use: Use
    number: int  # version of the secret
    stage: Stage
    public: PublicKey
    key: PrivateKey | None = field(repr=False)  # None: it is retired, and its key destroyed
    made: int
    since: int | None = None
    until: int | None = None

    @property
    def name(self) -> str:
        """`user-2`: what commands and events call it."""
        return f"{self.use}-{self.number}"

    @property
    def private(self) -> PrivateKey:
        """The key of one that is not retired."""
        assert self.key is not None, "a retired authority signs nothing"
        return self.key


class NotNow(PolicyError):
    """The step does not fit the stage; the hint is the command that does."""


@dataclass(frozen=True, slots=True)
class Authorities:
    """All of them, oldest first; replaced as a whole when one changes."""

    all: tuple[Ca, ...]
    _signing: dict[Use, Ca] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        signing = {ca.use: ca for ca in self.all if ca.stage is Stage.CURRENT}
        object.__setattr__(self, "_signing", signing)

    def signing(self, use: Use) -> Ca:
        """The one that is in force. KeyError if there is none, which `keeping.load` does not let happen."""
        return self._signing[use]

    def trusted(self, use: Use) -> tuple[Ca, ...]:
        """Those whose lines targets, or clients, should have: the one in force first."""
        mine = [ca for ca in self.all if ca.use is use and ca.stage in TRUSTED]
        return tuple(sorted(mine, key=lambda ca: (ca.stage is not Stage.CURRENT, ca.number)))

    def at(self, use: Use, stage: Stage) -> Ca | None:
        return next((ca for ca in self.all if ca.use is use and ca.stage is stage), None)


def next_number(cas: Authorities, use: Use) -> int:
    """The number of a new one. NotNow while there is one that waits."""
    if (waiting := cas.at(use, Stage.NEXT)) is not None:
        raise NotNow(
            f"`{waiting.name}` is made already, and waits",
            f"when {_who(use)} have its line: bastion ca rotate {use} --promote; or: bastion ca retire {waiting.name}",
        )
    return max(ca.number for ca in cas.all if ca.use is use) + 1


def may_promote(cas: Authorities, use: Use) -> None:
    """NotNow while the one before the present one is trusted still."""
    if (old := cas.at(use, Stage.RETIRING)) is not None:
        raise NotNow(f"`{old.name}` is trusted still", f"end it first: bastion ca retire {old.name} --reason why")


def to_promote(cas: Authorities, use: Use) -> Ca:
    """The one that comes into force. NotNow if there is none, or an old one is in the way."""
    if (waiting := cas.at(use, Stage.NEXT)) is None:
        raise NotNow(f"there is no next {use} authority", f"make it: bastion ca rotate {use}")
    may_promote(cas, use)
    return waiting


def to_retire(cas: Authorities, name: str) -> Ca:
    """The one that ends. NotNow for the one that signs, and for what is over or unknown."""
    found = next((ca for ca in cas.all if ca.name == name), None)
    if found is None or found.stage is Stage.RETIRED:
        what = "is retired already" if found else "does not exist"
        raise NotNow(f"authority `{name[:32]}` {what}", "see: bastion ca show")
    if found.stage is Stage.CURRENT:
        # Attack, or slip: nothing could be signed any more, and nobody would get in anywhere.
        raise NotNow(
            f"`{name}` is the one that signs", f"put another in its place first: bastion ca rotate {found.use}"
        )
    return found


def lines(cas: Authorities, uses: Sequence[Use]) -> list[list[str]]:
    """Rows of where a line belongs, and the line: for clients, and for targets."""
    rows: list[list[str]] = []
    if Use.HOST in uses:
        rows += [
            ["client known_hosts", f"@cert-authority * {ca.public.line(f'bastion-{ca.name}')}"]
            for ca in cas.trusted(Use.HOST)
        ]
    if Use.USER in uses:
        rows += [["target TrustedUserCAKeys", ca.public.line(f"bastion-{ca.name}")] for ca in cas.trusted(Use.USER)]
        rows += [["target sshd_config", line] for line in SSHD_CONFIG]
    return rows


SSHD_CONFIG: Final = (
    "TrustedUserCAKeys /etc/ssh/bastion_user_ca.pub",
    "RevokedKeys /etc/ssh/bastion_revoked.krl",
)
"""sshd lets nobody in by key while the second file cannot be read: `bastion ca krl --to` makes it, first."""


def _who(use: Use) -> str:
    return "targets" if use is Use.USER else "clients"
