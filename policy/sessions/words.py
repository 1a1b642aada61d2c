"""Requests and grants in words, for people, tables and the audit trail. Pure."""

from typing import Final

from policy.leave.requests import State
from policy.naming import counted, shown_time
from policy.records import AccessGrant, AccessRequest, Checkout, Vote

COLUMNS: Final = [
    "request", "state", "person", "account", "target", "kinds", "start", "seconds", "uses", "reason", "ticket",
    "asked", "expires", "votes",
]  # fmt: skip


def printable(ident: str) -> str:
    return "".join(char for char in ident[:16] if char.isalnum() or char == "-")


def place_of(what: AccessRequest | AccessGrant) -> str:
    return f"{what.account}@{what.target}"


def request_detail(request: AccessRequest) -> dict[str, str]:
    return {
        "request": request.id,
        "person": request.person,
        "kinds": " ".join(sorted(request.kinds)),
        "seconds": str(request.seconds),
        "start": shown_time(request.starts) if request.starts > request.asked else "",
        "uses": str(request.uses or ""),
        "ticket": request.ticket,
        "rule": request.rule,
        "asked by": " ".join(sorted(request.asked_by - {request.person})),
    }


def grant_data(grant: AccessGrant) -> dict[str, str]:
    return {
        "grant": grant.id, "request": grant.request or "", "state": State.APPROVED, "starts": shown_time(grant.starts),
        "ends": shown_time(grant.ends),
    }  # fmt: skip


def granted_text(grant: AccessGrant) -> str:
    begins = f"from {shown_time(grant.starts)} " if grant.starts > grant.made else ""
    uses = f", {counted(grant.uses, 'session')}" if grant.uses else ""
    return f"{grant.person} may use {place_of(grant)} {begins}until {shown_time(grant.ends)}{uses} ({grant.id})"


def row_of(one: AccessRequest) -> list[str]:
    return [
        one.id, one.state, one.person, one.account, one.target, " ".join(sorted(one.kinds)),
        shown_time(one.starts) if one.starts > one.asked else "", str(one.seconds), str(one.uses or ""), one.reason,
        one.ticket, shown_time(one.asked), shown_time(one.expires),
        " ".join(f"{'+' if vote.approve else '-'}{vote.approver}" for vote in one.votes),
    ]  # fmt: skip


def closed_by(request: AccessRequest) -> str:
    comments = "; ".join(f"{vote.approver}: {vote.comment}" for vote in request.votes if vote.comment)
    by = f" by {request.closed_by}" if request.closed_by else ""
    return f"{by} ({comments})" if comments else by


def vote_word(vote: Vote) -> str:
    return "approved" if vote.approve else "denied"


def has_it(out: Checkout) -> tuple[str, str]:
    """Who has a password that is out, for those who could have had it themselves."""
    return (
        f"the password of `{out.account}` on `{out.target}` is checked out by `{out.person}` until "
        f"{shown_time(out.ends)}",
        f"ask them for it, or let security bring it back: ssh bastion vault checkin {out.place} --force --reason why",
    )
