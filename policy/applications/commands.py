"""Commands on applications: which there are, what binds them, their tokens, what they hold.

An administrator adds, disables and removes applications. What binds one, and what proves it, is its owner's alone:
who may say which program an application is reads what is shared with it.
"""

import re
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import PurePosixPath
from secrets import token_hex
from typing import Final

from policy.applications.judging import bindings, digest_of
from policy.applications.rates import DEFAULT_RATE, MAX_RATE
from policy.applications.renewing import MAX_TOKENS, new_secret
from policy.authority import Authority
from policy.conversation import Conversation, State
from policy.leave.requests import text
from policy.messages import (
    ApplicationAdd,
    ApplicationList,
    ApplicationRemove,
    ApplicationRevoke,
    ApplicationSet,
    ApplicationShow,
    ApplicationToken,
    Done,
    LeaseList,
    Rows,
)
from policy.names import BadName, check_application_name, check_network
from policy.naming import CommandRefused, counted, shown_time
from policy.paging import counted_out, paged
from policy.persons.safeguards import not_for_oneself
from policy.records import Application, BrokerToken
from policy.rules.rights import Right
from policy.rules.windows import format_duration
from policy.store import Conflict, Tables
from policy.trail.audit import Event, clean

MAX_ADDRESSES: Final = 16
LONGEST_TOKEN: Final = 24 * 3600
"""Seconds: short-lived, so that one that is lost is worth nothing the day after."""
LONGEST_RENEWABLE: Final = 90 * 24 * 3600
"""Seconds from a token to the last one that comes of it by renewing: then somebody answers for it anew."""
MAX_UID: Final = 2**32 - 2
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_UNIT: Final = re.compile(r"[A-Za-z0-9:_.@\\-]{1,240}\.(service|scope)")

COLUMNS: Final = ["application", "owner", "state", "bindings", "rate"]
UNBOUND: Final = "--uid USER, --unit FOO.service, --executable /PATH, --certificate SHA256, --address NETWORK"


async def application_add(desk: Authority, talk: Conversation, request: ApplicationAdd) -> Done:
    if not desk.has_right(talk, Right.ADMINISTER):
        raise CommandRefused("you may not do this", "ask an administrator of this bastion", code=77)
    try:
        name = check_application_name(request.name)
    except BadName as error:
        raise CommandRefused(str(error)) from None
    application = Application(
        name=name, owner=_owner(desk, talk, request.owner) if request.owner else talk.person,
        uid=_uid(request.uid), unit=_unit(request.unit), executable=_executable(request.executable),
        certificate=_certificate(request.certificate), addresses=_addresses(request.addresses),
        rate=_rate(request.rate or DEFAULT_RATE), renewable=_renewable(request.renewable),
        created=time.time_ns(), made_by=talk.who[:64],
    )  # fmt: skip
    _check_bound(application)
    event = talk.event("application-add", name, _detail(application), why=text(request.reason, "reason"))
    try:
        await desk.ledger.write(lambda t: t.applications.add(application), event, durable=True)
    except Conflict as error:
        raise CommandRefused(str(error), f"see: bastion application show {name}") from None
    desk.applications.put(application)
    return Done(text=f"added application `{name}`: {_bound(application)}", data=_detail(application) | {"name": name})


