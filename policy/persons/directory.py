"""Commands on persons: what is stored about them, and what is answered. No secret comes back."""

import time
from dataclasses import replace

from policy import naming
from policy.authority import Authority, ended_note
from policy.conversation import Conversation
from policy.ldap.sync import brings_mail_of
from policy.leave.requests import text
from policy.login.lockouts import CODE, PERSON
from policy.messages import Done, PersonAdd, PersonList, PersonSet, PersonShow, Rows
from policy.naming import CommandRefused, counted
from policy.paging import paged
from policy.persons.lifecycle import check_last
from policy.persons.safeguards import no_look_alike, not_above, not_for_oneself
from policy.records import Person, PersonKey
from policy.sessions.access import recheck
from policy.store import Conflict, Tables


async def person_add(desk: Authority, talk: Conversation, request: PersonAdd) -> Done:
    name = naming.person_name(request.name)
    keys = naming.person_keys(request.keys)
    roles = sorted({naming.role_name(role) for role in request.roles})
    mail = naming.mail(request.mail)
    why = text(request.reason, "reason")
    phc = await desk.hashed(request.password)
    now = time.time_ns()

    def change(t: Tables) -> None:
        t.add_person(name, now, mail=mail)
        for role in roles:
            t.add_role(name, role)
        for fingerprint, line in keys.items():
            t.add_key(name, fingerprint, line, now)
        if phc:
            t.put_password(name, phc, now)

    detail = {"roles": " ".join(roles), "keys": " ".join(keys), "password": "set" if phc else "", "mail": mail}
    try:
        await desk.change_person(
            name, change, talk.event("person-add", name, detail, why=why),
            check=lambda: no_look_alike(name, desk.roster.persons()),
        )  # fmt: skip
    except Conflict as error:
        raise _taken(name, error) from None
    return Done(
        text=f"added person `{name}`: {counted(len(roles), 'role')}, {counted(len(keys), 'key')}"
        + (", a password" if phc else ""),
        data={"person": name, "roles": " ".join(roles), "keys": " ".join(keys)},
    )


async def person_set(desk: Authority, talk: Conversation, request: PersonSet) -> Done:
    person = _person(desk, request.name)
    if person.offboarded is not None:
        raise CommandRefused(f"person `{person.name}` is offboarded", "add the person again under another name")
    add = {naming.role_name(role) for role in request.add_roles}
    add -= person.roles
    remove = set(request.remove_roles)
    if missing := remove - person.roles:
        raise CommandRefused(f"person `{person.name}` has no role {_listed(missing)}")
    mine = {key.fingerprint for key in person.keys}
    if missing := set(request.remove_keys) - mine:
        raise CommandRefused(
            f"person `{person.name}` has no key {_listed(missing)}", f"see `bastion person show {person.name}`"
        )
    keys = {print_: line for print_, line in naming.person_keys(request.add_keys).items() if print_ not in mine}
    if len(mine) + len(keys) > naming.MAX_KEYS:
        raise CommandRefused(
            f"person `{person.name}` would have {len(mine) + len(keys)} keys, at most {naming.MAX_KEYS}"
        )
    mail = None if request.mail is None else naming.mail(request.mail)
    if mail is not None and brings_mail_of(desk, person):
        raise CommandRefused(f"the mail address of `{person.name}` comes from the directory", "change it there")
    why = text(request.reason, "reason")
    if add:
        not_for_oneself(talk.person, person.name, "roles")
    if keys or request.password:
        not_above(desk.speaker(talk), person, desk.rules.rights, "what proves them")
    phc = await desk.hashed(request.password)
    now = time.time_ns()
    left = [key for key in person.keys if key.fingerprint not in request.remove_keys]
    after = replace(
        person, roles=(person.roles | add) - remove, phc=phc or person.phc,
        keys=(*left, *(PersonKey(fingerprint=print_, line=line) for print_, line in keys.items())),
        disabled=person.disabled if request.disabled is None else request.disabled,
        mail=person.mail if mail is None else mail,
    )  # fmt: skip

    def check() -> None:
        now_is = _person(desk, request.name)
        if replace(now_is, owns=()) != replace(person, owns=()):
            raise CommandRefused(f"person `{person.name}` was changed meanwhile", "look again, and repeat the command")
        check_last(desk, person.name, after)

    def change(t: Tables) -> None:
        for role in sorted(add):
            t.add_role(person.name, role)
        for role in sorted(remove):
            t.remove_role(person.name, role)
        for fingerprint, line in keys.items():
            t.add_key(person.name, fingerprint, line, now)
        for fingerprint in request.remove_keys:
            t.remove_key(person.name, fingerprint)
        if phc:
            t.put_password(person.name, phc, now)
            t.clear_failures(PERSON, person.name)
        if mail is not None:
            t.set_mail(person.name, mail)
        if request.disabled is not None:
            t.set_disabled(person.name, request.disabled)
            if not request.disabled:
                t.clear_failures(PERSON, person.name)
                t.clear_failures(CODE, person.name)

    changes = {
        "roles added": " ".join(sorted(add)),
        "roles removed": " ".join(sorted(remove)),
        "keys added": " ".join(keys),
        "keys removed": " ".join(request.remove_keys),
        "password": "set" if phc else "",
        "disabled": "" if request.disabled is None else str(request.disabled).lower(),
        "mail": "" if mail is None else mail or "none",
    }
    changes = {key: value for key, value in changes.items() if value}
    if not changes:
        raise CommandRefused(f"nothing to change about person `{person.name}`")
    try:
        event = talk.event("person-set", person.name, changes | _before_and_after(person, after), why=why)
        await desk.change_person(person.name, change, event, check=check)
    except Conflict as error:
        raise _taken(person.name, error) from None
    if phc or request.disabled is False:
        desk.lockouts.clear(PERSON, person.name)
    if request.disabled is False:
        desk.lockouts.clear(CODE, person.name)
    if request.disabled:
        ended = await desk.end_person(person.name, talk.who, "disabled")
        ended += await recheck(desk, by=talk.who)  # what they approved for others rests on nobody any more
    else:
        ended = await recheck(desk, by=talk.who, person=person.name) if remove else 0
    said = "; ".join(f"{key} {value}" for key, value in changes.items())
    return Done(
        text=f"changed person `{person.name}`: {said}{ended_note(ended)}", data={"person": person.name, **changes}
    )


