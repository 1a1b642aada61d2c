"""`ssh bastion WORDS` and `bastion WORDS` against a whole bastion; tokens as login names; what waits for whom."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policy import messages as m
from tests.e2e.test_prompts import LEAVE
from tests.support.canary import files_below
from tests.support.net import wait_until
from tests.support.person import Person
from tests.support.site import EVERYTHING, Site
from tests.support.sshd import keygen

pytestmark = pytest.mark.e2e

WATCHED = f"""
[[rule]]
name    = "engineers, looked at"
who     = {{ roles = ["engineer"] }}
where   = {{ targets = ["web1"] }}
as      = ["*"]
allow   = {list(EVERYTHING)}
require = {{ watcher = true }}
"""
GLASS = f"""
[[rule]]
name        = "emergencies"
who         = {{ roles = ["engineer"] }}
where       = {{ targets = ["web1"] }}
as          = ["*"]
allow       = {list(EVERYTHING)}
break-glass = true
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("words"), {"ssh": ["startups_per_source = 100"]})
    try:
        made.start()
        public = made.key("stranger").with_suffix(".pub").read_text().strip()
        made.ask(m.PersonAdd(name="lena", roles=["lead"], keys=[public]))
        made.ask(m.PersonSet(name="sam", add_roles=["security"]))
        yield made
    finally:
        made.stop()


@pytest.fixture(autouse=True)
def leave(site: Site) -> Iterator[None]:
    site.set_rules(LEAVE)
    yield
    for row in site.ask(m.GrantList()).rows:  # type: ignore[union-attr]
        site.ask(m.GrantRevoke(grant=row[0], reason="the test is over"))
    for row in site.ask(m.RequestList()).rows:  # type: ignore[union-attr]
        site.ask(m.RequestCancel(request=row[0]))


def said(site: Site, person: str, *words: str, code: int = 0) -> str:
    """What `ssh bastion WORDS` answers this person."""
    key = {"lena": "stranger"}.get(person, person)
    done = site.ssh("bastion", *words, options=("-l", person, "-i", str(site.key(key))))
    assert done.returncode == code, (done.stdout, done.stderr)
    return (done.stdout or done.stderr).decode()


def rows(site: Site, person: str, *words: str) -> list[dict[str, Any]]:
    return list(json.loads(said(site, person, *words, "--json")))


def place(site: Site) -> str:
    return f"{site.target.account}@web1"


# --- leave from the first word to the last ------------------------------------------------------------------------


def test_a_request_and_its_life(site: Site) -> None:
    asked = json.loads(said(site, "alice", "request", place(site), "--reason", "disk", "full", "--for", "2h", "--json"))
    ident = asked["request"]
    assert asked["state"] == "pending"
    (row,) = rows(site, "lena", "requests")
    assert (row["request"], row["seconds"], row["reason"]) == (ident, "7200", "disk full")
    assert "1 request waits for you" not in said(site, "alice", "requests", ident)
    assert "approve" in json.dumps(rows(site, "lena", "notices"))
    assert "nobody decides what they asked for" in said(site, "alice", "approve", ident, code=77)
    assert f"approved request `{ident}`" in said(site, "lena", "approve", ident, "--comment", "two", "hours")
    (grant,) = rows(site, "alice", "grants")
    assert said(site, "lena", "revoke", grant["grant"], "--reason", "enough").startswith("revoked")
    assert rows(site, "alice", "grants") == []
    assert rows(site, "alice", "requests") == []
    assert rows(site, "alice", "requests", "--all")[0]["state"] == "approved"


def test_taken_back_and_given_unasked(site: Site) -> None:
    ident = json.loads(said(site, "alice", "request", place(site), "--reason", "x", "--json"))["request"]
    assert "is taken back" in said(site, "alice", "cancel", ident)
    given = json.loads(said(site, "lena", "grant", "alice", place(site), "--for", "1h", "--reason", "night", "--json"))
    assert given["grant"].startswith("g-")
    assert site.ssh("direct", "echo in").stdout == b"in\n"


