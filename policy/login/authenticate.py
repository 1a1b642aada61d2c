"""First words, and the login: looks up the facts that `policy.login.dialogue` decides over."""

import hashlib
import re
import time
from dataclasses import dataclass, replace
from typing import Final, TypedDict

import msgspec
import trio

from policy.authority import Authority
from policy.conversation import Conversation, State, Violation
from policy.keys import signatures, sshkeys
from policy.keys.credentials import Rejected, Speaker, check_certificate
from policy.keys.sshkeys import PublicKey
from policy.keys.sshwire import BadKey
from policy.ldap import sync
from policy.leave.concerned import facts_about
from policy.login import dialogue as login
from policy.login import invitations
from policy.login.advance import Answer, advance
from policy.login.codes import ENROL, is_asked, is_demanded
from policy.login.proofs import allowed_age, is_fresh
from policy.messages import (
    Admin,
    AnswerCode,
    AskCode,
    Called,
    Courier,
    Done,
    Hello,
    OfferKey,
    ProveKey,
    Refused,
    Runner,
    Scanned,
    TryPassword,
    TryToken,
    Verdict,
    Worked,
    Worker,
)
from policy.model import MAX_LOGIN, Outcome
from policy.names import plain_address, without_secret
from policy.rules.conditions import FactorKind
from policy.vault.secret import Secret

SSH_SESSION: Final = range(20, 65)
"""Bytes of an exchange hash: SHA-1 to SHA-512 (RFC 4253 section 8)."""

_TOKEN: Final = re.compile(rb"ticket-[a-z2-7]{40}")

# --- first words ------------------------------------------------------------------------------------


async def hello(desk: Authority, talk: Conversation, request: Hello) -> Done:
    try:
        plain_address(request.source)
    except ValueError:
        raise Violation("source is no address") from None
    if len(request.ssh_session) not in SSH_SESSION:
        raise Violation(f"exchange hash of {len(request.ssh_session)} bytes")
    talk.hello, talk.login, talk.state = request, login.Login(), State.PROVING
    talk.log().info("connection", listener=request.listener[:64], client=request.client[:255])
    return Done(text="")


async def worker(desk: Authority, talk: Conversation, request: Worker) -> Done:
    talk.state = State.WORKER
    desk.workers.join(talk)
    talk.log().info("worker", worker=request.pid)
    return Done(text="")


async def courier(desk: Authority, talk: Conversation, request: Courier) -> Done:
    talk.state = State.COURIER
    desk.couriers.join(talk)
    talk.log().info("courier", courier=request.pid)
    return Done(text="")


async def called(desk: Authority, talk: Conversation, request: Called) -> None:
    if not desk.couriers.called(talk, request):
        talk.log().info("late-call", task=request.task)  # after our patience: nobody waits for it any more


async def runner(desk: Authority, talk: Conversation, request: Runner) -> Done:
    talk.state = State.RUNNER
    desk.runners.join(talk)
    talk.log().info("runner", runner=request.pid)
    return Done(text="")


async def ran(desk: Authority, talk: Conversation, request: Worked) -> None:
    if not desk.runners.worked(talk, request):
        talk.log().info("late-run", task=request.task)  # after our patience: whoever asked knows by now what opens


async def admin(desk: Authority, talk: Conversation, request: Admin) -> Done:
    talk.state, talk.operator = State.OPERATOR, f"operator {talk.peer}"
    await desk.ledger.note(talk.event("operator", request.command))
    return Done(text="")


async def scanned(desk: Authority, talk: Conversation, request: Scanned) -> None:
    if not desk.workers.scanned(talk, request):
        talk.log().info("late-scan", task=request.task)  # after our patience: nobody waits for it any more


async def worked(desk: Authority, talk: Conversation, request: Worked) -> None:
    if not desk.workers.worked(talk, request):
        talk.log().info("late-work", task=request.task)  # after our patience: whoever asked knows by now what opens


# --- the login --------------------------------------------------------------------------------------


async def offer_key(desk: Authority, talk: Conversation, request: OfferKey) -> Answer:
    offer = _offer(desk, talk, request.person, request.blob)
    offer, _ = await _joining(desk, request.person, offer)
    event = login.KeyOffered(**_asked(desk, talk, request.person), owner=offer.owner)
    return await advance(desk, talk, event, key=sshkeys.fingerprint(request.blob))


