"""Passwords taken out, brought back, and who has what now. The rules of it are `policy.checkout.lease`.

What may be checked out, by whom and with what in hand, says the gate that decides on sessions, for the kind `checkout`.
Every change holds `desk.deciding` and is one transaction with its events; the password leaves after that is on disk.
"""

import time
from typing import Final

import trio

from policy.authority import Authority
from policy.checkout.lease import SECOND, how_long
from policy.checkout.returning import give_back, given_back, rotate
from policy.checkout.telling import FORCED, tell_gone
from policy.conversation import Conversation, State
from policy.leave.deciding import new_id
from policy.leave.requests import MAX_TICKET, text
from policy.messages import CheckoutList, CheckoutReturn, CheckoutTake, Done, Refused, Revealed, Rows
from policy.model import ChannelKind
from policy.naming import CommandRefused, shown_time
from policy.operators import names_behind
from policy.paging import counted_out
from policy.persons.ownership import tends
from policy.records import Account, Checkout
from policy.rules.conditions import Facts
from policy.rules.decide import Allow, Decision, Deny, decide
from policy.rules.rights import Right
from policy.sessions.access import PENDING, denied, facts_of, judged
from policy.sessions.words import has_it, printable
from policy.store import Conflict, Tables
from policy.vault.names import shown
from policy.vault.secret import VaultError
from policy.vault.secrets import Opened

PASSWORD: Final = "password"
COLUMNS: Final = [
    "checkout", "state", "person", "account", "target", "taken", "ends", "returned", "by", "why", "reason", "ticket",
    "grant",
]  # fmt: skip


async def checkout_take(desk: Authority, talk: Conversation, request: CheckoutTake) -> Revealed | Refused:
    """The password, shown this once; or the same words for every name and right that does not hold."""
    if talk.state is not State.PERSON:
        raise CommandRefused(
            "a password is checked out by a person, with what proves them",
            f"ssh bastion vault checkout {shown(f'{request.account}@{request.target}')} --reason why", code=77,
        )  # fmt: skip
    check_unlimited(talk)
    why, ticket = text(request.reason, "reason"), text(request.ticket, "ticket", MAX_TICKET)
    facts, decision = await judged(
        desk, talk, request.account, request.target, ChannelKind.CHECKOUT, ticket=ticket, reason=why
    )
    if isinstance(decision, Allow):
        await desk.rotations.settled(request.account, request.target)  # who is shown it now is shown one that goes
    async with desk.deciding:
        # Whoever changed something since did so before us: decided again, by what is now.
        facts = facts_of(
            desk, talk, request.account, request.target, ChannelKind.CHECKOUT,
            ticket=ticket, reason=why, tickets=facts.tickets,
        )  # fmt: skip
        decision = decide(desk.rules, facts)
        if (refused := await _refused(desk, talk, facts, decision)) is not None:
            return refused
        assert isinstance(decision, Allow)
        account = desk.roster.account(request.target, request.account)
        assert account is not None, "decide denies what has no record"
        seconds = how_long(_asked(desk, request, decision), decision.expires_in, desk.rules.checkout.longest)
        try:
            opened = await _opened(desk, account)
        except VaultError as error:
            cause, hint = "the password cannot be shown", error.hint
            return await desk.refuse(talk, "checkout-refused", error.cause, cause, hint, code=78, what=_place(facts))
        now = time.time_ns()
        row = Checkout(
            id=new_id("c"), account=account.name, target=account.target, person=talk.person, version=opened.version,
            source=talk.source, rule=decision.rule, access_grant=decision.grant, ticket=ticket, reason=why, taken=now,
            ends=now + seconds * SECOND,
        )  # fmt: skip
        doubt = desk.rotations.in_doubt(row.account, row.target)  # not refused: whoever looks after the target needs it
        await _keep(desk, talk, row, opened, decision, seconds)
    warning = "; it may not open: a change of it was not answered, and what opens is being found out" if doubt else ""
    return Revealed(
        name=row.place, kind=PASSWORD, version=opened.version, value=opened.value.reveal(),
        text=f"the password of `{row.place}` is yours until {shown_time(row.ends)}, and shown this once ({row.id}); "
        f"bring it back: ssh bastion vault checkin {row.id}{warning}",
        data={"checkout": row.id, "ends": shown_time(row.ends), "seconds": str(seconds)}
        | ({"doubt": "yes"} if doubt else {}),
    )  # fmt: skip


