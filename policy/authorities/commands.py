"""Operators' commands on authorities: shown, rotated, retired; certificates and keys revoked; the list of these."""

import base64
import time
from typing import Final

from policy.authorities import keeping, life, publishing, revocation
from policy.authorities.life import Authorities, NotNow, Use
from policy.authorities.revocation import MAX_LISTED, Kind
from policy.authority import Authority
from policy.conversation import Conversation
from policy.keys import sshkeys
from policy.leave.requests import text
from policy.messages import CaKrl, CaLines, CaRetire, CaRevoke, CaRotate, CaShow, Done, Rows
from policy.naming import CommandRefused, shown_time
from policy.store import Tables
from policy.trail.audit import Event, clean

PART: Final = 32 * 1024
"""Bytes of the list in one message, which holds 64 KiB: base64 takes a third more."""


async def ca_lines(desk: Authority, talk: Conversation, request: CaLines) -> Rows:
    uses = [_use(request.use)] if request.use else list(Use)
    return Rows(columns=["where", "line"], rows=life.lines(desk.authorities, uses))


async def ca_show(desk: Authority, talk: Conversation, _: CaShow) -> Rows:
    rows = [
        [
            ca.name,
            ca.stage.value,
            ca.public.fingerprint,
            shown_time(ca.made),
            shown_time(ca.since),
            shown_time(ca.until),
        ]
        for ca in desk.authorities.all
    ]
    return Rows(columns=["ca", "stage", "key", "made", "signs since", "ended"], rows=rows)


async def ca_rotate(desk: Authority, talk: Conversation, request: CaRotate) -> Done:
    use, why = _use(request.use), text(request.reason, "reason")
    if request.now and request.promote:
        raise CommandRefused("`now` makes and promotes at once: one of the two is enough")
    async with desk.deciding:
        cas = desk.authorities
        try:
            coming = life.to_promote(cas, use) if request.promote else None
            number = coming.number if coming else life.next_number(cas, use)
            if request.now:
                life.may_promote(cas, use)
        except NotNow as error:
            raise CommandRefused(error.cause, error.hint) from None
        key = coming.private if coming else sshkeys.generate_private_key()
        promotes, name, old = request.promote or request.now, f"{use}-{number}", cas.signing(use)
        detail = {"key": key.public.fingerprint}

        def change(t: Tables) -> None:
            if coming is None:
                keeping.make_next(t, desk.vault, use, number, key, talk.who)
            if promotes:
                record = t.vault.named(life.SECRETS[use])
                assert record is not None, "loaded at start"
                t.vault.promote(record.id, number, time.time_ns())
                t.authorities.signs(record.id, number, time.time_ns())

        events = [talk.event("ca-next", name, detail, why=why)] if coming is None else []
        if promotes:
            events.append(talk.event("ca-promoted", name, {**detail, "before": old.name}, why=why))
        unwritten = await _changed(desk, change, *events)
    if promotes:
        said = f"`{name}` signs from now on; `{old.name}` is trusted until: bastion ca retire {old.name} --reason why"
    else:
        whom = "targets" if use is Use.USER else "clients"
        said = f"made `{name}`: give {whom} its line (bastion ca lines {use}), then: bastion ca rotate {use} --promote"
    return Done(text=f"{said}{unwritten}", data={"ca": name, "stage": "current" if promotes else "next", **detail})


async def ca_retire(desk: Authority, talk: Conversation, request: CaRetire) -> Done:
    why = _reason(request.reason)
    async with desk.deciding:
        try:
            ca = life.to_retire(desk.authorities, request.ca)
        except NotNow as error:
            raise CommandRefused(error.cause, error.hint) from None

        def change(t: Tables) -> None:
            ident = keeping.end(t, desk.vault, ca)
            t.authorities.ended(ident, ca.number, time.time_ns())
            t.authorities.krl_changed(int(time.time()))

        event = talk.event("ca-retired", ca.name, {"key": ca.public.fingerprint, "was": ca.stage.value}, why=why)
        unwritten = await _changed(desk, change, event)
    await desk.rekeying.wipe()
    whom = "targets" if ca.use is Use.USER else "clients"
    return Done(
        text=f"retired `{ca.name}`; its private key is destroyed. Take its line from {whom}, or"
        f" give them the new list: bastion ca krl --to FILE{unwritten}",
        data={"ca": ca.name, "stage": "retired", "key": ca.public.fingerprint},
    )


