"""What applications are given: a secret that is shared with them, for the time of a lease.

Who stands at the other end is judged again at every request, and whether the secret is shared in the transaction that
keeps the lease. There is no answer with a secret without its row and its event.

A password that a person has checked out is theirs alone: it is read by nobody meanwhile, and no lease of it is renewed.
What an application has read before it goes on using until its lease is over, as sessions that live go on.
"""

import secrets
import time
from typing import Final

import structlog
import trio

from policy.applications.judging import Known, Unknown
from policy.applications.rates import UNKNOWN_RATE, Turn
from policy.authority import Authority
from policy.conversation import Conversation, State
from policy.messages import Applicant, EndLease, Lease, Leased, ReadSecret, Recognised, Refused, RenewLease
from policy.records import Checkout, LeaseRecord, SecretRecord, SecretVersion
from policy.store import Tables
from policy.trail.audit import Event
from policy.vault.secret import VaultError

LEASE_SECONDS: Final = 3600
"""After that an application reads again: so it meets a changed secret, or a share that ended, within the hour."""
LONGEST_SECONDS: Final = 24 * 3600
"""By renewing alone."""
READABLE: Final = frozenset({"password", "key", "generic"})
"""Attack: a share written for `*`, or for a word of ours: authorities and seeds leave the vault for nobody."""
MAX_VALUE: Final = 60 * 1024
"""Bytes of a secret that fit one message of policyd with all that stands around them."""
SECOND: Final = 1_000_000_000

NOBODY: Final = "the bastion knows no application like you"
NOBODY_HINT: Final = "whoever runs the bastion sees why: bastion audit show REF"
NO_SECRET: Final = "no access to this secret"
"""The same words for one that does not exist, one that is not shared, and one that is never given."""
NO_SECRET_HINT: Final = "its owner may share it: ssh BASTION vault share NAME application:APPLICATION --rights use"
NO_LEASE: Final = "no such lease, or it is over"


LENT: Final = "a person has this password checked out"
LENT_HINT: Final = "read it again after Retry-After: it is changed when it comes back"


class _Gone(Exception):
    """What was looked up before does not hold any more."""


class _Lent(Exception):
    def __init__(self, out: Checkout) -> None:
        super().__init__(out.id)
        self.out = out


async def applicant(desk: Authority, talk: Conversation, request: Applicant) -> Recognised | Refused:
    talk.seen = request
    found = desk.applications.judge(request, time.time_ns())
    if isinstance(found, Unknown):
        return await _nobody(desk, talk, found)
    talk.application, talk.state = found.application.name, State.APPLICATION
    return _recognised(found)


async def read_secret(desk: Authority, talk: Conversation, request: ReadSecret) -> Leased | Refused:
    known = await still(desk, talk)
    if isinstance(known, Refused):
        return known
    now, name = time.time_ns(), known.application.name

    def look(t: Tables) -> tuple[tuple[SecretRecord, SecretVersion] | None, tuple[bool, int | None]]:
        return t.applications.sealed(request.name), t.applications.usable(name, request.name, now)

    found, (usable, ends) = await desk.ledger.read(look)
    if not usable or found is None or found[0].kind not in READABLE:
        return await _no_secret(desk, talk, request.name, _why_not(found, usable=usable))
    record, version = found
    try:
        opened = await desk.secrets.opened(record, version)
    except VaultError as error:
        structlog.get_logger().error("broker-read-failed", secret=request.name, error=str(error))
        return await desk.refuse(
            talk, "secret-refused", str(error), "the secret cannot be read", "tell the people who run the bastion",
            code=78, what=request.name,
        )  # fmt: skip
    value = opened.value.reveal()
    if len(value) > MAX_VALUE:
        return await desk.refuse(
            talk, "secret-refused", "too long for one message", f"the secret is longer than {MAX_VALUE // 1024} KiB",
            code=78, what=request.name,
        )  # fmt: skip
    longest = min(now + LONGEST_SECONDS * SECOND, ends or 2**63 - 1)
    lease = LeaseRecord(
        id=secrets.token_hex(16), application=name, secret=request.name, version=opened.version, source=talk.source,
        at=now, expires=min(now + LEASE_SECONDS * SECOND, longest), longest=longest,
    )  # fmt: skip

    def keep(t: Tables) -> None:
        # Attack: a read that began before a checkout and ends within it, so that two have what one answers for.
        if (out := t.checkouts.at(request.name)) is not None:
            raise _Lent(out)
        # Attack: a share ended, an application disabled, while the read is under way.
        if not t.applications.add_lease(lease):
            raise _Gone

    detail = {"version": str(lease.version), "lease": lease.id} | _shown(known)
    try:
        await desk.ledger.write(keep, talk.event("secret-read", request.name, detail))
    except _Gone:
        return await _no_secret(desk, talk, request.name, "not shared any more")
    except _Lent as error:
        return await _lent(desk, talk, "secret-refused", request.name, error.out)
    return Leased(
        name=request.name, kind=record.kind, value=value, version=lease.version, lease=lease.id,
        seconds=_seconds(lease.expires, now), longest=_seconds(longest, now),
    )  # fmt: skip