async def checkout_return(desk: Authority, talk: Conversation, request: CheckoutReturn) -> Done:
    """One's own; with `force` somebody else's, who loses it at once."""
    why = text(request.reason, "reason")
    async with desk.deciding:
        found = desk.checkouts.find(request.checkout)
        own = found is not None and found.person in names_behind(talk)
        if found is None or not (own or desk.has_right(talk, Right.KILL)):
            # Not out, and out to somebody else, look alike.
            raise CommandRefused(
                f"you have not checked `{_word(request.checkout)}` out", "see: ssh bastion vault checkouts", code=77
            )
        if not own and not (request.force and why):
            raise CommandRefused(
                f"`{found.place}` is with `{found.person}`", "take it away: --force --reason why", code=77
            )
        event = talk.event("checkin" if own else FORCED, found.place, given_back(found), why=why)
        if not await give_back(desk, [found], talk.who, why or "brought back", [event]):
            raise CommandRefused(f"`{found.place}` came back meanwhile", "see: ssh bastion vault checkouts --all")
    await rotate(desk, [found])
    if not own:
        await tell_gone(desk, [found], talk.who, why)
    changed = "; it is to be changed now" if desk.rotations.covers(found.account, found.target) else ""
    return Done(
        text=f"the password of `{found.place}` came back from {found.person}{changed}",
        data={"checkout": found.id, "person": found.person, "forced": "" if own else "yes"},
    )


async def checkout_list(desk: Authority, talk: Conversation, request: CheckoutList) -> Rows:
    """The one's own, those of accounts one tends, everybody's for who audits or may take them away."""
    every = desk.has_right(talk, Right.AUDIT) or desk.has_right(talk, Right.KILL)
    mine = names_behind(talk)
    found = await desk.ledger.read(lambda t: t.checkouts.every()) if request.all else desk.checkouts.all()
    shown = [one for one in found if every or one.person in mine or tends(desk, talk, one.target)]
    if any(one.person not in mine for one in shown):
        await desk.ledger.note(talk.event("view", "checkouts"))
    rows = [(one.id, _row(one)) for one in shown]
    keys = [key for key, _ in rows]
    start = keys.index(request.after) + 1 if request.after in keys else 0
    return counted_out(COLUMNS, rows[start:], request.limit)


def check_unlimited(talk: Conversation) -> None:
    """Attack: a certificate for one command, turned into a password that does everything."""
    if (by := talk.speaker) is not None and (by.force_command or by.withheld):
        raise CommandRefused(
            "your certificate is limited, and a secret in hand is not", "log in with your key", code=77
        )


# --- how --------------------------------------------------------------------------------------------


