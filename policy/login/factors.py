"""Commands on second factors: enrol, confirm, list, remove, reset; recovery codes, and codes for who lost the phone.

A factor that exists guards the ones that come: whoever has one shows it on the very connection on which they change
what they have. Otherwise a thief of a key would add a phone of their own, and be asked for nothing they lack.
"""

import os
import secrets
import time
from typing import Final

import trio

from policy.authority import Authority
from policy.conversation import Conversation, State
from policy.keys.sshkeys import parse_authorized_key
from policy.leave.requests import text
from policy.login.codes import authenticators, is_demanded, pending, totp_name, usable, use_totp
from policy.login.lockouts import CODE
from policy.login.proofs import rules_ask
from policy.messages import (
    Done,
    MfaConfirm,
    MfaEnrol,
    MfaIssue,
    MfaList,
    MfaRecovery,
    MfaRemove,
    MfaReset,
    Refused,
    Rows,
)
from policy.mfa import codes, totp
from policy.naming import CommandRefused, counted, shown_time
from policy.records import Code, Person
from policy.roster import TOTP
from policy.rules.conditions import SECOND_FACTORS, FactorKind
from policy.rules.rights import Right
from policy.store import Conflict, Tables
from policy.vault.secret import Secret
from policy.vault.secrets import new_secret

MAX_AUTHENTICATORS: Final = 5
"""Of one person: a phone, the next one, a tablet. Each code is tried with all of them."""
LONGEST_ISSUE: Final = 7 * 24 * 3600
"""Seconds that an issued code may last."""


async def mfa_enrol(desk: Authority, talk: Conversation, request: MfaEnrol) -> Done | Refused:
    """The secret is in the answer, once, and nowhere else but sealed."""
    own = _is_own(talk, request.person)
    if not own and (talk.limited or not desk.has_right(talk, Right.ADMINISTER)):
        return await _not_yours(desk, talk, "MfaEnrol")
    person = _person(desk, talk.person if own else request.person)
    if own and (refused := await _not_shown(desk, talk, person, "MfaEnrol")) is not None:
        return refused
    if not own and authenticators(person):
        raise CommandRefused(
            f"person `{person.name}` has a second factor already", f"remove it first: `bastion mfa reset {person.name}`"
        )
    if len(authenticators(person)) >= MAX_AUTHENTICATORS:
        raise CommandRefused(f"at most {MAX_AUTHENTICATORS} second factors", "remove one: ssh bastion mfa remove ID")
    why = text(request.reason, "reason")
    secret, ident = totp.new_secret(os.urandom(totp.SECRET_BYTES)), secrets.token_hex(16)
    name = totp_name(person.name, ident)
    rows = new_secret(desk.vault, TOTP, name, Secret(secret.encode()), talk.who, ident=ident)

    def change(t: Tables) -> None:
        t.proofs.drop_unconfirmed(person.name)
        t.proofs.add_authenticator(person.name, *rows, confirmed=not own)

    detail = {"kind": TOTP, "id": ident, "confirmed": "not yet" if own else ""}
    await desk.change_person(person.name, change, talk.event("mfa-enrol", person.name, detail, why=why))
    then = "; it counts after: ssh bastion mfa confirm CODE" if own else ""
    return Done(
        text=f"enrolled a second factor for `{person.name}`; shown this once: {secret}{then}",
        data={"person": person.name, "uri": totp.otpauth_uri(secret, person.name), "secret": secret},
    )


async def mfa_confirm(desk: Authority, talk: Conversation, request: MfaConfirm) -> Done | Refused:
    """The phone shows what we expect: only now is it asked for. With it come recovery codes, if there are none yet."""
    if talk.state is not State.PERSON:
        raise CommandRefused("an operator has no second factor", "do it as a person: ssh bastion mfa confirm CODE")
    person = _person(desk, talk.person)
    one = pending(person, time.time_ns())
    if one is None:
        raise CommandRefused("nothing waits for its first code", "begin with: ssh -t bastion mfa enrol")
    if (refused := await _not_shown(desk, talk, person, "MfaConfirm")) is not None:
        return refused
    if await use_totp(desk, person.name, one, request.code.replace(" ", "")) is None:
        raise CommandRefused("this code is wrong", "is the clock of your phone right? try the next code")
    shown, made = _new_codes(desk, person.name, codes.RECOVERY, codes.RECOVERY_CODES)
    first = not usable(person, codes.RECOVERY, time.time_ns())

    def change(t: Tables) -> None:
        if not t.proofs.confirm(one.id, time.time_ns()):
            raise Conflict("it was confirmed already")
        if first:
            t.proofs.replace_codes(person.name, codes.RECOVERY, made)

    detail = {"id": one.id, "recovery codes": str(len(made)) if first else ""}
    try:
        await desk.change_person(person.name, change, talk.event("mfa-confirm", person.name, detail))
    except Conflict:
        raise CommandRefused("it counts already", "see: ssh bastion mfa list") from None
    talk.factors = (*talk.factors, (FactorKind.CODE, trio.current_time()))
    talk.limited = False
    desk.proofs.remember(person.name, talk.source, talk.factors)
    said = f"; recovery codes, each good for one login, shown this once: {' '.join(shown)}" if first else ""
    data = {"person": person.name, "id": one.id, **({"codes": " ".join(shown)} if first else {})}
    return Done(text=f"your second factor counts from now on{said}", data=data)


