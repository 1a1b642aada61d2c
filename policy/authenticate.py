"""First words, and the login: looks up facts for `policy.login`, carries out its effects, keeps what happened."""

import hashlib
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, TypedDict

import msgspec
import trio

from policy import login, signatures, sshkeys, sync
from policy.audit import Event
from policy.authority import Authority
from policy.conditions import FactorKind
from policy.conversation import Conversation, State, Violation
from policy.credentials import Rejected, Speaker, check_certificate
from policy.factors import check_code
from policy.ldap.planning import DIRECTORY
from policy.lockouts import CODE, PERSON, SOURCE, network_of
from policy.messages import (
    Acceptable,
    Admin,
    AnswerCode,
    AskCode,
    Called,
    Challenge,
    Courier,
    Done,
    Hello,
    OfferKey,
    ProveKey,
    Scanned,
    TryPassword,
    TryToken,
    Verdict,
    Worker,
)
from policy.model import MAX_LOGIN, Method, Outcome
from policy.names import plain_address
from policy.passwords import Busy
from policy.sshkeys import PublicKey
from policy.sshwire import BadKey
from policy.store import Tables
from policy.vault import Secret

SSH_SESSION: Final = range(20, 65)
"""Bytes of an exchange hash: SHA-1 to SHA-512 (RFC 4253 section 8)."""

_TOKEN: Final = re.compile(rb"ticket-[a-z2-7]{40}")

Answer = Acceptable | Challenge | Verdict


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


async def admin(desk: Authority, talk: Conversation, request: Admin) -> Done:
    talk.state, talk.operator = State.OPERATOR, f"operator {talk.peer}"
    await desk.ledger.note(talk.event("operator", request.command))
    return Done(text="")


async def scanned(desk: Authority, talk: Conversation, request: Scanned) -> None:
    if not desk.workers.scanned(talk, request):
        talk.log().info("late-scan", task=request.task)  # after our patience: nobody waits for it any more


# --- the login --------------------------------------------------------------------------------------


async def offer_key(desk: Authority, talk: Conversation, request: OfferKey) -> Answer:
    offer = _offer(desk, talk, request.person, request.blob)
    event = login.KeyOffered(**_asked(desk, talk, request.person), owner=offer.owner)
    return await _advance(desk, talk, event, key=sshkeys.fingerprint(request.blob))


async def prove_key(desk: Authority, talk: Conversation, request: ProveKey) -> Answer:
    """Offered before or not: the key is judged here in full, and only the signature makes it count."""
    offer = _offer(desk, talk, request.person, request.blob)
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
        owner=offer.owner, valid=valid, kind=kind, flaw=flaw, speaker=offer.speaker,
    )  # fmt: skip
    return await _advance(desk, talk, event, key=sshkeys.fingerprint(request.blob))


async def try_password(desk: Authority, talk: Conversation, request: TryPassword) -> Answer:
    if (token := as_token(request.password)) is not None:
        return await show_token(desk, talk, request.person, token)
    event = login.PasswordTried(**_asked(desk, talk, request.person), size=len(request.password))
    return await _advance(desk, talk, event, Secret(request.password[: login.MAX_PASSWORD]))


async def try_token(desk: Authority, talk: Conversation, request: TryToken) -> Answer:
    return await show_token(desk, talk, "", as_token(request.token.encode()))


async def show_token(desk: Authority, talk: Conversation, claim: str, digest: bytes | None) -> Answer:
    """A token says by itself who, where and how often: no second factor belongs to it, nothing else is open to it."""
    grant = desk.standing.by_token(digest) if digest is not None else None
    now = time.time_ns()
    stands = grant is not None and grant.starts <= now < grant.ends and not 0 < grant.uses <= grant.used
    owner = _person(desk, grant.person) if grant is not None and stands else None
    talk.token = grant.id if grant is not None and owner is not None else ""
    answer = await _advance(desk, talk, login.TokenShown(**_asked(desk, talk, claim), owner=owner))
    if talk.state is not State.PERSON or grant is None or not isinstance(answer, Verdict):
        talk.token = ""
        return answer
    return msgspec.structs.replace(answer, account=grant.account, target=grant.target)


def as_token(secret: bytes) -> bytes | None:
    """What is kept of an access token, if this is shaped like one."""
    return hashlib.sha256(secret).digest() if _TOKEN.fullmatch(secret) else None


async def ask_code(desk: Authority, talk: Conversation, request: AskCode) -> Answer:
    return await _advance(desk, talk, login.CodeAsked(**_asked(desk, talk, request.person)))


async def answer_code(desk: Authority, talk: Conversation, request: AnswerCode) -> Answer:
    event = login.CodeAnswered(
        **_asked(desk, talk, request.person),
        person=_person(desk, talk.login.person),
        answers=tuple(request.answers[:8]),
    )
    return await _advance(desk, talk, event)


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
        return _Offer(flaw="key is revoked" if owner else "key is not known")
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


class _Asked(TypedDict):
    """What every request of a login has in common."""

    claim: str
    claimed: login.Person | None
    now: float
    source_locked: bool


def _asked(desk: Authority, talk: Conversation, claim: str) -> _Asked:
    now = time.time()
    locked = desk.lockouts.locked_source(talk.source, now)
    return _Asked(claim=claim[:MAX_LOGIN], claimed=_person(desk, claim), now=now, source_locked=locked)