async def application_set(desk: Authority, talk: Conversation, request: ApplicationSet) -> Done:
    before = _theirs(desk, talk, request.name)
    binds = (request.uid, request.unit, request.executable, request.certificate, request.addresses)
    if any(one is not None for one in binds):
        _check_own(desk, talk, before, "its bindings are")
    if request.renewable is not None and not desk.has_right(talk, Right.ADMINISTER):
        # Attack: an owner on their last day makes their token last for months.
        raise CommandRefused("how long tokens are renewed is not its owner's to set", "ask an administrator", code=77)
    if request.owner and before.owner != request.owner:
        owner = _owner(desk, talk, request.owner)
        # Attack: an administrator makes an application their own, binds it to themselves, and reads what it may.
        not_for_oneself(talk.person, owner, "an application")
    else:
        owner = before.owner
    after = replace(
        before, owner=owner,
        uid=before.uid if request.uid is None else _uid(request.uid),
        unit=before.unit if request.unit is None else _unit(request.unit),
        executable=before.executable if request.executable is None else _executable(request.executable),
        certificate=before.certificate if request.certificate is None else _certificate(request.certificate),
        addresses=before.addresses if request.addresses is None else _addresses(request.addresses),
        rate=_rate(request.rate) if request.rate else before.rate,
        renewable=before.renewable if request.renewable is None else _renewable(request.renewable),
        disabled=before.disabled if request.disabled is None else request.disabled,
    )  # fmt: skip
    if after == before:
        raise CommandRefused("nothing to change", "see: bastion application set --help")
    _check_bound(after)
    ends = after.disabled and not before.disabled
    detail = {f"{key} before": value for key, value in _detail(before).items() if value != _detail(after)[key]}
    event = talk.event("application-set", before.name, detail | _detail(after), why=text(request.reason, "reason"))

    def change(t: Tables) -> int:
        t.applications.put(after)
        return t.applications.end_leases(before.name, time.time_ns()) if ends else 0

    ended = await desk.ledger.write(change, event, durable=True)
    desk.applications.put(after)
    note = f"; ended {counted(ended, 'lease')}" if ended else ""
    return Done(text=f"changed application `{after.name}`{note}", data=_detail(after) | {"name": after.name})


async def application_list(desk: Authority, talk: Conversation, request: ApplicationList) -> Rows:
    """One's own; everybody's for administrators and auditors."""
    every = desk.has_right(talk, Right.ADMINISTER) or desk.has_right(talk, Right.AUDIT)
    shown = [one for one in desk.applications.all() if every or (one.owner and one.owner == talk.person)]
    rows = [
        (one.name, [one.name, one.owner, "disabled" if one.disabled else "", _bound(one), str(one.rate)])
        for one in shown
    ]
    return paged(COLUMNS, rows, request.after, request.limit)


async def application_show(desk: Authority, talk: Conversation, request: ApplicationShow) -> Rows:
    one = _theirs(desk, talk, request.name, Right.AUDIT)
    now = time.time_ns()
    leases = await desk.ledger.read(lambda t: len(t.applications.leases(now, one.name)))
    rows = [[key, value] for key, value in _detail(one).items() if value]
    rows += [["created", shown_time(one.created)], ["made by", one.made_by], ["leases", str(leases)]]
    rows += [
        [
            f"token {token.id}",
            f"until {shown_time(token.expires)}, from {token.certificate or ' '.join(token.addresses)}"
            + (f", renewed from {token.first}" if token.first != token.id else ""),
        ]
        for token in desk.applications.tokens(one.name, now)
    ]
    return Rows(columns=["what", "value"], rows=[["name", one.name], *rows])


async def application_remove(desk: Authority, talk: Conversation, request: ApplicationRemove) -> Done:
    """With its tokens, its leases and what is shared with it."""
    one = _theirs(desk, talk, request.name)
    event = talk.event("application-remove", one.name, _detail(one), why=text(request.reason, "reason"))
    await desk.ledger.write(lambda t: t.applications.remove(one.name, time.time_ns()), event, durable=True)
    desk.applications.remove(one.name)
    return Done(text=f"removed application `{one.name}`", data={"name": one.name})