async def _refused(desk: Authority, talk: Conversation, facts: Facts, decision: Decision) -> Refused | None:
    """What stands against it, first of all what the gate says: all else tells that the account exists."""
    event, what = "checkout-refused", _place(facts)
    if isinstance(decision, Deny):
        return await denied(desk, talk, facts, decision, what, event=event)
    if not facts.reason.strip():  # whatever the rule says: a password in hand is never nobody's business
        cause, hint = (
            f"the password of `{what}` needs a reason",
            f"say it: ssh bastion vault checkout {what} --reason why",
        )
        return await desk.refuse(talk, event, "no reason", cause, hint, what=what, need="reason")
    if decision.watched:
        cause = "a rule wants somebody to look on, and nobody sees what is done with a password"
        return await desk.refuse(talk, event, "a rule wants a watcher", cause, "use a session", what=what)
    account = desk.roster.account(facts.target, facts.account)
    if account is None or account.kind != PASSWORD or account.secret is None:
        cause, hint = f"`{what}` is opened without a password", f"log in: ssh {what}@bastion"
        return await desk.refuse(talk, event, "no password", cause, hint, code=78, what=what)
    if not (desk.rules.checkout.unrotated or desk.rotations.covers(account.name, account.target)):
        # Attack: a password that stays the same, shown to one person after the other, is nobody's.
        cause = f"nothing changes the password of `{what}` when it comes back, so it is not given out"
        hint = 'ask an administrator for a [[rotation]] with after = ["checkout"] in policy.toml'
        return await desk.refuse(talk, event, "no rotation", cause, hint, code=78, what=what)
    if (out := desk.checkouts.at(account.name, account.target)) is not None:
        cause, hint = has_it(out)
        if out.person == talk.person:
            cause, hint = (
                f"you have it until {shown_time(out.ends)}, and it is shown once",
                (f"bring it back, and take it anew: ssh bastion vault checkin {out.id}"),
            )
        return await desk.refuse(talk, event, f"checked out by {out.person}", cause, hint, code=PENDING, what=what)
    return None


def _asked(desk: Authority, request: CheckoutTake, allow: Allow) -> int:
    """Seconds. Who was given leave for half an hour, and asks for it a moment later, has it for what is left."""
    grant = desk.standing.get(allow.grant) if allow.grant else None
    if grant is None or not request.seconds:
        return request.seconds
    return min(request.seconds, max(1, (grant.ends - time.time_ns()) // SECOND))


async def _keep(desk: Authority, talk: Conversation, row: Checkout, opened: Opened, allow: Allow, seconds: int) -> None:
    """In the database with its event, and in memory. CommandRefused if something was faster."""

    def keep(t: Tables) -> None:
        person = next(iter(t.persons(row.person)), None)
        if person is None or person.disabled:
            raise Conflict("you were disabled meanwhile")
        current = t.vault.version(opened.record.id)
        if current is None or current.version != row.version:
            raise Conflict("the password was changed meanwhile: ask again")
        if row.access_grant and not t.access.use_grant(row.access_grant, row.taken):
            raise Conflict("what was granted for this is used up or over")
        t.checkouts.add(row)

    detail = given_back(row) | {
        "seconds": str(seconds), "rules": "; ".join(allow.rules), "ticket": row.ticket, "grant": row.access_grant,
        "break-glass": "yes" if allow.break_glass else "",
    }  # fmt: skip
    # Known before it is kept: a session that begins while we write finds it.
    desk.checkouts.put(row, (clock := trio.current_time()) + seconds, clock)
    try:
        await desk.ledger.write(keep, talk.event("checkout", row.place, detail, why=row.reason), durable=True)
    except Conflict as error:
        desk.checkouts.drop(row)
        raise CommandRefused(str(error), "see: ssh bastion vault checkouts", code=PENDING) from None
    except BaseException:
        desk.checkouts.drop(row)
        raise
    if row.access_grant:
        desk.standing.used(row.access_grant)
    desk.checkouts.wake()  # its end is to be waited for


async def _opened(desk: Authority, account: Account) -> Opened:
    assert account.secret is not None, "a password account has a secret"
    return await desk.secrets.open(account.secret, kind=account.kind, name=f"{account.name}@{account.target}")


def _place(facts: Facts) -> str:
    return f"{facts.account}@{facts.target}"


def _word(word: str) -> str:
    return shown(word) if "@" in word else printable(word)


def _row(one: Checkout) -> list[str]:
    state = "out" if one.returned is None else "returned"
    return [
        one.id, state, one.person, one.account, one.target, shown_time(one.taken), shown_time(one.ends),
        shown_time(one.returned), one.returned_by, one.returned_why, one.reason, one.ticket, one.access_grant,
    ]  # fmt: skip
