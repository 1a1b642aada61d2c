"""Words for logins with second factors, and rules that ask for them."""

from typing import Any

import pyotp

from policy import messages as m
from policy.model import Outcome
from tests.policy.policyd import SOURCE, Peer, Policyd, proof

RULES = """
[[rule]]
name  = "test machines"
who   = { roles = ["engineer"] }
where = { labels = { env = "test" } }
as    = ["*"]
allow = ["shell", "exec", "sftp"]

[[rule]]
name    = "production, a code of the last 15 minutes"
who     = { roles = ["engineer"] }
where   = { labels = { env = "prod" } }
as      = ["postgres"]
allow   = ["shell"]
require = { mfa = "15m" }

[[rule]]
name    = "deploy, a code on the very connection"
who     = { roles = ["engineer"] }
where   = { targets = ["db1"] }
as      = ["deploy"]
allow   = ["shell"]
require = { mfa = "always" }

[login]
mfa    = "%s"
demand = ["careful"]
"""
"""To be filled with what `[login] mfa` is."""


class Phone:
    """Shows codes, each once: the next one is of the next step, which the server takes as well."""

    def __init__(self, secret: str) -> None:
        self.totp = pyotp.TOTP(secret)
        self.steps: set[int] = set()

    def code(self) -> str:
        import time

        now = int(time.time()) // 30
        step = next(step for step in (now - 1, now, now + 1) if step > max(self.steps, default=-1))
        self.steps.add(step)
        return self.totp.generate_otp(step)


def enrolled(policyd: Policyd, name: str) -> Phone:
    """By an operator, so it counts at once."""
    return Phone(policyd.done(m.MfaEnrol(person=name)).data["secret"])


def shown(peer: Peer, code: str) -> Any:
    """What came of a code."""
    asked = peer.ask(m.AskCode(person=""))
    assert isinstance(asked, m.Challenge), asked
    return peer.ask(m.AnswerCode(person="", answers=[code]))


def first(policyd: Policyd, name: str, *, place: str = "", source: str = SOURCE) -> tuple[Peer, m.Verdict]:
    """A connection after the proof of a key, and what was said to it."""
    peer = policyd.connection(source)
    asked = proof(policyd.keys[name])
    return peer, peer.ask(
        m.ProveKey(**{name: getattr(asked, name) for name in asked.__struct_fields__} | {"place": place})
    )


def login_with(policyd: Policyd, name: str, code: str, *, source: str = SOURCE) -> Peer:
    peer, verdict = first(policyd, name, source=source)
    assert verdict.outcome is Outcome.MORE, verdict
    done = shown(peer, code)
    assert done == m.Verdict(outcome=Outcome.DONE, person=name), done
    return peer