async def person_list(desk: Authority, talk: Conversation, request: PersonList) -> Rows:
    await desk.ledger.note(talk.event("view", "persons", {"after": request.after}))
    return paged(
        ["person", "roles", "keys", "password", "second factor", "state"],
        (
            (
                one.name,
                [
                    one.name, " ".join(sorted(one.roles)), str(len(one.keys)), "yes" if one.phc else "no",
                    "yes" if one.totp else "no", _state(one),
                ],
            )
            for one in desk.roster.persons()
            if one.name > request.after
        ),
        request.after,
        request.limit,
    )  # fmt: skip


async def person_show(desk: Authority, talk: Conversation, request: PersonShow) -> Rows:
    one = _person(desk, request.name)
    await desk.ledger.note(talk.event("view", f"person {one.name}", {}))
    rows = [["name", one.name], ["state", _state(one)], ["roles", " ".join(sorted(one.roles))]]
    rows += [["key", f"{key.fingerprint} {key.line}"] for key in one.keys]
    rows += [["password", "yes" if one.phc else "no"], ["second factor", "yes" if one.totp else "no"]]
    now = time.time()
    ways = {"password": desk.lockouts.locked_person(one.name, now), "code": desk.lockouts.locked_code(one.name, now)}
    rows += [["locked", " ".join(way for way, locked in ways.items() if locked) or "no"]]
    rows += [["mail", one.mail]] if one.mail else []
    rows += [["comes from", one.origin]] if one.origin != "local" else []
    rows += [["owns", scope] for scope in one.owns]
    rows += [["session", live.id] for live in desk.sessions.of_person(one.name)]
    return Rows(columns=["field", "value"], rows=rows)


def _person(desk: Authority, name: str) -> Person:
    if (person := desk.roster.person(name)) is None:
        raise CommandRefused(f"no person `{name[:64]}`", "see `bastion person list`")
    return person


def _state(person: Person) -> str:
    if person.offboarded is not None:
        return "offboarded"
    return "disabled" if person.disabled else "active"


def _before_and_after(before: Person, after: Person) -> dict[str, str]:
    """Roles, keys and address as they were and are, of what changed: whoever reads one event needs no other."""
    shown: dict[str, str] = {}
    if before.roles != after.roles:
        shown |= {"roles before": " ".join(sorted(before.roles)) or "none"}
        shown |= {"roles after": " ".join(sorted(after.roles)) or "none"}
    if before.keys != after.keys:
        shown |= {"keys before": str(len(before.keys)), "keys after": str(len(after.keys))}
    if before.mail != after.mail:
        shown |= {"mail before": before.mail or "none", "mail after": after.mail or "none"}
    return shown


def _listed(words: set[str]) -> str:
    return ", ".join(f"`{word[:64]}`" for word in sorted(words))


def _taken(name: str, error: Conflict) -> CommandRefused:
    if "key.fingerprint" in str(error):
        return CommandRefused("one of the keys belongs to another person already: a key names one person alone")
    return CommandRefused(f"person `{name}` exists already", f"see `bastion person show {name}`")
