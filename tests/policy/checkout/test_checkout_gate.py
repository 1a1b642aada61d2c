"""The gate for passwords is the gate for sessions: every condition of a rule, and every limit of who asks."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from policy import messages as m
from policy.keys.sshwire import string
from policy.model import Outcome
from tests.policy import sshbits
from tests.policy.jit import by_token
from tests.policy.policyd import Policyd
from tests.policy.sessions.test_sessions import certified
from tests.policy.vaulting import add, bring, done, no, out, revealed, take, view

ENTRY = """
[[rule]]
name  = "passwords"
who   = { roles = ["engineer"] }
where = { targets = ["web1"] }
as    = ["*"]
allow = ["checkout"%s]
"""
UNROTATED = "\n[checkout]\nunrotated = true\n"
Make = Callable[..., Policyd]


@pytest.fixture
def make(make_policyd: Any) -> Iterator[Make]:
    def one(more: str, kinds: str = "") -> Policyd:
        rules = ENTRY % kinds + more + UNROTATED
        files = {"cas": f"{sshbits.CA.public.line('ca')}\n", "policy.toml": rules, "t.toml": TICKETS}
        return make_policyd('trusted_user_cas = "cas"', files)  # type: ignore[no-any-return]

    return one  # type: ignore[return-value]


TICKETS = '[OPS-1]\nstatus = "open"\nassignee = "alice"\n[OPS-2]\nstatus = "closed"\nassignee = "alice"\n'


def test_from_where_and_when(make: Make) -> None:
    policyd = make('from = ["198.51.100.0/24"]\n')
    with policyd.login("alice") as here, policyd.login("alice", "198.51.100.7") as there:
        no(take(here))
        revealed(take(there))
        done(bring(there, "root@web1"))
    policyd = make('when = { days = "mon-sun", hours = "00:00-00:01", zone = "Pacific/Kiritimati" }\n')
    with policyd.login("alice") as alice:
        answer = take(alice)  # but for one minute of the day it is closed
        assert isinstance(answer, m.Revealed) or "is not open now" in answer.cause


def test_a_ticket(make: Make) -> None:
    policyd = make('require = { ticket = "desk" }\n[tickets.desk]\nkind = "file"\nfile = "t.toml"\nstatus = ["open"]\n')
    with policyd.login("alice") as alice:
        for ticket in ("", "OPS-2", "OPS-3"):
            refused = no(take(alice, ticket=ticket))
            assert refused.need == "ticket"
            assert "ssh bastion vault checkout root@web1 --ticket NUMBER" in refused.hint
        revealed(take(alice, ticket="OPS-1"))
        assert "ticket=OPS-1" in policyd.audit("checkout")[0]["detail"]


def test_a_glass_that_is_broken(make: Make) -> None:
    """Nobody approves, everybody hears of it, and a review is owed; it is leave for passwords alone."""
    policyd = make("break-glass = true\n")
    with policyd.login("alice") as alice:
        assert "ssh bastion request root@web1 --kinds checkout --break-glass" in no(take(alice)).hint
        asked = m.RequestAccess(account="root", target="web1", kinds=["checkout"], reason="fire", break_glass=True)
        done(alice.ask(asked))
        revealed(take(alice))
        assert policyd.audit("break-glass")
        assert "break-glass=yes" in policyd.audit("checkout")[0]["detail"]
        no(alice.ask(m.Authorize(account="root", target="web1")))


def test_nobody_looks_on_at_a_password(make: Make) -> None:
    policyd = make("require = { watcher = true }\n")
    with policyd.login("alice") as alice:
        assert "nobody sees what is done with a password" in no(take(alice)).cause
        assert out(policyd) == []


EVERY = [(f"permit-{what}".encode(), b"") for what in (
    "X11-forwarding", "agent-forwarding", "port-forwarding", "pty", "user-rc")]  # fmt: skip


@pytest.mark.parametrize(
    "limits",
    [{"critical": [(b"force-command", string("uptime"))], "extensions": EVERY}, {"extensions": EVERY[:-2]}],
    ids=["forced", "bare"],
)
def test_a_limited_certificate_has_no_secret_in_hand(make: Make, limits: dict[str, Any]) -> None:
    """Attack: the key of a backup job, whose certificate forces one command, turned into a password for everything."""
    policyd = make("", ', "shell", "exec"')
    with policyd.login("alice") as alice:
        add(alice, "own/word")
    peer, verdict = certified(policyd, **limits)
    with peer:
        assert verdict.outcome is Outcome.DONE
        assert isinstance(peer.ask(m.Authorize(account="root", target="web1")), m.Grant)
        for asked in (take(peer), view(peer, "own/word")):
            assert "your certificate is limited" in no(asked).cause
    peer, _ = certified(policyd, extensions=EVERY)
    with peer:
        revealed(take(peer))
        revealed(view(peer, "own/word"))


def test_a_token_has_no_secret_in_hand(make: Make) -> None:
    policyd = make("", ', "shell"')
    with policyd.login("alice") as alice:
        add(alice, "own/word")
        token = done(alice.ask(m.TokenAdd(account="root", target="web1"))).data["token"]
    with by_token(policyd, token) as (peer, verdict):
        assert verdict.outcome is Outcome.DONE
        for asked in (take(peer), view(peer, "own/word"), bring(peer, "root@web1"), peer.ask(m.CheckoutList())):
            assert "a token leads to one account" in no(asked).cause
    assert out(policyd) == []
