"""A policyd with rules that ask for leave, people who give it, and words for both."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from policy import messages as m
from tests.policy.policyd import SOURCE, Peer, Policyd

RULES = """
[[rule]]
name  = "test machines"
who   = { roles = ["engineer"] }
where = { labels = { env = "test" } }
as    = ["*"]
allow = ["shell", "exec", "sftp"]

[[rule]]
name    = "one lead"
who     = { roles = ["dba"] }
where   = { targets = ["db1"] }
as      = ["*"]
allow   = ["shell", "exec"]
require = { approval = { by = ["lead", "$owner"], count = 1, longest = "4h" } }

[[rule]]
name    = "two leads"
who     = { roles = ["dba"] }
where   = { targets = ["db2"] }
as      = ["*"]
allow   = ["shell"]
require = { approval = { by = ["lead"], count = 2, longest = "1h", wait = "8s" } }

[[rule]]
name    = "by oneself, for a time"
who     = { roles = ["dba"] }
where   = { targets = ["db3"] }
as      = ["*"]
allow   = ["shell"]
require = { approval = { count = 0, longest = "1h" } }

[[rule]]
name        = "emergencies"
who         = { roles = ["dba"] }
where       = { targets = ["db4"] }
as          = ["*"]
allow       = ["*"]
break-glass = true

[[rule]]
name    = "looked at"
who     = { roles = ["dba"] }
where   = { targets = ["db5"] }
as      = ["*"]
allow   = ["shell", "exec", "sftp"]
require = { watcher = true }

[[rule]]
name    = "with a code"
who     = { roles = ["dba"] }
where   = { targets = ["db6"] }
as      = ["*"]
allow   = ["shell"]
require = { mfa = "15m" }

[[rule]]
name    = "decided at once, or not"
who     = { roles = ["dba"] }
where   = { targets = ["db7"] }
as      = ["*"]
allow   = ["shell"]
require = { approval = { by = ["lead"], count = 1, wait = "1s" } }

[rights]
watch = ["security", "watcher"]
"""
TARGETS = ("db2", "db3", "db4", "db5", "db6", "db7")
_numbers = itertools.count(1)


def prepared(policyd: Policyd) -> Policyd:
    """With its targets, and two leads."""
    for name in TARGETS:
        policyd.target(name, "root", env="db")
    policyd.done(m.AccountAdd(account="root", target="db1", password="x"))
    policyd.person("lena", "lead")
    policyd.person("lars", "lead")
    return policyd


def dba(policyd: Policyd, *roles: str) -> str:
    """A person nobody else in these tests knows."""
    name = f"dba{next(_numbers)}"
    policyd.person(name, "dba", *roles)
    return name


def asked(peer: Peer, target: str = "db1", **more: Any) -> str:
    """The id of a request for root there."""
    done = peer.ask(m.RequestAccess(account="root", target=target, reason="upgrade", **more))
    assert isinstance(done, m.Done), done
    assert done.data["state"] == "pending"
    return done.data["request"]


def given(policyd: Policyd, person: str, target: str = "db1", **more: Any) -> str:
    """The id of a grant that lena gave."""
    with policyd.login(person) as peer, policyd.login("lena") as lena:
        request = asked(peer, target, **more)
        done = lena.ask(m.Decide(request=request, approve=True))
        assert isinstance(done, m.Done), done
        return done.data["grant"]


def authorize(peer: Peer, target: str = "db1", account: str = "root") -> Any:
    return peer.ask(m.Authorize(account=account, target=target))


def no(answer: Any, code: int = 77, *, need: str = "") -> m.Refused:
    assert isinstance(answer, m.Refused), answer
    assert (answer.code, answer.need) == (code, need), answer
    assert answer.ref
    return answer


@contextmanager
def by_token(policyd: Policyd, token: str, source: str = SOURCE) -> Iterator[tuple[Peer, Any]]:
    with policyd.connection(source) as peer:
        yield peer, peer.ask(m.TryToken(token=token))
