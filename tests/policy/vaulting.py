"""Rules that let people check passwords out, and words for secrets."""

from typing import Any

from policy import messages as m
from tests.policy.policyd import RULES as SESSIONS
from tests.policy.policyd import Peer, Policyd

RULES = f"""{SESSIONS}
[[rule]]
name  = "passwords of test machines"
who   = {{ roles = ["engineer"] }}
where = {{ labels = {{ env = "test" }} }}
as    = ["*"]
allow = ["checkout"]
limits = {{ session = "2h" }}

[[rule]]
name    = "passwords with a code and a reason"
who     = {{ roles = ["engineer"] }}
where   = {{ labels = {{ env = "prod" }} }}
as      = ["*"]
allow   = ["checkout"]
require = {{ mfa = "15m", reason = true }}

[[rule]]
name    = "passwords with leave"
who     = {{ roles = ["engineer"] }}
where   = {{ labels = {{ env = "leave" }} }}
as      = ["*"]
allow   = ["checkout", "shell"]
require = {{ approval = {{ by = ["lead"], count = 1, longest = "1h" }} }}

[checkout]
unrotated = true
"""


def revealed(answer: Any) -> m.Revealed:
    assert isinstance(answer, m.Revealed), getattr(answer, "cause", answer)
    return answer


def no(answer: Any, code: int = 77) -> m.Refused:
    assert isinstance(answer, m.Refused), answer
    assert answer.code == code, answer.cause
    assert answer.ref
    return answer


def done(answer: Any) -> m.Done:
    assert isinstance(answer, m.Done), getattr(answer, "cause", answer)
    return answer


def add(peer: Peer, name: str, value: bytes = b"s3cret", **more: Any) -> m.Done:
    return done(peer.ask(m.SecretAdd(name=name, value=value, **more)))


def view(peer: Peer, name: str, **more: Any) -> Any:
    return peer.ask(m.SecretView(name=name, reason="look", **more))


def lend(peer: Peer, scope: str, subject: str, *rights: str, **more: Any) -> Any:
    return peer.ask(m.SecretShare(scope=scope, subject=subject, rights=list(rights), **more))


def names(peer: Peer, **more: Any) -> list[str]:
    rows = peer.ask(m.SecretList(**more))
    assert isinstance(rows, m.Rows), rows.cause
    return [row[0] for row in rows.rows if "@" not in row[0]]


def take(peer: Peer, place: str = "root@web1", **more: Any) -> Any:
    account, _, target = place.rpartition("@")
    return peer.ask(m.CheckoutTake(account=account, target=target, **({"reason": "repair"} | more)))


def bring(peer: Peer, checkout: str, **more: Any) -> Any:
    return peer.ask(m.CheckoutReturn(checkout=checkout, **more))


def out(policyd: Policyd) -> list[dict[str, str]]:
    """Who has what now, as an operator sees it."""
    rows = policyd.done(m.CheckoutList())
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]
