"""Second factors: enrolled, checked once per code, and remembered for the rules that ask how old a proof is."""

import os
import secrets
import time
from typing import Final

from policy.authority import Authority
from policy.conversation import Conversation, State
from policy.lockouts import CODE
from policy.messages import Done, MfaEnrol, MfaList, MfaReset, Refused, Rows
from policy.mfa import totp
from policy.naming import CommandRefused, counted, shown_time
from policy.rights import Right
from policy.roster import TOTP
from policy.store import Tables
from policy.store.records import Person
from policy.vault import Secret

SEALED: Final = "totp"
"""Purpose in the vault."""


async def check_code(desk: Authority, name: str, code: str) -> bool:
    """Whether this code of this person is right and unused; using it up is part of the answer."""
    found = desk.roster.totp(name)
    if found is None:
        return False
    secret = desk.vault.open(SEALED, found.id, 1, found.sealed)
    last = await desk.ledger.read(lambda t: t.last_step(found.id))
    step = totp.check(secret.reveal().decode(), code, time.time(), last)
    if step is None:
        return False
    # Of twenty at once with the same code one is stored; the others lose the race and are wrong.
    return await desk.ledger.write(lambda t: t.use_step(found.id, step, time.time_ns()), durable=True)


async def mfa_enrol(desk: Authority, talk: Conversation, request: MfaEnrol) -> Done:
    """The secret is in the answer, once, and nowhere else but sealed."""
    person = _person(desk, request.person)
    if person.totp:
        raise CommandRefused(
            f"person `{person.name}` has a second factor already", f"remove it first: `bastion mfa reset {person.name}`"
        )
    secret, ident, now = totp.new_secret(os.urandom(totp.SECRET_BYTES)), secrets.token_hex(16), time.time_ns()
    sealed = desk.vault.seal(SEALED, ident, 1, Secret(secret.encode()))
    await desk.change_person(
        person.name,
        lambda t: t.add_authenticator(person.name, ident, TOTP, sealed, now),
        talk.event("mfa-enrol", person.name, {"kind": TOTP, "id": ident}),
    )
    return Done(
        text=f"enrolled a second factor for `{person.name}`; shown this once: {secret}",
        data={"person": person.name, "uri": totp.otpauth_uri(secret, person.name), "secret": secret},
    )


async def mfa_list(desk: Authority, talk: Conversation, request: MfaList) -> Rows | Refused:
    """A person's own; another's for administrators."""
    own = talk.state is State.PERSON and request.person in ("", talk.person)
    if not own and not desk.has_right(talk, Right.ADMINISTER):
        return await desk.refuse(
            talk, "command-refused", "second factors of another person", "you may not do this",
            "ask an administrator of this bastion", what="MfaList",
        )  # fmt: skip
    person = _person(desk, talk.person if own else request.person)
    await desk.ledger.note(talk.event("view", f"second factors of {person.name}"))
    last = await desk.ledger.read(lambda t: {one.id: t.last_step(one.id) for one in person.totp})
    return Rows(
        columns=["id", "kind", "enrolled", "last used"],
        rows=[
            [
                one.id, one.kind, shown_time(one.created),
                shown_time(last[one.id] * totp.STEP * 1_000_000_000) if last[one.id] >= 0 else "never",
            ]
            for one in person.totp
        ],
    )  # fmt: skip


async def mfa_reset(desk: Authority, talk: Conversation, request: MfaReset) -> Done:
    person = _person(desk, request.person)
    if not person.totp:
        raise CommandRefused(
            f"person `{person.name}` has no second factor", f"add one: `bastion mfa enrol {person.name}`"
        )

    def change(t: Tables) -> None:
        t.remove_authenticators(person.name)
        t.clear_failures(CODE, person.name)

    await desk.change_person(
        person.name,
        change,
        talk.event("mfa-reset", person.name),
    )
    desk.lockouts.clear(CODE, person.name)
    desk.proofs.forget(person.name)
    return Done(
        text=f"removed {counted(len(person.totp), 'second factor')} of `{person.name}`",
        data={"person": person.name, "removed": str(len(person.totp))},
    )


def _person(desk: Authority, name: str) -> Person:
    if (person := desk.roster.person(name)) is None:
        raise CommandRefused(f"no person `{name[:64]}`", "see `bastion person list`")
    return person
