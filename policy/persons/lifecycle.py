"""The end of a person: everything they have, gave out or wait for ends with them, in one transaction.

The name stays, so that nobody inherits its history; sessions, decided requests, votes, revoked grants and reviews stay
as that history. `tests/policy/persons/test_lifecycle.py` looks through every table for what is left over.
"""

import time

from policy.authority import Authority, ended_note
from policy.conversation import Conversation
from policy.leave.deciding import closed
from policy.leave.requests import State as Is
from policy.leave.requests import text
from policy.login.lockouts import CODE, PERSON
from policy.messages import Done, PersonOffboard
from policy.naming import CommandRefused
from policy.persons.safeguards import administrators, keep_an_administrator, not_for_oneself
from policy.records import Person
from policy.sessions.access import recheck
from policy.sessions.words import place_of
from policy.store import Tables

OVER = "offboarded"
SOME = 5
"""Of what somebody owns, named in an error."""


async def person_offboard(desk: Authority, talk: Conversation, request: PersonOffboard) -> Done:
    person = desk.roster.person(request.name)
    if person is None:
        raise CommandRefused(f"no person `{request.name[:64]}`", "see `bastion person list`")
    if person.offboarded is not None:
        raise CommandRefused(f"person `{person.name}` is offboarded already")
    why = text(request.reason, "reason")
    async with desk.deciding:
        kept = [record.name for record in await desk.ledger.read(lambda t: t.shares.owned_by(person.name))]
        heir, inherited = _heir(desk, talk, desk.roster.person(request.name) or person, request.heir, kept)
        grants, requests = desk.standing.of_person(person.name), desk.standing.requests_of(person.name)
        now = time.time_ns()

        def change(t: Tables) -> None:
            t.offboard(person.name, now)
            for record in t.shares.owned_by(person.name):
                if heir is None:  # another one than were there before: added while we looked
                    raise CommandRefused(_nobodys(person.name, [record.name]), _name_an_heir(person.name))
                t.vault.set_secret(record.id, owner=heir.name, note=record.note, now=now)
            t.applications.pass_on(person.name, heir.name if heir else "", now)
            for share in t.shares.with_subject("person", person.name):
                t.shares.end(share.id, talk.who, now)
            for scope in inherited:
                t.add_owner(request.heir, scope)
            for grant in grants:
                t.access.revoke_grant(grant.id, talk.who, OVER, now)
            for one in requests:
                t.access.close_request(one.id, Is.CANCELLED, talk.who, now)
            for kind in (PERSON, CODE):
                t.clear_failures(kind, person.name)

        detail = {
            "roles before": " ".join(sorted(person.roles)),
            "keys before": " ".join(key.fingerprint for key in person.keys),
            "owned before": " ".join(person.owns),
            "secrets before": " ".join(kept),
            "applications before": " ".join(one.name for one in desk.applications.all() if one.owner == person.name),
            "heir": heir.name if heir else "",
        }
        events = [talk.event("person-offboard", person.name, detail, why=why)]
        for grant in grants:
            given = {"person": person.name, "place": place_of(grant)}
            events.append(talk.event("grant-revoke", grant.id, given, why=OVER))
        for one in requests:
            asked = {"person": person.name, "place": place_of(one)}
            events.append(talk.event("request-cancel", one.id, asked, why=OVER))
        if heir is not None and inherited:
            owned = {"owned before": " ".join(heir.owns), "owned after": " ".join(sorted({*heir.owns, *inherited}))}
            owned["from"] = person.name
            events.append(talk.event("owner-add", heir.name, owned, why=f"`{person.name}` left"))
        names = [person.name, *([heir.name] if heir else [])]
        await desk.change_persons(names, change, *events, check=lambda: check_last(desk, person.name, None))
        # From here it is kept; if we die, the next start reads a person who is gone and grants that are revoked.
        for grant in grants:
            desk.standing.drop(grant.id)
        for one in requests:
            closed(desk, one.id)
    desk.applications.pass_on(person.name, heir.name if heir else "", now)
    desk.proofs.forget(person.name)
    for kind in (PERSON, CODE):
        desk.lockouts.clear(kind, person.name)
    # Also what they approved for others: it rests on nobody any more.
    ended = await desk.end_person(person.name, talk.who, OVER) + await recheck(desk, by=talk.who)
    handed = f"; `{heir.name}` owns {' '.join(inherited)}" if heir and inherited else ""
    return Done(
        text=f"offboarded person `{person.name}`: roles, keys, password, second factors, requests and grants are gone"
        f"{handed}{ended_note(ended)}",
        data={
            "person": person.name, "sessions_ended": str(ended), "heir": heir.name if heir else "",
            "grants_ended": str(len(grants)), "requests_ended": str(len(requests)),
        },
    )  # fmt: skip


def check_last(desk: Authority, name: str, after: Person | None) -> None:
    """CommandRefused if nobody could administer once this person is `after`; None: gone."""
    persons, rights = desk.roster.persons(), desk.rules.rights
    changed = [one for one in persons if one.name != name] + ([after] if after is not None else [])
    certificates = bool(desk.trusted_cas)
    keep_an_administrator(
        administrators(persons, rights, certificates=certificates),
        administrators(changed, rights, certificates=certificates),
    )


def _nobodys(name: str, owned: list[str]) -> str:
    more = f" and {len(owned) - SOME} more" if len(owned) > SOME else ""
    return f"`{name}` owns {', '.join(f'`{one}`' for one in owned[:SOME])}{more}, which would belong to nobody"


def _name_an_heir(name: str) -> str:
    return f"name who takes over: `bastion person offboard {name} --heir NAME`"


def _heir(
    desk: Authority, talk: Conversation, person: Person, name: str, kept: list[str]
) -> tuple[Person | None, list[str]]:
    """Who takes over which scopes. CommandRefused if something would belong to nobody."""
    if (person.owns or kept) and not name:
        raise CommandRefused(_nobodys(person.name, [*person.owns, *kept]), _name_an_heir(person.name))
    if not name:
        return None, []
    heir = desk.roster.person(name)
    if heir is None or heir.disabled or heir.name == person.name:
        raise CommandRefused(f"`{name[:64]}` cannot take over: no such person, disabled, or the one who leaves")
    not_for_oneself(talk.person, heir.name, "ownership")
    return heir, [scope for scope in person.owns if scope not in heir.owns]