def test_broken_glass_is_reviewed(site: Site) -> None:
    site.set_rules(GLASS)
    given = json.loads(said(site, "alice", "request", place(site), "--break-glass", "--reason", "fire", "--json"))
    assert site.ssh("direct", "echo in").stdout == b"in\n"
    assert given["grant"] in site.bastion("review", "list").stdout
    done = site.bastion("review", "write", given["grant"], "--text", "it", "did", "burn", "--json")
    assert json.loads(done.stdout)["grant"] == given["grant"]
    assert given["grant"] not in site.bastion("review", "list").stdout


def test_what_policyd_refuses_comes_with_its_code(site: Site) -> None:
    assert "bastion: " in said(site, "lena", "approve", "r-aaaaaaaa", code=77)
    assert "a reason is needed" not in said(site, "alice", "request", "root@nowhere", "--reason", "x", code=77)
    assert "use: ssh bastion request" in said(site, "alice", "request", place(site), code=64)


@pytest.mark.parametrize("words", [("help",), ("help", "request"), ("request", "--help"), ("help", "--json")])
def test_help(site: Site, words: tuple[str, ...]) -> None:
    assert "request" in said(site, "alice", *words)


def test_an_operator_says_the_same(site: Site) -> None:
    ident = json.loads(said(site, "alice", "request", place(site), "--reason", "x", "--json"))["request"]
    assert json.loads(site.bastion("requests", "--json").stdout)[0]["request"] == ident
    done = site.bastion("approve", ident, check=False)
    assert done.returncode == 77
    assert "an operator is no person" in done.stderr
    assert "is taken back" in site.bastion("cancel", ident).stdout
    assert site.bastion("requests", ident).stdout.splitlines()[0].split() == ["field", "value"]


# --- tokens -----------------------------------------------------------------------------------------------------


def token(site: Site, *words: str) -> str:
    done = site.bastion("token", place(site), "--person", "alice", "--reason", "robots", "--json", *words)
    return str(json.loads(done.stdout)["token"])


def kept_nowhere(site: Site, secret: str) -> None:
    files = files_below(site.log, site.folder)
    assert [path for path, data in files.items() if secret.encode() in data] == []


def by_name(site: Site, program: str, name: str) -> list[str]:
    """Without any key: the name is all there is."""
    return site.command(program, "-o", f"User={name}", "-o", "PubkeyAuthentication=no", "-o", "LogLevel=INFO")


def test_a_token_as_login_name(site: Site) -> None:
    secret = token(site)
    words = [*by_name(site, "ssh", secret), "bastion", "echo in"]
    run = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 30, "check": False}
    assert subprocess.run(words, **run).stdout == b"in\n"  # type: ignore[call-overload]
    again = subprocess.run(words, **run)  # type: ignore[call-overload]
    assert again.returncode == 255
    assert b"bastion: this token is not known, used up or over" in again.stderr
    kept_nowhere(site, secret)


