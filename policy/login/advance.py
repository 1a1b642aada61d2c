"""Carries out what `policy.login.dialogue` says is to be done: hashes, codes, counts, and what is kept of it."""

import time
from collections import deque

import trio

from policy.authority import Authority
from policy.conversation import Conversation, State
from policy.ldap import sync
from policy.login import dialogue as login
from policy.login import invitations
from policy.login.codes import check_code
from policy.login.lockouts import CODE, PERSON, SOURCE, network_of
from policy.login.passwords import Busy
from policy.messages import Acceptable, Challenge, Verdict
from policy.mfa import codes
from policy.model import Method, Outcome
from policy.rules.conditions import FactorKind
from policy.store import Tables
from policy.trail.audit import Event
from policy.vault.secret import Secret

Answer = Acceptable | Challenge | Verdict


async def advance(
    desk: Authority, talk: Conversation, event: login.Event, password: Secret | None = None, *, key: str = "",
    joining: invitations.Joining | None = None,
) -> Answer:  # fmt: skip
    """Step the machine and do as it says until it has answered. `key`: the print of the one shown, for the log."""
    answer: Answer | None = None
    proof: dict[str, str] = {}  # how a code was right, for the trail
    effects = _step(talk, event)
    todo = deque(effects)
    while todo:
        result: login.Event | None = None
        match todo.popleft():
            case login.Reply(message=message):
                answer = message
            case login.VerifyPassword(person=name):
                result = await _check_password(desk, talk, name, password)
            case login.BurnPassword():
                result = await _check_password(desk, talk, "", password)
            case login.VerifyCode(person=name, code=code, again=again):
                checked = await check_code(desk, talk, name, code, talk.question if again else b"")
                ok = checked.ok and not desk.lockouts.locked_code(name, time.time())
                talk.question, proof = checked.state, checked.detail
                result = login.CodeChecked(ok=ok, now=time.time(), question=checked.question)
            case login.JoinKey(person=name):
                ok = joining is not None and await invitations.join(desk, talk, name, joining)
                result = login.KeyJoined(ok=ok, now=time.time())
            case login.Failed() as failed:
                await _failed(desk, talk, failed, key, counted=not isinstance(event, login.KeyOffered))
            case login.Succeeded() as succeeded:
                await _succeeded(desk, talk, succeeded, proof)
            case login.Close():
                _over(talk)
        if result is not None:
            todo.extend(_step(talk, result))
    assert answer is not None, "every step of the login replies"
    if isinstance(answer, Verdict) and answer.outcome is Outcome.DISCONNECT:
        _over(talk)
    return answer


def _step(talk: Conversation, event: login.Event) -> tuple[login.Effect, ...]:
    if talk.newer is not None:
        talk.newer, effects = login.step(talk.newer, event)
    else:
        talk.login, effects = login.step(talk.login, event)
    return effects


def _over(talk: Conversation) -> None:
    """Nothing more is taken. Who is in stays in: a newer code that is not shown ends no session."""
    if talk.newer is None:
        talk.state = State.OVER


async def _check_password(desk: Authority, talk: Conversation, name: str, password: Secret | None) -> login.Event:
    """`name` is empty where there is nobody, or nobody with a password, to check it for."""
    person, given = desk.roster.person(name), password or Secret(b"")
    flaw = ""
    try:
        async with sync.turn(desk, talk.login.claim) as until:
            if person is not None and sync.checks_password_of(desk, person):
                ok, flaw = await sync.check_password(desk, name, given)
            else:
                ok = await desk.passwords.check(person.phc if person else "", given)
            if not ok:
                await trio.sleep_until(until)
    except Busy:
        ok = False
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


async def _succeeded(desk: Authority, talk: Conversation, succeeded: login.Succeeded, proof: dict[str, str]) -> None:
    """From here on the conversation speaks for a person, or has a newer code of theirs: after the event is kept."""
    name, proven = succeeded.person, talk.newer or talk.login
    detail = {"factors": " ".join(succeeded.factors), "client": talk.hello.client if talk.hello else ""} | proof
    if proven.speaker is not None:
        detail["certificate"] = f"{proven.speaker.key_id} serial {proven.speaker.serial} ca {proven.speaker.ca}"
    detail = {key: value for key, value in detail.items() if value}
    event = Event(event="code-shown" if talk.newer else "login", who=name, source=talk.source, detail=detail)
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
    if proof.get("code") == codes.RECOVERY:
        talk.recovery_left = int(proof["left"])
    talk.person, talk.speaker, talk.limited = name, proven.speaker, proven.limited
    talk.factors = tuple((kind, clock - max(0.0, now - at)) for kind, at in proven.factors)
    desk.proofs.remember(name, talk.source, talk.factors)
    talk.state = State.PERSON