async def mfa_list(desk: Authority, talk: Conversation, request: MfaList) -> Rows | Refused:
    """A person's own; another's for administrators."""
    own = _is_own(talk, request.person)
    if not own and (talk.limited or not desk.has_right(talk, Right.ADMINISTER)):
        return await _not_yours(desk, talk, "MfaList")
    person = _person(desk, talk.person if own else request.person)
    await desk.ledger.note(talk.event("view", f"second factors of {person.name}"))
    last = await desk.ledger.read(lambda t: {one.id: t.last_step(one.id) for one in person.totp})
    now = time.time_ns()
    rows = [
        [
            one.id, one.kind if one.confirmed is not None else f"{one.kind}, not confirmed", shown_time(one.created),
            shown_time(last[one.id] * totp.STEP * 1_000_000_000) if last[one.id] >= 0 else "never",
        ]
        for one in person.totp
    ]  # fmt: skip
    if left := usable(person, codes.RECOVERY, now):
        rows.append(["", f"{counted(len(left), 'recovery code')} left", shown_time(left[0].created), ""])
    rows += [
        ["", f"issued code until {shown_time(one.expires)}", shown_time(one.created), "never"]
        for one in usable(person, codes.ISSUED, now)
    ]
    rows += [[print_, "security key that verifies you", "", ""] for print_ in _verifying_keys(person)]
    return Rows(columns=["id", "kind", "enrolled", "last used"], rows=rows)


async def mfa_remove(desk: Authority, talk: Conversation, request: MfaRemove) -> Done | Refused:
    if talk.state is not State.PERSON:
        raise CommandRefused("an operator has no second factor", "for a person: bastion mfa reset PERSON")
    person = _person(desk, talk.person)
    one = next((one for one in person.totp if one.id == request.ident), None)
    if one is None:
        raise CommandRefused(f"you have no second factor `{request.ident[:32]}`", "see: ssh bastion mfa list")
    if (refused := await _not_shown(desk, talk, person, "MfaRemove")) is not None:
        return refused
    last = one.confirmed is not None and len(authenticators(person)) == 1
    if last and not _verifying_keys(person) and (is_demanded(desk, person) or rules_ask(desk.rules, person)):
        raise CommandRefused(
            "it is your last second factor, and one is demanded of you",
            "enrol another first: ssh -t bastion mfa enrol", code=77,
        )  # fmt: skip

    def change(t: Tables) -> None:
        if len(authenticators(t.persons(person.name)[0])) != len(authenticators(person)):
            raise Conflict("another one went in the same moment")  # Attack: the last two, each beside the other
        if not t.proofs.remove_authenticator(person.name, one.id):
            raise Conflict("it is gone")
        if last:
            t.proofs.remove_codes(person.name)

    try:
        await desk.change_person(person.name, change, talk.event("mfa-remove", person.name, {"id": one.id}))
    except Conflict:
        raise CommandRefused("another change came first", "see: ssh bastion mfa list") from None
    return Done(
        text=f"removed your second factor `{one.id}`" + ("; recovery codes are void" if last else ""),
        data={"person": person.name, "id": one.id},
    )


async def mfa_reset(desk: Authority, talk: Conversation, request: MfaReset) -> Done | Refused:
    """All of another person. One's own are removed one by one, which wants a code."""
    if (refused := await _own_refused(desk, talk, request.person, "MfaReset")) is not None:
        return refused
    person, why = _person(desk, request.person), text(request.reason, "reason")
    if not person.totp and not person.codes:
        raise CommandRefused(
            f"person `{person.name}` has no second factor", f"add one: `bastion mfa enrol {person.name}`"
        )

    def change(t: Tables) -> None:
        t.proofs.remove_authenticators(person.name)
        t.proofs.remove_codes(person.name)
        t.clear_failures(CODE, person.name)

    await desk.change_person(
        person.name,
        change,
        talk.event("mfa-reset", person.name, why=why),
    )
    desk.lockouts.clear(CODE, person.name)
    desk.proofs.forget(person.name)
    return Done(
        text=f"removed {counted(len(person.totp), 'second factor')} of `{person.name}`",
        data={"person": person.name, "removed": str(len(person.totp))},
    )