def test_a_token_and_a_file(site: Site, tmp_path: Path) -> None:
    secret = token(site)
    (tmp_path / "file").write_bytes(b"x" * 1000)
    words = [*by_name(site, "scp", secret), str(tmp_path / "file"), f"bastion:{tmp_path}/there"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there").read_bytes() == b"x" * 1000
    kept_nowhere(site, secret)


def test_a_token_through_the_tunnel_is_used_once(site: Site) -> None:
    secret = token(site)
    jump = " ".join([*by_name(site, "ssh", secret), "-W", "%h:%p", "bastion"])
    words = [*site.command("ssh", "-o", f"ProxyCommand={jump}"), "jump", "echo in"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    assert done.stdout == b"in\n", done.stderr
    kept_nowhere(site, secret)


@pytest.mark.parametrize("name", ["ticket-" + "a" * 40, "ticket-" + "a" * 39, "ticket-" + "a" * 40 + "@root@web1"])
def test_no_token_and_no_key_behind_it(site: Site, name: str) -> None:
    """alice's key does not log in who came with a token that is none."""
    words = site.command("ssh", "-o", f"User={name}", "-o", "LogLevel=INFO")
    done = subprocess.run(
        [*words, "bastion", "whoami"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 255
    assert b"this token is not known" in done.stderr
    kept_nowhere(site, name.partition("@")[0])


# --- what waits for whom ------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(site: Site) -> str:
    return str(json.loads(said(site, "alice", "request", place(site), "--reason", "x", "--json"))["request"])


def test_an_open_menu_tells(site: Site) -> None:
    site.ask(m.PersonSet(name="lena", add_roles=["engineer"]))
    words = site.command("ssh", "-tt", "-l", "lena", "-i", str(site.key("stranger")))
    with Person(*words, "bastion") as lena:
        lena.until("type to filter")
        ident = json.loads(said(site, "alice", "request", place(site), "--reason", "x", "--json"))["request"]
        lena.until("1 request waits for you: ssh bastion requests")
        said(site, "lena", "approve", ident)
        lena.type("\x03")
        assert lena.wait() == 0
    site.ask(m.PersonSet(name="lena", remove_roles=["engineer"]))


def test_a_shell_tells_and_a_command_does_not(site: Site, waiting: str) -> None:
    site.ask(m.PersonSet(name="lena", add_roles=["engineer"]))
    site.ask(m.GrantAdd(person="lena", account=site.target.account, target="web1", seconds=3600, reason="x"))
    words = site.command("ssh", "-tt", "-l", site.login(), "-i", str(site.key("stranger")), "-o", "IdentitiesOnly=yes")
    words = [*words, "-o", f"IdentityFile={site.key('stranger')}", "-F", "/dev/null"]
    words += ["-o", f"UserKnownHostsFile={site.known_hosts}", "-p", str(site.port), "127.0.0.1"]
    with Person(*words) as lena:
        lena.until("bastion: 1 request waits for you: ssh bastion requests")
        lena.type("exit\n")
        assert lena.wait() == 0
    done = subprocess.run([*words, "id"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    assert b"waits for you" not in done.stdout + done.stderr
    site.ask(m.PersonSet(name="lena", remove_roles=["engineer"]))


# --- watching ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["ssh", "here"])
def test_watching_lasts_as_long_as_the_session(site: Site, way: str) -> None:
    site.alone()
    site.set_rules(WATCHED)
    words = [*site.command("ssh"), "direct", "echo in; read line; echo $line"]
    ssh = [*site.command("ssh", "-l", "sam", "-i", str(site.key("sam"))), "bastion", "watch"]
    here = [sys.executable, "-m", "bastion", "watch", "-c", str(site.config)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    alice = subprocess.Popen(words, **pipes)
    watcher: subprocess.Popen[bytes] | None = None
    try:
        wait_until("a session", lambda: [row for row in site.sessions() if row["started"] and not row["ended"]])
        session = next(row["session"] for row in site.sessions() if not row["ended"])
        pipes["stdin"] = subprocess.DEVNULL
        watcher = subprocess.Popen([*(ssh if way == "ssh" else here), session], **pipes)
        assert watcher.stdout is not None
        assert b"watching session" in watcher.stdout.readline()
        output, _ = alice.communicate(b"bye\n", timeout=60)
        assert output == b"in\nbye\n"
        _, error = watcher.communicate(timeout=60)
        assert b"the session" in error
        assert b"over" in error or b"ended" in error
        assert watcher.returncode == 0
    finally:
        for process in filter(None, (alice, watcher)):
            process.kill()
            process.communicate()


# --- invitations ------------------------------------------------------------------------------------------------


def test_a_new_person_brings_their_own_key(site: Site, tmp_path: Path) -> None:
    keygen(tmp_path / "nina")
    secret = json.loads(said(site, "sam", "invite", "nina", "--role", "engineer", "--json"))["token"]
    own = ["-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-p", str(site.port),
           "-o", f"UserKnownHostsFile={site.known_hosts}", "-i", str(tmp_path / "nina")]  # fmt: skip

    def nina(name: str, *words: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            ["ssh", *own, "-l", name, "127.0.0.1", *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=30,
            check=False,
        )  # fmt: skip

    assert nina("nina", "whoami").returncode == 255
    joined = nina(secret, "whoami", "--json")
    assert joined.returncode == 0, joined.stderr
    assert b"nina" in joined.stdout
    assert b"this key is all you need here from now on" in joined.stderr
    assert nina("nina", "whoami").returncode == 0
    keygen(tmp_path / "thief")
    own[-1] = str(tmp_path / "thief")
    assert nina(secret, "whoami").returncode == 255, "an invitation is for one key"
    kept_nowhere(site, secret)