async def prove_key(desk: Authority, talk: Conversation, request: ProveKey) -> Answer:
    """Offered before or not: the key is judged here in full, and only the signature makes it count."""
    offer = _offer(desk, talk, request.person, request.blob)
    offer, joining = await _joining(desk, request.person, offer)
    kind, valid, flaw = FactorKind.KEY, False, offer.flaw
    if offer.key is not None and talk.hello is not None:
        try:
            proof = signatures.verify_login(
                offer.key, request.blob, request.signed, request.signature, session=talk.hello.ssh_session
            )
        except BadKey as error:
            flaw = str(error)
        else:
            valid = proof.verified or not offer.verify_required
            flaw = "" if valid else "security key did not verify its owner"
            if proof.verified:
                kind = FactorKind.VERIFIED_KEY
            elif offer.speaker is not None:
                kind = FactorKind.CERTIFICATE
    event = login.KeyProven(
        **_asked(desk, talk, request.person),
        owner=_with_fresh(desk, talk, offer.owner, request.place), valid=valid, kind=kind, flaw=flaw,
        speaker=offer.speaker, joins=joining is not None,
    )  # fmt: skip
    return await advance(desk, talk, event, key=sshkeys.fingerprint(request.blob), joining=joining)


async def try_password(desk: Authority, talk: Conversation, request: TryPassword) -> Answer:
    if (token := as_token(request.password)) is not None:
        return await show_token(desk, talk, request.person, token)
    asked = _asked(desk, talk, request.person)
    asked["claimed"] = _with_fresh(desk, talk, asked["claimed"], request.place)
    event = login.PasswordTried(**asked, size=len(request.password))
    return await advance(desk, talk, event, Secret(request.password[: login.MAX_PASSWORD]))


async def try_token(desk: Authority, talk: Conversation, request: TryToken) -> Answer:
    return await show_token(desk, talk, "", as_token(request.token.encode()))


async def show_token(desk: Authority, talk: Conversation, claim: str, digest: bytes | None) -> Answer:
    """A token says by itself who, where and how often: no second factor belongs to it, nothing else is open to it."""
    grant = desk.standing.by_token(digest) if digest is not None else None
    now = time.time_ns()
    stands = grant is not None and grant.starts <= now < grant.ends and not 0 < grant.uses <= grant.used
    owner = _person(desk, grant.person) if grant is not None and stands else None
    talk.token = grant.id if grant is not None and owner is not None else ""
    answer = await advance(desk, talk, login.TokenShown(**_asked(desk, talk, claim), owner=owner))
    if talk.state is not State.PERSON or grant is None or not isinstance(answer, Verdict):
        talk.token = ""
        return answer
    return msgspec.structs.replace(answer, account=grant.account, target=grant.target)


def as_token(secret: bytes) -> bytes | None:
    """What is kept of an access token, if this is shaped like one."""
    return hashlib.sha256(secret).digest() if _TOKEN.fullmatch(secret) else None


async def ask_code(desk: Authority, talk: Conversation, request: AskCode) -> Answer:
    return await advance(desk, talk, login.CodeAsked(**_asked(desk, talk, request.person)))


async def ask_newer_code(desk: Authority, talk: Conversation, _: AskCode) -> Answer | Refused:
    """Of a person who is in: a rule wants a newer code than the login did, or one on this connection."""
    person = desk.roster.person(talk.person)
    if talk.token or person is None or not is_asked(desk, person):
        return await desk.refuse(
            talk, "code-refused", "none can be asked for", "you have no second factor that could be shown",
            "log in with your key" if talk.token else ENROL,
        )  # fmt: skip
    if talk.newer is None or talk.newer.phase in (login.Phase.DONE, login.Phase.CLOSED):
        if talk.newer is not None and talk.newer.failures >= login.MAX_FAILURES:
            return Verdict(outcome=Outcome.REFUSED)
        talk.newer = login.step_up(talk.newer or talk.login)
    return _still_in(await advance(desk, talk, login.CodeAsked(**_asked(desk, talk, ""))))


async def answer_newer_code(desk: Authority, talk: Conversation, request: AnswerCode) -> Answer:
    if talk.newer is None:
        return Verdict(outcome=Outcome.REFUSED)
    # The claim of a login string inside `ssh -J` is nothing here: this conversation's person is known.
    event = login.CodeAnswered(
        **_asked(desk, talk, ""), person=_person(desk, talk.person), answers=tuple(request.answers[:8])
    )
    return _still_in(await advance(desk, talk, event))