async def mfa_recovery(desk: Authority, talk: Conversation, request: MfaRecovery) -> Done | Refused:
    """New recovery codes; the old ones are void."""
    own = _is_own(talk, request.person)
    if not own:  # whoever reads them can log in as that person, once they have the key: an administrator issues one
        raise CommandRefused("recovery codes are shown to their owner alone", "one code: bastion mfa issue PERSON")
    person = _person(desk, talk.person)
    if not authenticators(person):
        raise CommandRefused("you have no second factor to recover", "enrol one: ssh -t bastion mfa enrol")
    if (refused := await _not_shown(desk, talk, person, "MfaRecovery")) is not None:
        return refused
    shown, made = _new_codes(desk, person.name, codes.RECOVERY, codes.RECOVERY_CODES)
    await desk.change_person(
        person.name,
        lambda t: t.proofs.replace_codes(person.name, codes.RECOVERY, made),
        talk.event("mfa-recovery", person.name, {"codes": str(len(made))}),
    )
    return Done(
        text=f"new recovery codes, each good for one login, shown this once: {' '.join(shown)}",
        data={"person": person.name, "codes": " ".join(shown)},
    )


async def mfa_issue(desk: Authority, talk: Conversation, request: MfaIssue) -> Done | Refused:
    """One code for one login of somebody else; it takes the place of the one issued before."""
    if (refused := await _own_refused(desk, talk, request.person, "MfaIssue")) is not None:
        return refused
    person = _person(desk, request.person)
    if not 60 <= request.seconds <= LONGEST_ISSUE:
        raise CommandRefused(f"an issued code lasts a minute to {LONGEST_ISSUE // 86400} days", "--for 1h")
    if person.disabled:
        raise CommandRefused(f"person `{person.name}` is disabled", f"bastion person set {person.name} --enable")
    why = text(request.reason, "reason")
    expires = time.time_ns() + request.seconds * 1_000_000_000
    shown, made = _new_codes(desk, person.name, codes.ISSUED, 1, expires)
    await desk.change_person(
        person.name,
        lambda t: t.proofs.replace_codes(person.name, codes.ISSUED, made),
        talk.event("mfa-issue", person.name, {"id": made[0].id, "until": shown_time(expires)}, why=why),
    )
    return Done(
        text=f"a code for one login of `{person.name}` until {shown_time(expires)}; shown this once: {shown[0]}",
        data={"person": person.name, "code": shown[0], "until": shown_time(expires)},
    )


# --- who may ----------------------------------------------------------------------------------------


def _is_own(talk: Conversation, person: str) -> bool:
    return talk.state is State.PERSON and person in ("", talk.person)


async def _not_yours(desk: Authority, talk: Conversation, what: str) -> Refused:
    return await desk.refuse(
        talk, "command-refused", "second factors of another person", "you may not do this",
        "ask an administrator of this bastion", what=what,
    )  # fmt: skip


async def _own_refused(desk: Authority, talk: Conversation, person: str, what: str) -> Refused | None:
    """Attack: a thief of an administrator's key, who makes himself the code that he lacks."""
    if not _is_own(talk, person):
        return None
    return await desk.refuse(
        talk, "command-refused", "one's own second factor", "this is done by somebody else",
        "your own: ssh bastion mfa list, ssh bastion mfa remove ID", what=what,
    )  # fmt: skip


async def _not_shown(desk: Authority, talk: Conversation, person: Person, what: str) -> Refused | None:
    """Refused while there is a second factor that was not shown on this connection."""
    exists = authenticators(person) or usable(person, codes.ISSUED, time.time_ns()) or _verifying_keys(person)
    if not exists or any(kind in SECOND_FACTORS for kind, _ in talk.factors):
        return None
    return await desk.refuse(
        talk, "command-refused", "second factor was not shown on this connection",
        "this needs a code that you enter on this very connection", "log in again and enter a code", what=what,
        need="mfa",
    )  # fmt: skip


def _verifying_keys(person: Person) -> list[str]:
    """Fingerprints of security keys that have to verify their owner."""
    return [key.fingerprint for key in person.keys if parse_authorized_key(key.line).verify_required]


def _new_codes(
    desk: Authority, person: str, kind: str, number: int, expires: int | None = None
) -> tuple[list[str], list[Code]]:
    """As shown, and as kept."""
    key, now = desk.vault.code_key(), time.time_ns()
    shown = [codes.new_code(os.urandom(codes.ENTROPY)) for _ in range(number)]
    made = [
        Code(
            id=secrets.token_hex(16), person=person, kind=kind, mac=codes.mac(key, person, codes.plain(code)),
            created=now, expires=expires,
        )
        for code in shown
    ]  # fmt: skip
    return shown, made


def _person(desk: Authority, name: str) -> Person:
    if not name:
        raise CommandRefused("whose second factor", "name a person")
    if (person := desk.roster.person(name)) is None:
        raise CommandRefused(f"no person `{name[:64]}`", "see `bastion person list`")
    return person
