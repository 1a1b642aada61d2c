"""Is this answer to the question for a code right? By what the person has enrolled, or by a RADIUS server.

Whatever is right is used up in the same breath, so of twenty answers at once with the same code one is right.
"""

import time
from dataclasses import dataclass, field
from typing import Final

from policy.authority import Authority
from policy.conversation import Conversation
from policy.login import radius
from policy.mfa import codes, totp
from policy.records import Authenticator, Code, Person
from policy.roster import TOTP
from policy.store import Conflict, Tables
from policy.trail.audit import Event

ENROL: Final = "enrol one: ssh -t bastion mfa enrol"
"""The way out for who has none."""
PENDING_SECONDS: Final = 15 * 60
"""From the QR code to its first code: people fetch their phone; who finds the picture later gets nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """`detail` is for the audit trail: which way it was right, or what is left."""

    ok: bool = False
    question: str = ""  # of a RADIUS server, before it says anything else
    state: bytes = b""  # that belongs to it
    detail: dict[str, str] = field(default_factory=dict)


def authenticators(person: Person) -> list[Authenticator]:
    """Those that are asked for."""
    return [one for one in person.totp if one.kind == TOTP and one.confirmed is not None]


def pending(person: Person, now: int) -> Authenticator | None:
    """What waits for its first code."""
    waiting = [one for one in person.totp if one.confirmed is None and now - one.created < PENDING_SECONDS * 10**9]
    return max(waiting, key=lambda one: one.created, default=None)


def usable(person: Person, kind: str, now: int) -> list[Code]:
    return [one for one in person.codes if one.kind == kind and (one.expires is None or one.expires > now)]


def is_asked(desk: Authority, person: Person) -> bool:
    """Whether there is any code that this person could answer with."""
    return bool(authenticators(person) or usable(person, codes.ISSUED, time.time_ns()) or radius.serves(desk, person))


def is_demanded(desk: Authority, person: Person) -> bool:
    """Whether `[login] demand` names a role of theirs."""
    demand = desk.rules.login.demand
    return "*" in demand or not demand.isdisjoint(person.roles)


async def check_code(desk: Authority, talk: Conversation, name: str, answer: str, state: bytes = b"") -> Checked:
    """Whether this answer is right; using it up is part of it. `state`: it answers a further question."""
    person = desk.roster.person(name)
    if person is None:
        return Checked()
    if not state:
        for one in authenticators(person):
            if (drift := await use_totp(desk, name, one, answer)) is not None:
                return Checked(ok=True, detail={"code": "totp", "drift": f"{drift:+d} s" if drift else ""})
        if typed := codes.plain(answer):
            for code in person.codes:
                if codes.matches(code.mac, desk.vault.code_key(), name, typed):
                    return await _use_code(desk, talk, person, code)
    if radius.serves(desk, person):
        return await _asked_elsewhere(desk, person, answer, state)
    return Checked()


def totp_name(person: str, ident: str) -> str:
    """Of the secret behind an authenticator: it binds the secret to the person."""
    return f"{TOTP} {person} {ident}"


async def use_totp(desk: Authority, person: str, one: Authenticator, answer: str) -> int | None:
    """Seconds by which the person's clock is off if the code is right and was not used, None otherwise."""
    # Attack: the row of one's own phone, given the name of another person.
    secret = await desk.secrets.open(one.id, kind=TOTP, name=totp_name(person, one.id))
    last = await desk.ledger.read(lambda t: t.last_step(one.id))
    now = time.time()
    step = totp.check(secret.value.reveal().decode(), answer, now, last)
    if step is None:
        return None
    # Of twenty at once with the same code one is stored; the others lose the race and are wrong.
    if not await desk.ledger.write(lambda t: t.use_step(one.id, step, time.time_ns()), durable=True):
        return None
    return (step - int(now) // totp.STEP) * totp.STEP


async def _use_code(desk: Authority, talk: Conversation, person: Person, code: Code) -> Checked:
    left = len(usable(person, code.kind, time.time_ns())) - 1
    detail = {"code": code.kind, "left": str(left)}

    def use(t: Tables) -> None:
        if not t.proofs.use_code(code.id, time.time_ns()):
            raise Conflict("the code was used, or has expired")

    event = Event(event="code-used", who=person.name, what=person.name, source=talk.source,
                  detail={"id": code.id, **detail})  # fmt: skip
    try:
        await desk.change_person(person.name, use, event)
    except Conflict:
        return Checked()
    return Checked(ok=True, detail=detail)


async def _asked_elsewhere(desk: Authority, person: Person, answer: str, state: bytes) -> Checked:
    answered = await radius.ask(desk, person, answer, state)
    return Checked(ok=answered.ok, question=answered.question, state=answered.state, detail={"code": "radius"})
