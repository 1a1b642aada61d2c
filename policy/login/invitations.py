"""Invitations: `ssh join-...@bastion` with a key that is nobody's yet, which becomes the invited person's."""

import base64
import hashlib
import os
import re
import time
from dataclasses import dataclass
from typing import Final

from policy import naming
from policy.authority import Authority
from policy.conversation import Conversation
from policy.keys.sshkeys import PublicKey
from policy.leave.requests import text
from policy.messages import Done, Invite
from policy.naming import CommandRefused, shown_time
from policy.persons.safeguards import no_look_alike, not_above, not_for_oneself
from policy.records import Invitation
from policy.store import Conflict, Tables
from policy.trail.audit import Event

PREFIX: Final = "join-"
SECRET_BYTES: Final = 25
"""200 bits: 40 characters of base32."""
LONGEST: Final = 30 * 24 * 3600
"""Seconds. What lies in a mailbox for longer is found by somebody else."""
_TOKEN: Final = re.compile(r"join-[a-z2-7]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """A key and the invitation it came with; both are looked at again when the key is kept."""

    invitation: Invitation
    key: PublicKey


async def invite(desk: Authority, talk: Conversation, request: Invite) -> Done:
    """The secret is in the answer, once, and nowhere else but hashed."""
    if not 60 <= request.seconds <= LONGEST:
        raise CommandRefused(f"an invitation lasts a minute to {LONGEST // 86400} days", "--for 3d")
    name, now = naming.person_name(request.name), time.time_ns()
    roles = sorted({naming.role_name(role) for role in request.roles})
    person = desk.roster.person(name)
    if person is not None:
        if person.offboarded is not None:
            raise CommandRefused(f"person `{name}` is offboarded", "invite them under another name")
        if person.disabled:
            raise CommandRefused(f"person `{name}` is disabled", f"bastion person set {name} --enable")
        if person.keys:
            # Attack: an invitation for somebody who is here, used to become them.
            raise CommandRefused(f"person `{name}` has a key already", f"bastion person set {name} --add-key FILE")
        if roles and set(roles) != person.roles:
            raise CommandRefused(f"person `{name}` exists already", f"bastion person set {name} --add-role ROLE")
    why = text(request.reason, "reason")
    if person is not None:
        # Attack: an invitation for somebody who may more, who has no key yet, followed by who made it.
        not_above(desk.speaker(talk), person, desk.rules.rights, "an invitation")
        not_for_oneself(talk.person, name, "invitations")
    secret = PREFIX + base64.b32encode(os.urandom(SECRET_BYTES)).decode().lower()
    made = Invitation(
        token=_digest(secret), person=name, made=now, made_by=talk.who, expires=now + request.seconds * 10**9
    )

    def change(t: Tables) -> None:
        if person is None:
            t.add_person(name, now)
            for role in roles:
                t.add_role(name, role)
        t.proofs.add_invitation(made)

    detail = {"roles": " ".join(roles), "until": shown_time(made.expires), "new": "yes" if person is None else ""}
    try:
        await desk.change_person(
            name, change, talk.event("person-invite", name, detail, why=why),
            check=lambda: no_look_alike(name, desk.roster.persons()),
        )  # fmt: skip
    except Conflict:
        raise CommandRefused(f"person `{name}` exists already", f"see `bastion person show {name}`") from None
    return Done(
        text=f"invited `{name}`, once, until {shown_time(made.expires)}; shown this once: ssh {secret}@bastion",
        data={"person": name, "roles": " ".join(roles), "until": shown_time(made.expires), "token": secret},
    )


def is_one(claim: str) -> bool:
    """Whether this login name is an invitation, good or not."""
    return _TOKEN.fullmatch(claim) is not None


async def invited(desk: Authority, claim: str, key: PublicKey) -> Joining | None:
    """What this login name and key would lead to, if the name is an invitation that holds."""
    if not is_one(claim):
        return None
    found = await desk.ledger.read(lambda t: t.proofs.invitation(_digest(claim)))
    if found is None or found.expires <= time.time_ns():
        return None
    person = desk.roster.person(found.person)
    if person is None or person.keys:
        return None
    return Joining(invitation=found, key=key)


async def join(desk: Authority, talk: Conversation, name: str, joining: Joining) -> bool:
    """Use it up and keep the key, both or neither; false if somebody was faster."""
    now, key = time.time_ns(), joining.key

    def change(t: Tables) -> None:
        if not t.proofs.use_invitation(joining.invitation.token, now):
            raise Conflict("the invitation is used or over")
        if t.proofs.has_key(name):
            raise Conflict("the person has a key by now")
        t.proofs.add_key(name, key.fingerprint, key.line(), now)

    event = Event(
        event="person-join", who=name, what=name, source=talk.source,
        detail={"key": key.fingerprint, "invited by": joining.invitation.made_by},
    )  # fmt: skip
    try:
        await desk.change_person(name, change, event)
    except Conflict:
        return False
    return True


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