async def application_token(desk: Authority, talk: Conversation, request: ApplicationToken) -> Done:
    one, now = _theirs(desk, talk, request.name), time.time_ns()
    _check_own(desk, talk, one, "tokens for it are")
    certificate, addresses = _certificate(request.certificate), _addresses(request.addresses)
    if not certificate and not addresses:
        certificate, addresses = one.certificate, () if one.certificate else one.addresses
    if not certificate and not addresses:
        raise CommandRefused("a token is good from one place alone", "--address NETWORK, or --certificate SHA256")
    if one.uid is not None or one.unit or one.executable:
        raise CommandRefused(
            f"`{one.name}` is bound to this machine, and reads by its socket alone",
            "make another application for what comes by HTTPS",
        )
    if not 1 <= request.seconds <= LONGEST_TOKEN:
        raise CommandRefused(f"a token lasts at most {LONGEST_TOKEN // 3600} hours", "--for 1h")
    if one.disabled:
        raise CommandRefused(f"application `{one.name}` is disabled", f"bastion application enable {one.name}")
    if len(desk.applications.tokens(one.name, now)) >= MAX_TOKENS:
        raise CommandRefused(f"`{one.name}` has {MAX_TOKENS} tokens", f"bastion application revoke {one.name}")
    secret, ident = new_secret(), f"t{token_hex(5)}"
    token = BrokerToken(
        id=ident, application=one.name, digest=digest_of(secret), certificate=certificate,
        addresses=addresses, made=now, made_by=talk.who[:64], expires=now + request.seconds * 1_000_000_000,
        first=ident, since=now, seconds=request.seconds,
    )  # fmt: skip
    shown = {"token id": token.id, "certificate": certificate, "addresses": " ".join(addresses),
             "until": shown_time(token.expires)}  # fmt: skip
    event = talk.event("application-token", one.name, shown, why=text(request.reason, "reason"))
    await desk.ledger.write(lambda t: t.applications.add_token(token), event, durable=True)
    desk.applications.put_token(token, now)
    return Done(
        text=f"token {token.id} for `{one.name}` until {shown['until']}, good from "
        f"{certificate or ' '.join(addresses)}; shown this once: {secret}",
        data={"name": one.name, "id": token.id, "until": shown["until"], "token": secret},
    )


async def application_revoke(desk: Authority, talk: Conversation, request: ApplicationRevoke) -> Done:
    one, now = _theirs(desk, talk, request.name), time.time_ns()
    known = desk.applications.of_row(one.name, now, request.ident)

    def change(t: Tables) -> int:
        t.applications.revoke_tokens(one.name, now, request.ident)
        return t.applications.end_leases(one.name, now, request.ident)

    detail = {"tokens": " ".join(token.id for token in known), "named": request.ident[:64]}
    event = talk.event("application-revoke", one.name, detail, why=text(request.reason, "reason"))
    ended = await desk.ledger.write(change, event, durable=True)
    tokens = desk.applications.revoke(one.name, now, request.ident)  # also what was renewed while we wrote
    if request.ident and not (tokens or ended):
        raise CommandRefused(f"`{one.name}` has no token or lease `{clean(request.ident, 64)}`",
                             f"see: bastion application show {one.name}")  # fmt: skip
    return Done(
        text=f"took back {counted(len(tokens), 'token')} and {counted(ended, 'lease')} of `{one.name}`",
        data={"name": one.name, "tokens": str(len(tokens)), "leases": str(ended)},
    )


async def lease_list(desk: Authority, talk: Conversation, request: LeaseList) -> Rows:
    """An application's, for its owner; everybody's for administrators and auditors."""
    if request.name:
        _theirs(desk, talk, request.name, Right.AUDIT)
    elif not (desk.has_right(talk, Right.ADMINISTER) or desk.has_right(talk, Right.AUDIT)):
        raise CommandRefused("what others hold is not shown to you", "name one that is yours", code=77)
    await desk.ledger.note(Event(event="view", who=talk.who, what="leases", source=talk.source))
    now = time.time_ns()
    leases = await desk.ledger.read(lambda t: t.applications.leases(now, request.name, request.after))
    rows = (
        (one.id, [one.id, one.application, one.secret, str(one.version), one.source, shown_time(one.at),
                  shown_time(one.expires)])
        for one in leases
    )  # fmt: skip
    page = counted_out(["lease", "application", "secret", "version", "source", "read", "until"], rows, request.limit)
    full = not page.next and len(leases) == 1000
    return Rows(columns=page.columns, rows=page.rows, note=page.note, next=leases[-1].id if full else page.next)


# --- whose, and what is written -------------------------------------------------------------------------


