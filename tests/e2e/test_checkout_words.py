"""A password checked out with the real ssh: at a terminal what is missing is asked for, elsewhere it is said."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pyotp
import pytest

from policy import messages as m
from tests.support.person import Person
from tests.support.site import RULES, Site

pytestmark = pytest.mark.e2e

PASSWORD = "correct-horse-7"


def rule(account: str, require: str) -> str:
    return f"""
[[rule]]
name    = "password of {account}"
who     = {{ roles = ["engineer"] }}
where   = {{ targets = ["web2"] }}
as      = ["{account}"]
allow   = ["checkout", "shell"]
limits  = {{ session = "1h" }}
{f"require = {require}" if require else ""}
"""


NEEDS = {
    "free": "",
    "reason": "{ reason = true }",
    "ticket": '{ ticket = "desk" }',
    "mfa": '{ mfa = "always" }',
    "leave": '{ approval = { by = ["lead"], count = 1 } }',
}
SETTINGS = """
[tickets.desk]
kind   = "file"
file   = "tickets.toml"
status = ["open"]

[login]
mfa = "1h"

[checkout]
unrotated = true
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    rules = "\n".join([RULES, *(rule(*one) for one in NEEDS.items()), SETTINGS])
    made = Site(tmp_path_factory.mktemp("lent"), {"ssh": ["startups_per_source = 100"]}, rules=rules)
    try:
        made.start()
        (made.folder / "tickets.toml").write_text('[OPS-12]\nstatus = "open"\nassignee = "alice"\ntargets = ["web2"]\n')
        public = made.key("stranger").with_suffix(".pub").read_text().strip()
        made.ask(m.PersonAdd(name="lena", roles=["lead", "engineer"], keys=[public]))
        made.ask(m.TargetAdd(name="web2", address="127.0.0.1:9", host_keys=[public]))
        for account in NEEDS:
            made.ask(m.AccountAdd(account=account, target="web2", password=f"{PASSWORD}-{account}"))
        yield made
    finally:
        made.stop()


@pytest.fixture(autouse=True)
def nothing_is_out(site: Site) -> Iterator[None]:
    yield
    for one in rows(site.ask(m.CheckoutList())):
        site.ask(m.CheckoutReturn(checkout=one["checkout"], force=True, reason="the test is over"))
    for one in rows(site.ask(m.GrantList())):
        site.ask(m.GrantRevoke(grant=one["grant"], reason="the test is over"))
    for one in rows(site.ask(m.RequestList())):
        site.ask(m.RequestCancel(request=one["request"]))
    site.bastion("mfa", "reset", "alice", check=False)


def rows(answer: Any) -> list[dict[str, str]]:
    assert isinstance(answer, m.Rows)
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def take(site: Site, account: str, *words: str, options: tuple[str, ...] = ()) -> Person:
    return Person(*site.command("ssh", "-tt"), *options, "bastion", "vault", "checkout", f"{account}@web2", *words)


def plain(site: Site, *words: str, terminal: bool = False) -> "subprocess.CompletedProcess[bytes]":
    return site.ssh("bastion", "vault", "checkout", *words, options=("-tt",) if terminal else ())


def lena(site: Site, *words: str) -> "subprocess.CompletedProcess[bytes]":
    return site.ssh("bastion", *words, options=("-l", "lena", "-i", str(site.key("stranger"))))


def taken(site: Site) -> dict[str, str]:
    (row,) = rows(site.ask(m.CheckoutList()))
    return row


@pytest.mark.parametrize("account", ["free", "reason"])
def test_a_reason_is_asked_for(site: Site, account: str) -> None:
    """Also where no rule wants one: who reads `checkouts` next month does."""
    with take(site, account) as alice:
        alice.until("needs a reason")
        alice.until("reason: ")
        alice.type("disk is full\r")
        alice.until(f"{PASSWORD}-{account}")
        assert alice.wait() == 0
    assert (taken(site)["reason"], taken(site)["person"]) == ("disk is full", "alice")


def test_a_ticket_is_asked_for(site: Site) -> None:
    with take(site, "ticket", "--reason", "repair") as alice:
        alice.until("needs a ticket")
        alice.until("ticket: ")
        alice.type("OPS-12\r")
        alice.until(f"{PASSWORD}-ticket")
        assert alice.wait() == 0
    assert taken(site)["ticket"] == "OPS-12"


def test_a_newer_code_is_asked_for_unseen(site: Site) -> None:
    with Person(*site.command("ssh", "-tt"), "bastion", "mfa", "enrol") as alice:
        alice.until("shown this once: ")
        secret = re.match(r"[A-Z2-7]+", alice.until("code that your phone shows now: ").strip())
        assert secret is not None
        alice.type(pyotp.TOTP(secret[0]).now() + "\r")
        alice.until("shown this once: ")
        code = alice.until("\r\n").split()[0]
        assert alice.wait() == 0
    with take(site, "mfa", "--reason", "repair") as alice:
        alice.until("needs a second factor")
        alice.until("code: ")
        alice.type("wrong\r")
        alice.until("that code is wrong")
        alice.until("code: ")
        alice.type(f"{code}\r")
        assert code not in alice.until(f"{PASSWORD}-mfa")
        assert alice.wait() == 0
    refused = plain(site, "mfa@web2", "--reason", "repair")
    assert refused.returncode == 77
    assert b"ssh -t bastion vault checkout mfa@web2" in refused.stderr


