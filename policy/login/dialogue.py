"""The authentication of one conversation: first factor, then a code, then a person. Pure.

The caller looks up the facts, puts them into an event (`policy.login.words`), and carries out the effects of `step`, in
order.

    phase              KeyOffered   KeyProven     PasswordTried  PasswordChecked  CodeAsked  CodeAnswered   CodeChecked
    FRESH              acceptable?  HALFWAY|DONE  PASSWORD       misuse           refused    refused        misuse
    JOINING            CLOSED       CLOSED        CLOSED         misuse           CLOSED     CLOSED         misuse
    CHECKING_PASSWORD  CLOSED       CLOSED        CLOSED         HALFWAY|DONE     CLOSED     CLOSED         misuse
    HALFWAY            refused      refused       refused        misuse           ASKED      refused        misuse
    ASKED              HALFWAY      HALFWAY       HALFWAY        misuse           ASKED      CHECKING_CODE  misuse
    CHECKING_CODE      CLOSED       CLOSED        CLOSED         misuse           CLOSED     CLOSED         see below
    DONE               CLOSED       CLOSED        CLOSED         misuse           CLOSED     CLOSED         misuse
    CLOSED             CLOSED       CLOSED        CLOSED         CLOSED           CLOSED     CLOSED         CLOSED

CodeChecked leads to DONE, to HALFWAY, or to ASKED when there is a further question, at most MAX_QUESTIONS in a row.
KeyProven with an invitation leads to JOINING, where KeyJoined alone is awaited: HALFWAY|DONE, or FRESH.
TokenShown is taken in FRESH alone, and leads to DONE: a token was made by somebody who showed what is asked for.

A code follows the first factor of everybody who has one enrolled, unless it was shown lately (`Person.fresh`), or the
key verified its owner, which is a second factor in itself. Who has none though one is demanded gets in to enrol one,
and to nothing else (`Login.limited`). `step_up` asks a person who is in for a newer code, in the same way.

Whatever the phase: a source that is locked out, a claim of another person after the first factor, the sixth failure and
the 64th request lead to CLOSED. A refusal says the same of an unknown person, of a disabled or locked one and of a
wrong key or password, and a password costs a hash for each of them.

A lock keeps from guessing and from nothing else: wrong passwords, which anybody can send, lock the person's password;
wrong codes, which only a holder of the first factor can send, lock the person's code. Keys go on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, cast

from policy.keys.credentials import Speaker
from policy.login.words import Asked as Asked
from policy.login.words import BurnPassword as BurnPassword
from policy.login.words import Close as Close
from policy.login.words import CodeAnswered as CodeAnswered
from policy.login.words import CodeAsked as CodeAsked
from policy.login.words import CodeChecked as CodeChecked
from policy.login.words import Effect as Effect
from policy.login.words import Event as Event
from policy.login.words import Failed as Failed
from policy.login.words import JoinKey as JoinKey
from policy.login.words import KeyJoined as KeyJoined
from policy.login.words import KeyOffered as KeyOffered
from policy.login.words import KeyProven as KeyProven
from policy.login.words import OutOfOrder as OutOfOrder
from policy.login.words import PasswordChecked as PasswordChecked
from policy.login.words import PasswordTried as PasswordTried
from policy.login.words import Person as Person
from policy.login.words import Reply as Reply
from policy.login.words import Result as Result
from policy.login.words import Succeeded as Succeeded
from policy.login.words import TokenShown as TokenShown
from policy.login.words import VerifyCode as VerifyCode
from policy.login.words import VerifyPassword as VerifyPassword
from policy.messages import Acceptable, Challenge, Verdict
from policy.model import Method, Outcome
from policy.rules.conditions import SECOND_FACTORS, FactorKind

MAX_FAILURES: Final = 6  # per connection, as sshd's MaxAuthTries
MAX_REQUESTS: Final = 64  # acceptable offers are no failures, but they are not for ever
MAX_PASSWORD: Final = 1024  # bytes given to argon2; more is no password but an attack
MAX_CODE: Final = 64  # characters; a one-time password has 6
MAX_QUESTIONS: Final = 3  # of a RADIUS server about one code; a new PIN, and the PIN once more
MAX_PROMPT: Final = 255  # characters of such a question

PROMPT: Final = "one-time code: "
_FIRST: Final = [Method.PUBLIC_KEY, Method.PASSWORD]
_SECOND: Final = [Method.CODE]


class Phase(Enum):
    FRESH = "fresh"
    JOINING = "joining"
    CHECKING_PASSWORD = "checking password"
    HALFWAY = "halfway"
    ASKED = "asked"
    CHECKING_CODE = "checking code"
    DONE = "done"
    CLOSED = "closed"


# --- the machine ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """State of one conversation. `person` is who is proven so far; trust it for decisions when `done` only."""

    phase: Phase = Phase.FRESH
    failures: int = 0
    requests: int = 0
    person: str = ""
    claim: str = ""  # of the first factor
    factors: tuple[tuple[FactorKind, float], ...] = ()  # and when each was proven, Unix seconds
    speaker: Speaker | None = None  # limits that a certificate brought along
    trying: Person | None = None  # whose password, code or invitation is being checked
    kind: FactorKind = FactorKind.KEY  # of the key that joins
    questions: int = 0  # asked about the present code
    limited: bool = False  # may enrol a second factor, and nothing else

    @property
    def done(self) -> bool:
        return self.phase is Phase.DONE


Step = tuple[Login, tuple[Effect, ...]]


def step_up(login: Login) -> Login:
    """Where a person who is in shows a newer code: half way again, with the failures of the former try."""
    failures = 0 if login.done else login.failures
    return replace(login, phase=Phase.HALFWAY, failures=failures, requests=0, questions=0, trying=None)


def step(login: Login, event: Event) -> Step:
    """The next state and what to do. OutOfOrder if the caller reports a result that was not asked for."""
    if login.phase is Phase.CLOSED:
        return _closed(login, event)
    if isinstance(event, Result):
        if login.phase is not _AWAITED[type(event)]:
            raise OutOfOrder(f"{type(event).__name__} in phase `{login.phase.value}`")
        match event:
            case PasswordChecked():
                return _password_checked(login, event)
            case KeyJoined():
                return _key_joined(login, event)
            case CodeChecked():
                return _code_checked(login, event)
    login = replace(login, requests=login.requests + 1)
    if login.phase in (*_AWAITED.values(), Phase.DONE):
        # A request beside another one is how state is confused between awaits (CVE-2023-46446).
        return _cut(login, event, f"request while `{login.phase.value}`")
    if event.source_locked:
        return _cut(login, event, "source is locked out")
    if login.requests > MAX_REQUESTS:
        return _cut(login, event, f"more than {MAX_REQUESTS} requests")
    if login.person and event.claim not in ("", login.claim, login.person):
        # x/crypto b25012b: a partial success of one person must not be continued by another.
        return _cut(login, event, "continued as another person")
    respond = _TABLE.get((login.phase, type(event)), _unasked)
    return respond(login, event)


def _key_offered(login: Login, event: KeyOffered) -> Step:
    if reason := _objection(event.owner, event):
        return _fail(login, event, reason)
    return login, (Reply(message=Acceptable(ok=True)),)


def _key_proven(login: Login, event: KeyProven) -> Step:
    if reason := _objection(event.owner, event):
        return _fail(login, event, reason)
    if not event.valid:
        return _fail(login, event, event.flaw or "signature is wrong")
    owner = cast("Person", event.owner)
    if event.joins:
        login = replace(login, phase=Phase.JOINING, trying=owner, claim=event.claim, kind=event.kind)
        return login, (JoinKey(person=owner.name),)
    return _first_factor(replace(login, claim=event.claim), owner, event.kind, event.speaker, event.now)


def _key_joined(login: Login, event: KeyJoined) -> Step:
    person = cast("Person", login.trying)
    login = replace(login, phase=Phase.FRESH, trying=None)
    if not event.ok:
        return _fail(login, event, "invitation is used or over, or the key is another's", name=person.name)
    return _first_factor(login, person, login.kind, None, event.now)


def _token_shown(login: Login, event: TokenShown) -> Step:
    if event.owner is None:
        return _fail(login, event, "token is not known, or over")
    if reason := _objection(event.owner, event):
        return _fail(login, event, reason)
    factors = ((FactorKind.TOKEN, event.now),)
    return _finish(replace(login, person=event.owner.name, claim=event.claim, factors=factors))


def _objection(owner: Person | None, event: Asked) -> str:
    if owner is None:
        return "key is not known"
    if event.claimed is not None and event.claimed.name != owner.name:
        return f"key or token of `{owner.name}` with the name of another person"
    return "person is disabled" if owner.disabled else ""


def _unusable(person: Person, *, locked: bool) -> str:
    return "person is disabled" if person.disabled else "person is locked out" if locked else ""


def _password_tried(login: Login, event: PasswordTried) -> Step:
    if not 0 < event.size <= MAX_PASSWORD:
        return _fail(login, event, f"password of {event.size} bytes")
    login = replace(login, phase=Phase.CHECKING_PASSWORD, claim=event.claim, trying=event.claimed)
    person = event.claimed
    if person is None or not person.has_password or _unusable(person, locked=person.locked):
        return login, (BurnPassword(),)
    return login, (VerifyPassword(person=person.name),)


def _password_checked(login: Login, event: PasswordChecked) -> Step:
    person, login = login.trying, replace(login, phase=Phase.FRESH, trying=None)
    if person is None:
        return _fail(login, event, "person is not known", name=login.claim)
    if reason := _unusable(person, locked=person.locked):
        return _fail(login, event, reason, name=person.name)
    if not person.has_password:
        return _fail(login, event, "person has no password", name=person.name)
    if event.flaw:
        return _fail(login, event, event.flaw, name=person.name)
    if not event.ok:
        return _fail(login, event, "password is wrong", name=person.name, counts=True)
    return _first_factor(login, person, FactorKind.PASSWORD, None, event.now)


def _first_factor(login: Login, person: Person, kind: FactorKind, speaker: Speaker | None, now: float) -> Step:
    proven = replace(login, person=person.name, factors=((kind, now),), speaker=speaker)
    if kind in SECOND_FACTORS:
        return _finish(proven)
    if person.has_code and not person.fresh:
        return replace(proven, phase=Phase.HALFWAY), (_verdict(Outcome.MORE, _SECOND),)
    return _finish(replace(proven, limited=person.needs_code and not person.has_code))


def _code_asked(login: Login, event: CodeAsked) -> Step:
    if login.phase is Phase.ASKED:
        # RFC 4256 section 3.1: a new request abandons the old; it counts, or prompts could go on for ever.
        login, effects = _fail(login, event, "challenge was abandoned")
        if login.phase is Phase.CLOSED:
            return login, effects
        note = tuple(effect for effect in effects if not isinstance(effect, Reply))
        return replace(login, phase=Phase.ASKED), (*note, _challenge())
    return replace(login, phase=Phase.ASKED, questions=0), (_challenge(),)


def _code_answered(login: Login, event: CodeAnswered) -> Step:
    person = event.person
    if person is None or person.name != login.person:
        return _fail(login, event, "person is gone")
    if reason := _unusable(person, locked=person.code_locked):
        return _fail(login, event, reason)
    if len(event.answers) != 1:
        return _fail(login, event, f"{len(event.answers)} answers to one question")
    code = event.answers[0].strip(" ")
    if not 0 < len(code) <= MAX_CODE:
        return _fail(login, event, "answer is empty or too long")
    login = replace(login, phase=Phase.CHECKING_CODE, trying=person)
    return login, (VerifyCode(person=person.name, code=code, again=login.questions > 0),)


def _code_checked(login: Login, event: CodeChecked) -> Step:
    if event.question and not event.ok and login.questions < MAX_QUESTIONS:
        login = replace(login, phase=Phase.ASKED, trying=None, questions=login.questions + 1)
        return login, (_challenge(event.question[:MAX_PROMPT]),)
    login = replace(login, phase=Phase.HALFWAY, trying=None)
    if not event.ok:
        return _fail(login, event, "code is wrong or used", counts=True)
    return _finish(replace(login, factors=(*login.factors, (FactorKind.CODE, event.now))))


def _unasked(login: Login, event: Event) -> Step:
    return _fail(login, event, f"{type(event).__name__} while `{login.phase.value}`")


def _finish(login: Login) -> Step:
    factors = tuple(kind for kind, _ in login.factors)
    return replace(login, phase=Phase.DONE), (
        Succeeded(person=login.person, factors=factors),
        Reply(message=Verdict(outcome=Outcome.DONE, person=login.person)),
    )


def _fail(login: Login, event: Event, reason: str, *, name: str = "", counts: bool = False) -> Step:
    """One failure more, and back to where the next attempt begins; the reply does not depend on the reason."""
    login = replace(
        login, failures=login.failures + 1, phase=Phase.HALFWAY if login.person else Phase.FRESH, trying=None,
        questions=0,
    )  # fmt: skip
    failed = Failed(
        person=name or login.person or _named(event), method=_METHOD[type(event)], reason=reason, counts=counts
    )
    if login.failures >= MAX_FAILURES:
        login = replace(login, phase=Phase.CLOSED)
        return login, (failed, _last_word(event), Close())
    if isinstance(event, KeyOffered):
        return login, (failed, Reply(message=Acceptable(ok=False)))
    return login, (failed, _verdict(Outcome.REFUSED, _SECOND if login.person else _FIRST))


def _named(event: Event) -> str:
    """Whom a failure is about: the owner of a key as far as it is known, or the name that was claimed."""
    if isinstance(event, KeyOffered | KeyProven | TokenShown) and event.owner is not None:
        return event.owner.name
    return event.claim if isinstance(event, Asked) else ""


def _cut(login: Login, event: Event, reason: str) -> Step:
    failed = Failed(person=login.person or _named(event), method=_METHOD[type(event)], reason=reason, counts=False)
    return replace(login, phase=Phase.CLOSED, trying=None), (failed, _last_word(event), Close())


def _closed(login: Login, event: Event) -> Step:
    return login, (_last_word(event), Close())


def _last_word(event: Event) -> Reply:
    if isinstance(event, KeyOffered):
        return Reply(message=Acceptable(ok=False))
    return _verdict(Outcome.DISCONNECT, [])


def _verdict(outcome: Outcome, following: list[Method]) -> Reply:
    return Reply(message=Verdict(outcome=outcome, next=list(following)))


def _challenge(prompt: str = PROMPT) -> Reply:
    return Reply(message=Challenge(name="", instructions="", prompts=[(prompt, False)]))


_AWAITED: Final[dict[type, Phase]] = {
    KeyJoined: Phase.JOINING,
    PasswordChecked: Phase.CHECKING_PASSWORD,
    CodeChecked: Phase.CHECKING_CODE,
}


_METHOD: Final[dict[type, Method]] = {
    KeyOffered: Method.PUBLIC_KEY,
    KeyProven: Method.PUBLIC_KEY,
    KeyJoined: Method.PUBLIC_KEY,
    TokenShown: Method.PASSWORD,
    PasswordTried: Method.PASSWORD,
    PasswordChecked: Method.PASSWORD,
    CodeAsked: Method.CODE,
    CodeAnswered: Method.CODE,
    CodeChecked: Method.CODE,
}

_TABLE: Final = cast(
    "dict[tuple[Phase, type], Callable[[Login, Event], Step]]",
    {
        (Phase.FRESH, KeyOffered): _key_offered,
        (Phase.FRESH, KeyProven): _key_proven,
        (Phase.FRESH, TokenShown): _token_shown,
        (Phase.FRESH, PasswordTried): _password_tried,
        (Phase.HALFWAY, CodeAsked): _code_asked,
        (Phase.ASKED, CodeAsked): _code_asked,
        (Phase.ASKED, CodeAnswered): _code_answered,
    },
)