def _theirs(desk: Authority, talk: Conversation, name: str, also: Right = Right.ADMINISTER) -> Application:
    """The application, for an administrator or its owner; the same words whether it exists."""
    one = desk.applications.get(name)
    owner = one is not None and one.owner != "" and one.owner == talk.person
    if not (owner or desk.has_right(talk, Right.ADMINISTER) or desk.has_right(talk, also)):
        raise CommandRefused("you may not do this", "ask its owner, or an administrator of this bastion", code=77)
    if one is None:
        raise CommandRefused(f"no application `{clean(name, 64)}`", "see: bastion application list")
    return one


def _check_own(desk: Authority, talk: Conversation, one: Application, what: str) -> None:
    """Attack: an administrator, who may see no secret, gives themselves a token of an application that may."""
    if talk.state is not State.OPERATOR and (not one.owner or one.owner != talk.person):
        raise CommandRefused(
            f"`{one.name}` is not yours: {what} its owner's to set",
            f"ask `{one.owner}`" if one.owner else "give it to somebody first: bastion application set --owner PERSON",
            code=77,
        )


def _owner(desk: Authority, talk: Conversation, name: str) -> str:
    person = desk.roster.person(name)
    if person is None or person.disabled:
        raise CommandRefused(f"no person `{clean(name, 64)}`, or they are disabled", "see: bastion person list")
    return str(person.name)


def _check_bound(one: Application) -> None:
    if not any(bindings(one).values()):
        raise CommandRefused(f"nothing says who `{one.name}` is: at least one binding is needed", f"one of {UNBOUND}")
    if (one.uid is not None or one.unit or one.executable) and (one.certificate or one.addresses):
        raise CommandRefused(
            "no connection is local and comes by HTTPS, so these bindings never hold together", "make two applications"
        )


def _uid(number: int) -> int | None:
    if number < -1 or number > MAX_UID:
        raise CommandRefused(f"uid {number}, want 0 to {MAX_UID}")
    return None if number < 0 else number


def _unit(name: str) -> str:
    if name and not _UNIT.fullmatch(name):
        raise CommandRefused(f"unit `{clean(name, 64)}`, want one like `shop.service`", "see: systemctl list-units")
    return name


def _executable(path: str) -> str:
    if path and (len(path) > 4000 or not path.startswith("/") or str(PurePosixPath(path)) != path or ".." in path):
        raise CommandRefused(f"executable `{clean(path, 64)}`, want a whole path", "write it as /usr/bin/shop")
    return path


def _certificate(fingerprint: str) -> str:
    plain = fingerprint.strip().lower().removeprefix("sha256:").replace(":", "")
    if plain and not _FINGERPRINT.fullmatch(plain):
        raise CommandRefused(
            f"certificate `{clean(fingerprint, 80)}` is no SHA-256 fingerprint",
            "see it: openssl x509 -in CLIENT.crt -noout -fingerprint -sha256",
        )
    return plain


def _addresses(networks: list[str]) -> tuple[str, ...]:
    if len(networks) > MAX_ADDRESSES:
        raise CommandRefused(f"{len(networks)} networks, at most {MAX_ADDRESSES}")
    try:
        return tuple(dict.fromkeys(check_network(one) for one in networks))
    except BadName as error:
        raise CommandRefused(str(error)) from None


def _rate(number: int) -> int:
    if not 1 <= number <= MAX_RATE:
        raise CommandRefused(f"{number} reads a second, want 1 to {MAX_RATE}")
    return number


def _renewable(seconds: int) -> int:
    if not 0 <= seconds <= LONGEST_RENEWABLE:
        raise CommandRefused(f"tokens are renewed for at most {LONGEST_RENEWABLE // 86400} days", "--renewable 30d")
    return seconds


def _detail(one: Application) -> dict[str, str]:
    return {
        "owner": one.owner,
        **bindings(one),
        "rate": str(one.rate),
        "renewable": format_duration(timedelta(seconds=one.renewable)) if one.renewable else "",
        "state": "disabled" if one.disabled else "in use",
    }


def _bound(one: Application) -> str:
    return ", ".join(f"{key} {value}" for key, value in bindings(one).items() if value)