def test_leave_is_asked_for_and_waited_for(site: Site) -> None:
    with take(site, "leave", "--for", "30m") as alice:
        alice.until("needs leave")
        alice.until("say why")
        alice.type("disk is full\r")
        ident = re.findall(r"r-[a-z2-7]{8}", alice.until("ctrl-c leaves it waiting"))[0]
        (asked,) = json.loads(lena(site, "requests", "--json").stdout)
        assert (asked["request"], asked["kinds"], asked["seconds"]) == (ident, "checkout", "1800")
        alice.type("x\r")  # impatience
        assert taken_by_nobody(site)
        assert lena(site, "approve", ident, "--comment", "go", "on").returncode == 0
        alice.until("go on")
        alice.until(f"{PASSWORD}-leave")
        assert alice.wait() == 0
    assert taken(site)["reason"] == "disk is full"


def taken_by_nobody(site: Site) -> bool:
    return rows(site.ask(m.CheckoutList())) == []


def test_who_leaves_finds_the_request_waiting_and_a_no_is_one(site: Site) -> None:
    with take(site, "leave") as alice:
        alice.until("say why")
        alice.type("upgrade\r")
        ident = re.findall(r"r-[a-z2-7]{8}", alice.until("ctrl-c"))[0]
        alice.type("\x03")
        assert alice.wait() == 75
        assert f"ssh bastion cancel {ident}".encode() in alice.screen
    with take(site, "leave") as alice:
        alice.until(f"request `{ident}` waits; ctrl-c")
        assert lena(site, "deny", ident, "--comment", "not", "today").returncode == 0
        assert alice.wait() == 77
        assert b"not today" in alice.screen
        assert PASSWORD.encode() not in alice.screen


def test_leave_for_a_session_is_not_waited_for(site: Site) -> None:
    """A request for something else on the same account: what it leads to is no password."""
    other = site.ssh("bastion", "request", "leave@web2", "--kinds", "shell", "--reason", "x", "--json")
    assert json.loads(other.stdout)["state"] == "pending"
    with take(site, "leave") as alice:
        alice.until("say why")
        alice.type("\r")
        assert alice.wait() == 75


def test_of_two_at_once_one_has_it(site: Site) -> None:
    """Two people at two terminals of their own: one sees the password, the other who has it, and no password."""
    words = ("vault", "checkout", "free@web2", "--reason", "x")
    hers = ("-l", "lena", "-i", str(site.key("stranger")))
    for _ in range(3):
        commands = [site.command("ssh", *options) for options in ((), hers)]
        running = [
            subprocess.Popen([*command, "bastion", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE) for command in commands
        ]  # fmt: skip
        said = [process.communicate(timeout=30) for process in running]
        codes = [process.returncode for process in running]
        assert sorted(codes) == [0, 75], said
        won = codes.index(0)
        assert said[won][0] == f"{PASSWORD}-free".encode()
        assert said[1 - won][0] == b""
        assert f"checked out by `{('alice', 'lena')[won]}`".encode() in said[1 - won][1]
        site.ask(m.CheckoutReturn(checkout="free@web2", force=True, reason="once more"))


def test_who_loses_it_reads_it_where_they_are(site: Site) -> None:
    """In a shell on another machine, in the menu that is open, and at the next login."""
    with Person(*site.command("ssh", "-tt"), "direct") as shell, Person(*site.command("ssh", "-tt"), "bastion") as menu:
        shell.type("echo $((6*7))\n")
        shell.until("42")
        menu.until("web1")
        assert plain(site, "free@web2", "--for", "50s", "--reason", "repair").returncode == 0
        menu.until("the password of free@web2 is yours until")
        site.ask(m.CheckoutReturn(checkout="free@web2", force=True, reason="she is on holiday"))
        shell.until("took the password of `free@web2` back: she is on holiday")
        menu.until("took the password of")
    with Person(*site.command("ssh", "-tt"), "direct") as later:
        later.until("she is on holiday")


@pytest.mark.parametrize("terminal", [False, True])
def test_nobody_is_asked_where_nobody_is(site: Site, terminal: bool) -> None:
    """A script, and ansible with `-tt` and nobody at it: the exact command is said, and the exit code says which."""
    done = plain(site, "leave@web2", "--reason", "x", terminal=terminal)
    assert done.returncode == 75
    assert b"ssh bastion request leave@web2 --kinds checkout --reason why" in done.stdout + done.stderr
    done = plain(site, "reason@web2", terminal=terminal)
    assert done.returncode == 77
    assert b"ssh bastion vault checkout reason@web2 --reason why" in done.stdout + done.stderr
    done = plain(site, "ticket@web2", "--reason", "x", terminal=terminal)
    assert done.returncode == 77
    assert b"ssh bastion vault checkout ticket@web2 --ticket NUMBER" in done.stdout + done.stderr
    assert taken_by_nobody(site)


def test_a_reason_of_the_environment_counts(site: Site) -> None:
    done = site.ssh("bastion", "vault", "checkout", "reason@web2", options=("-o", "SetEnv=BASTION_REASON=nightly"))
    assert (done.returncode, done.stdout) == (0, f"{PASSWORD}-reason".encode())
    assert taken(site)["reason"] == "nightly"


@pytest.mark.parametrize("said", ["\r", "\x03", "\x04", " \r"])
def test_nobody_has_to_answer(site: Site, said: str) -> None:
    with take(site, "reason") as alice:
        alice.until("reason: ")
        alice.type(said)
        assert alice.wait() == 77
    assert taken_by_nobody(site)