async def renew_lease(desk: Authority, talk: Conversation, request: RenewLease) -> Lease | Refused:
    """While it stands, within its longest, and as long as the secret is shared."""
    known = await still(desk, talk)
    if isinstance(known, Refused):
        return known
    now, name = time.time_ns(), known.application.name

    def renew(t: Tables) -> tuple[LeaseRecord, int, bool]:
        lease = t.applications.lease(request.lease)
        if lease is None or lease.application != name:  # Attack: another application's lease kept alive, or ended
            raise _Gone("no such lease of theirs")
        usable, ends = t.applications.usable(name, lease.secret, now)
        sealed = t.applications.sealed(lease.secret)
        if not usable or sealed is None:
            raise _Gone("not shared any more")
        if (out := t.checkouts.at(lease.secret)) is not None:
            raise _Lent(out)
        expires = min(now + LEASE_SECONDS * SECOND, lease.longest, ends or 2**63 - 1)
        if expires <= now or not t.applications.renew_lease(lease.id, expires, now):
            raise _Gone("over")
        return lease, expires, sealed[1].version != lease.version

    event = talk.event("lease-renew", name, {"lease": request.lease[:64]} | _shown(known))
    try:
        lease, expires, superseded = await desk.ledger.write(renew, event)
    except _Gone as error:
        return await _no_lease(desk, talk, request.lease, str(error))
    except _Lent as error:
        return await _lent(desk, talk, "lease-refused", request.lease[:64], error.out)
    return Lease(
        lease=lease.id, name=lease.secret, version=lease.version, seconds=_seconds(expires, now), superseded=superseded
    )


async def end_lease(desk: Authority, talk: Conversation, request: EndLease) -> Lease | Refused:
    known = await still(desk, talk)
    if isinstance(known, Refused):
        return known
    now, name = time.time_ns(), known.application.name

    def end(t: Tables) -> LeaseRecord:
        lease = t.applications.lease(request.lease)
        if lease is None or not t.applications.end_leases(name, now, request.lease):
            raise _Gone("no such lease of theirs, or over")
        return lease

    event = talk.event("lease-end", name, {"lease": request.lease[:64]} | _shown(known))
    try:
        lease = await desk.ledger.write(end, event)
    except _Gone as error:
        return await _no_lease(desk, talk, request.lease, str(error))
    return Lease(lease=lease.id, name=lease.secret, version=lease.version, seconds=0)


# --- who, and how often ---------------------------------------------------------------------------------


async def still(desk: Authority, talk: Conversation) -> Known | Refused:
    """The application as it is now, within its rate."""
    assert talk.seen is not None
    found = desk.applications.judge(talk.seen, time.time_ns())
    if isinstance(found, Unknown) or found.application.name != talk.application:
        why = found if isinstance(found, Unknown) else Unknown("became another application", talk.application)
        return await _nobody(desk, talk, why)
    key = f"application {found.application.name}"
    turn = desk.rates.take(key, found.application.rate, trio.current_time())
    if turn is Turn.YES:
        return found
    if turn is Turn.NO_SAY_SO:
        await _flood(desk, talk, key, talk.application)
    return _too_often()


async def _nobody(desk: Authority, talk: Conversation, found: Unknown) -> Refused:
    """One answer and one way to it for whoever is not known: the same words after the same wait for the disk."""
    talk.state = State.OVER
    host = f"uid {talk.seen.uid}" if talk.seen is not None and talk.seen.local else talk.source
    return await denied(desk, talk, f"source {host}", "application-refused", found.why, NOBODY, NOBODY_HINT,
                         what=found.name, need="identity")  # fmt: skip


async def _no_secret(desk: Authority, talk: Conversation, name: str, why: str) -> Refused:
    return await denied(desk, talk, f"denied {talk.application}", "secret-refused", why, NO_SECRET, NO_SECRET_HINT,
                         what=name)  # fmt: skip


async def _no_lease(desk: Authority, talk: Conversation, lease: str, why: str) -> Refused:
    return await denied(desk, talk, f"denied {talk.application}", "lease-refused", why, NO_LEASE,
                         "read the secret again", what=lease[:64], need="lease")  # fmt: skip


async def _lent(desk: Authority, talk: Conversation, event: str, what: str, out: Checkout) -> Refused:
    """For who may read it otherwise: nobody else hears that it is out, and they not with whom."""
    refused = await denied(desk, talk, f"denied {talk.application}", event, f"checked out by {out.person}", LENT,
                            LENT_HINT, what=what, need="lent")  # fmt: skip
    if refused.need == "lent":
        refused.wait = max(1, _seconds(out.ends, time.time_ns()))
    return refused


async def denied(
    desk: Authority, talk: Conversation, key: str, event: str, why: str, cause: str, hint: str,
    *, what: str = "", need: str = "",
) -> Refused:  # fmt: skip
    """No, with an event; without one, and told to wait, where there were too many of them."""
    turn = desk.rates.take(key, UNKNOWN_RATE, trio.current_time())
    if turn is Turn.YES:
        return await desk.refuse(talk, event, why, cause, hint, what=what[:320], need=need)
    if turn is Turn.NO_SAY_SO:
        await _flood(desk, talk, key, what)
    return _too_often()


async def _flood(desk: Authority, talk: Conversation, key: str, what: str) -> None:
    detail = {"limit": key, "without an event": str(desk.rates.kept_back(key))}
    await desk.ledger.note(
        Event(event="application-flood", who=talk.who, what=what[:320], source=talk.source, detail=detail)
    )
    structlog.get_logger().warning("application-flood", limit=key, source=talk.source)


def _too_often() -> Refused:
    return Refused(code=75, cause="too many requests", hint="wait a second, then ask again", need="rate")


def _recognised(known: Known) -> Recognised:
    left = _seconds(known.token.expires, time.time_ns()) if known.token is not None else 0
    return Recognised(application=known.application.name, seconds=left, rate=known.application.rate)


def _why_not(found: tuple[SecretRecord, SecretVersion] | None, *, usable: bool) -> str:
    if found is None:
        return "no such secret"
    return f"a secret of kind {found[0].kind} is given to nobody" if usable else "not shared with it"


def _shown(known: Known) -> dict[str, str]:
    return {"token": known.token.id} if known.token is not None else {}


def _seconds(until: int, now: int) -> int:
    return max(0, (until - now) // SECOND)