async def ca_revoke(desk: Authority, talk: Conversation, request: CaRevoke) -> Done:
    why = _reason(request.reason)
    if sum(map(bool, (request.session, request.serial, request.key))) != 1:
        raise CommandRefused("one of a session, a serial and a key is revoked at a time")
    kind, what = await _revoked(desk, request)
    now = time.time_ns()
    event = talk.event("ca-revoke", request.session or what, {"kind": kind, "what": what}, why=why)

    def change(t: Tables) -> None:
        if len(t.authorities.revoked(publishing.oldest(now), MAX_LISTED)) >= MAX_LISTED:
            raise CommandRefused(
                f"{MAX_LISTED} entries are in the list already", "rotate and retire the authority instead"
            )
        t.authorities.revoke(kind, what, now, clean(talk.who, 64), why)
        t.authorities.krl_changed(now // 1_000_000_000)

    await desk.ledger.write(change, event, durable=True)
    async with desk.deciding:
        unwritten = await _published(desk)
    live = desk.sessions.get(request.session) if request.session else None
    more = f"; the session itself goes on until: bastion sessions kill {live.id} --reason why" if live else ""
    return Done(
        text=f"revoked {kind} `{what}`: targets know when they have the new list: bastion ca krl --to FILE{more}"
        f"{unwritten}",
        data={"kind": kind, "what": what},
    )


async def ca_krl(desk: Authority, talk: Conversation, request: CaKrl) -> Done:
    version, entries, data = await publishing.current(desk)
    if request.offset == 0:
        await desk.ledger.note(talk.event("view", "ca krl", {"version": str(version), "entries": str(entries)}))
    start = max(0, request.offset)
    part = base64.b64encode(data[start : start + PART]).decode()
    return Done(
        text=f"version {version} of the list, {len(data)} bytes; as a file: bastion ca krl --to FILE",
        data={"version": str(version), "size": str(len(data)), "list": part},
    )


async def _revoked(desk: Authority, request: CaRevoke) -> tuple[Kind, str]:
    """What is to be listed. CommandRefused if it names nothing."""
    try:
        if request.serial:
            revocation.serials(request.serial)
            return Kind.SERIAL, request.serial
        if request.key:
            return Kind.KEY, revocation.key_fingerprint(request.key)
    except ValueError as error:
        raise CommandRefused(str(error)) from None
    found = await desk.ledger.read(lambda t: t.session(request.session))
    if found is None:
        raise CommandRefused(f"no session `{clean(request.session, 64)}`", "see: bastion sessions list --all")
    return Kind.KEY_ID, revocation.key_id(found.person, found.id)


async def _changed(desk: Authority, change: object, *events: Event) -> str:
    """In the database, then in memory, out of what the database has now. As `_published`. Holding `desk.deciding`."""

    def run(t: Tables) -> Authorities:
        change(t)  # type: ignore[operator]
        return keeping.load(t, desk.vault)

    desk.authorities = await desk.ledger.write(run, *events, durable=True)
    return await _published(desk)


async def _published(desk: Authority) -> str:
    """The file that targets fetch is as it should be; else what to add to the answer."""
    why = await publishing.publish(desk)
    return f"; the file for targets could not be written: {why}" if why else ""


def _use(word: str) -> Use:
    if word not in list(Use):
        raise CommandRefused(f"`{clean(word, 32)}` is no use of an authority", "say user, or host")
    return Use(word)


def _reason(given: str) -> str:
    if not (why := text(given, "reason")):
        raise CommandRefused("a reason is needed: the audit trail keeps it", "add: --reason why")
    return why