def _still_in(answer: Answer) -> Answer:
    """No more tries is no reason to disconnect somebody whose sessions live."""
    if isinstance(answer, Verdict) and answer.outcome is Outcome.DISCONNECT:
        return Verdict(outcome=Outcome.REFUSED)
    return answer


async def answer_code(desk: Authority, talk: Conversation, request: AnswerCode) -> Answer:
    event = login.CodeAnswered(
        **_asked(desk, talk, request.person),
        person=_person(desk, talk.login.person),
        answers=tuple(request.answers[:8]),
    )
    return await advance(desk, talk, event)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """Whose key or certificate it would be."""

    owner: login.Person | None = None
    key: PublicKey | None = None
    verify_required: bool = False
    speaker: Speaker | None = None
    flaw: str = ""


def _offer(desk: Authority, talk: Conversation, claim: str, blob: bytes) -> _Offer:
    try:
        if sshkeys.is_certificate(blob):
            return _certified(desk, talk, claim, blob)
        key = sshkeys.parse_public_key(blob)
    except BadKey as error:
        return _Offer(flaw=str(error))
    owner = desk.roster.owner(key.fingerprint)
    if owner is None or key.fingerprint in desk.revoked_keys:
        revoked = key.fingerprint in desk.revoked_keys
        return _Offer(flaw="key is revoked" if revoked else "key is not known", key=None if revoked else key)
    line = next(one.line for one in owner.keys if one.fingerprint == key.fingerprint)
    required = sshkeys.parse_authorized_key(line).verify_required
    return _Offer(owner=_person(desk, owner.name), key=key, verify_required=required)


def _certified(desk: Authority, talk: Conversation, claim: str, blob: bytes) -> _Offer:
    # A claim that names no person of ours is none: `ssh -J` sends the local user name.
    named = claim if desk.roster.person(claim) is not None else ""
    judged = check_certificate(
        blob, claim=named, trusted=desk.trusted_cas, now=time.time(), source=talk.source, revoked=desk.revoked
    )
    if isinstance(judged, Rejected):
        return _Offer(flaw=f"{judged.flaw}: {judged.detail}")
    owner = _person(desk, judged.person)
    return _Offer(owner=owner, key=judged.key, verify_required=judged.verify_required, speaker=judged)


async def _joining(desk: Authority, claim: str, offer: _Offer) -> tuple[_Offer, invitations.Joining | None]:
    """Whose the key would become by the invitation that the login name is, if it is one and the key is nobody's."""
    if offer.owner is not None and invitations.is_one(claim):
        # Mistake, or attack: who asked to join would be in as whoever the key is of, and be told that they are welcome.
        return _Offer(flaw="an invitation, with the key of somebody who is here"), None
    if offer.owner is not None or offer.key is None or offer.speaker is not None:
        return offer, None
    joining = await invitations.invited(desk, claim, offer.key)
    if joining is None:
        return offer, None
    return replace(offer, owner=_person(desk, joining.invitation.person), flaw=""), joining


class _Asked(TypedDict):
    """What every request of a login has in common."""

    claim: str
    claimed: login.Person | None
    now: float
    source_locked: bool


def _asked(desk: Authority, talk: Conversation, claim: str) -> _Asked:
    now = time.time()
    locked = desk.lockouts.locked_source(talk.source, now)
    return _Asked(claim=without_secret(claim[:MAX_LOGIN]), claimed=_person(desk, claim), now=now, source_locked=locked)


def _person(desk: Authority, name: str) -> login.Person | None:
    found = desk.roster.person(name)
    if found is None:
        return None
    return login.Person(
        name=found.name,
        disabled=found.disabled,
        locked=desk.lockouts.locked_person(found.name, time.time()),
        code_locked=desk.lockouts.locked_code(found.name, time.time()),
        has_password=bool(found.phc) or sync.checks_password_of(desk, found),
        has_code=is_asked(desk, found),
        needs_code=is_demanded(desk, found),
    )


def _with_fresh(desk: Authority, talk: Conversation, person: login.Person | None, place: str) -> login.Person | None:
    """With what is remembered of codes from this address, against what this place asks for."""
    found = desk.roster.person(person.name) if person is not None and person.has_code else None
    if person is None or found is None:
        return person
    account, _, target = place.rpartition("@")
    facts = replace(facts_about(desk, found, account, target, talk), source=talk.source) if account else None
    age = desk.proofs.newest(found.name, talk.source, trio.current_time())
    return replace(person, fresh=is_fresh(age, allowed_age(desk.rules, facts)))