def _person(desk: Authority, name: str) -> login.Person | None:
    found = desk.roster.person(name)
    if found is None:
        return None
    return login.Person(
        name=found.name,
        disabled=found.disabled,
        locked=desk.lockouts.locked_person(found.name, time.time()),
        code_locked=desk.lockouts.locked_code(found.name, time.time()),
        has_password=bool(found.phc) or _by_directory(desk, found.origin),
        has_code=bool(found.totp),
    )


async def _advance(
    desk: Authority, talk: Conversation, event: login.Event, password: Secret | None = None, *, key: str = ""
) -> Answer:
    """Step the machine and do as it says until it has answered. `key`: the print of the one shown, for the log."""
    answer: Answer | None = None
    talk.login, effects = login.step(talk.login, event)
    todo = deque(effects)
    while todo:
        result: login.Event | None = None
        match todo.popleft():
            case login.Reply(message=message):
                answer = message
            case login.VerifyPassword(person=name):
                result = await _check_password(desk, name, password)
            case login.BurnPassword():
                result = await _check_password(desk, "", password)
            case login.VerifyCode(person=name, code=code):
                ok = await check_code(desk, name, code) and not desk.lockouts.locked_code(name, time.time())
                result = login.CodeChecked(ok=ok, now=time.time())
            case login.Failed() as failed:
                await _failed(desk, talk, failed, key, counted=not isinstance(event, login.KeyOffered))
            case login.Succeeded() as succeeded:
                await _succeeded(desk, talk, succeeded)
            case login.Close():
                talk.state = State.OVER
        if result is not None:
            talk.login, more = login.step(talk.login, result)
            todo.extend(more)
    assert answer is not None, "every step of the login replies"
    if isinstance(answer, Verdict) and answer.outcome is Outcome.DISCONNECT:
        talk.state = State.OVER
    return answer


def _by_directory(desk: Authority, origin: str) -> bool:
    """Whether the directory checks the passwords of persons of this origin; then no other password of theirs counts."""
    return origin == DIRECTORY and desk.rules.directory is not None and desk.rules.directory.passwords


async def _check_password(desk: Authority, name: str, password: Secret | None) -> login.PasswordChecked:
    began, flaw = trio.current_time(), ""
    person = desk.roster.person(name)
    try:
        if person is not None and _by_directory(desk, person.origin):
            why = await sync.check_password(desk, name, password.reveal() if password else b"")
            ok, flaw = not why, "" if why == sync.WRONG else why
        else:
            ok = await desk.passwords.check(person.phc if person else "", password or Secret(b""))
    except Busy:
        ok = False
    if not ok and desk.rules.directory is not None and desk.rules.directory.passwords:
        await trio.sleep_until(began + sync.ANSWER_SECONDS)
    # Of a hundred guesses under way at once, those that come after the lock are wrong whatever they are.
    ok = ok and not desk.lockouts.locked_person(name, time.time())
    return login.PasswordChecked(ok=ok, now=time.time(), flaw=flaw)


async def _failed(desk: Authority, talk: Conversation, failed: login.Failed, key: str, *, counted: bool) -> None:
    """Kept and counted. An offer is neither: agents offer all their keys, and each stranger could fill the disk."""
    log = talk.log().bind(key=key) if key else talk.log()
    log.info("login-failed", person=failed.person[:64], method=failed.method, reason=failed.reason)
    if not counted:
        return
    now = time.time()
    kind = CODE if failed.method is Method.CODE else PERSON
    subjects = [(SOURCE, network_of(talk.source))] + [(kind, failed.person)] * failed.counts
    locked = [(kind, subject) for kind, subject in subjects if desk.lockouts.count(kind, subject, now)]
    event = Event(
        event="login-failed", who=failed.person, why=failed.reason, source=talk.source, detail={"method": failed.method}
    )
    locks = [
        Event(event=f"{kind}-locked", what=subject, who=failed.person, source=talk.source) for kind, subject in locked
    ]

    def remember(t: Tables) -> None:
        for kind, subject in subjects:
            t.add_failure(kind, subject, int(now * 1e9))

    await desk.ledger.write(remember, event, *locks)


async def _succeeded(desk: Authority, talk: Conversation, succeeded: login.Succeeded) -> None:
    """From here on the conversation speaks for a person: only after the event is kept."""
    name, proven = succeeded.person, talk.login
    detail = {"factors": " ".join(succeeded.factors), "client": talk.hello.client if talk.hello else ""}
    if proven.speaker is not None:
        detail["certificate"] = f"{proven.speaker.key_id} serial {proven.speaker.serial} ca {proven.speaker.ca}"
    event = Event(event="login", who=name, source=talk.source, detail=detail)
    ways = {FactorKind.PASSWORD: PERSON, FactorKind.CODE: CODE}
    # A key says nothing about who guesses the password: only the way that was used is open again.
    cleared = [ways[kind] for kind in succeeded.factors if kind in ways and desk.lockouts.failed(ways[kind], name)]

    def clear(t: Tables) -> None:
        for kind in cleared:
            t.clear_failures(kind, name)

    if cleared:
        await desk.ledger.write(clear, event)
    else:
        await desk.ledger.note(event)
    for kind in cleared:
        desk.lockouts.clear(kind, name)
    now, clock = time.time(), trio.current_time()
    talk.person, talk.speaker = name, proven.speaker
    talk.factors = tuple((kind, clock - max(0.0, now - at)) for kind, at in proven.factors)
    desk.proofs.remember(name, talk.source, talk.factors)
    talk.state = State.PERSON
