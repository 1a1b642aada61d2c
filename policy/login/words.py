"""What happens in a login and what is to be done about it: the facts, events and effects of the dialogue. Pure."""

from dataclasses import dataclass

from policy.keys.credentials import Speaker
from policy.messages import Acceptable, Challenge, Verdict
from policy.model import Method
from policy.rules.conditions import FactorKind

# --- facts and events -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What the store knows of a person at the time of the event."""

    name: str
    disabled: bool = False
    locked: bool = False  # too many wrong passwords
    code_locked: bool = False  # too many wrong codes
    has_password: bool = False
    has_code: bool = False  # a second factor is enrolled
    fresh: bool = False  # it was shown from the same address lately enough for the place this login leads to
    needs_code: bool = False  # a second factor is demanded of this person


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`claim` is the person named in the login string, `claimed` who that is, if anybody."""

    claim: str
    claimed: Person | None
    now: float  # Unix seconds
    source_locked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOffered(Asked):
    owner: Person | None  # whose key or certificate it is


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyProven(Asked):
    owner: Person | None
    valid: bool  # the signature holds, for this session, with the verification that the key demands
    kind: FactorKind = FactorKind.KEY  # or CERTIFICATE or VERIFIED_KEY
    flaw: str = ""  # for the audit trail when it is not valid
    speaker: Speaker | None = None  # limits of a certificate
    joins: bool = False  # the key is nobody's yet, and becomes the owner's by an invitation


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyJoined:
    """Answers JoinKey; `ok` only if the invitation was used up and the key kept, both by compare-and-set."""

    ok: bool
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShown(Asked):
    owner: Person | None  # whom it logs in; None: it is no token, or not any more


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordTried(Asked):
    size: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordChecked:
    """Answers VerifyPassword or BurnPassword. `flaw`: why it was not checked; then nobody is locked for it."""

    ok: bool
    now: float
    flaw: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeAsked(Asked):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeAnswered(Asked):
    person: Person | None  # who is proven so far (`Login.person`), looked up anew
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeChecked:
    """Answers VerifyCode; `ok` only if the code fitted and was used up by compare-and-set.

    `question`: whoever checks codes wants another answer first (RFC 2865 section 4.4).
    """

    ok: bool
    now: float
    question: str = ""


Result = KeyJoined | PasswordChecked | CodeChecked
Event = KeyOffered | KeyProven | TokenShown | PasswordTried | CodeAsked | CodeAnswered | Result


# --- effects ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    message: Acceptable | Challenge | Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyPassword:
    """Check the password that was tried against this person's hash, then report PasswordChecked."""

    person: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnPassword:
    """Check the password against a dummy hash, so that it takes as long, then report PasswordChecked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyCode:
    """Check the code, use it up, then report CodeChecked. `again`: it answers CodeChecked.question."""

    person: str
    code: str
    again: bool = False

    def __repr__(self) -> str:
        return f"VerifyCode({self.person})"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinKey:
    """Use up the invitation and make the key that was proven this person's, then report KeyJoined."""

    person: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """For the audit trail and the lock-outs: each counts for its source, `counts` says whether for the person too.

    Only guesses count for a person. A stranger's key or a code nobody asked for must not lock somebody out.
    """

    person: str  # as claimed or proven; "" for nobody
    method: Method
    reason: str
    counts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    person: str
    factors: tuple[FactorKind, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Take nothing more from this conversation."""


Effect = Reply | VerifyPassword | BurnPassword | VerifyCode | JoinKey | Failed | Succeeded | Close


class OutOfOrder(Exception):
    """A result was reported that nobody waits for: a bug of the caller's."""
