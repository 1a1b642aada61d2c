"""What a person at a terminal is asked, and that nobody else is: leave, reasons, waiting, with the real ssh."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import paramiko
import pyotp
import pytest

from policy import messages as m
from tests.support.net import wait_until
from tests.support.person import Person
from tests.support.site import EVERYTHING, THROUGH, Site

pytestmark = pytest.mark.e2e


def rules(require: str) -> str:
    return f"""
[[rule]]
name    = "engineers"
who     = {{ roles = ["engineer"] }}
where   = {{ targets = ["web1"] }}
as      = ["*"]
allow   = {list(EVERYTHING)}
require = {require}
"""


LEAVE = rules('{ approval = { by = ["lead"], count = 1 } }')
REASON = rules("{ reason = true }")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("prompts"), {"ssh": ["startups_per_source = 100"]})
    try:
        made.start()
        public = made.key("stranger").with_suffix(".pub").read_text().strip()
        made.ask(m.PersonAdd(name="lena", roles=["lead"], keys=[public]))
        yield made
    finally:
        made.stop()


@pytest.fixture(params=THROUGH)
def entry(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def leave(site: Site) -> Iterator[None]:
    """Leave is needed, and nobody has any."""
    site.set_rules(LEAVE)
    yield
    rows = site.ask(m.GrantList())
    assert isinstance(rows, m.Rows)
    for row in rows.rows:
        site.ask(m.GrantRevoke(grant=row[0], reason="the test is over"))
    for row in site.ask(m.RequestList()).rows:  # type: ignore[union-attr]
        site.ask(m.RequestCancel(request=row[0]))
    site.bastion("mfa", "reset", "alice", check=False)


def lena(site: Site, *words: str) -> "subprocess.CompletedProcess[bytes]":
    return site.ssh("bastion", *words, options=("-l", "lena", "-i", str(site.key("stranger"))))


def requests(site: Site, *words: str) -> list[dict[str, Any]]:
    return list(json.loads(lena(site, "requests", "--json", *words).stdout))


def at(site: Site, entry: str, *words: str) -> Person:
    return Person(*site.command("ssh", "-tt"), entry, *words)


# --- leave ------------------------------------------------------------------------------------------------------


def test_ask_wait_and_go_on(site: Site, entry: str) -> None:
    with at(site, entry) as alice:
        alice.until("needs leave")
        alice.until("say why")
        alice.type("dissk\x7f\x7fk is full\r")
        ident = re.findall(r"r-[a-z2-7]{8}", alice.until("ctrl-c leaves it waiting"))[0]
        (row,) = requests(site)
        assert (row["request"], row["reason"], row["person"]) == (ident, "disk is full", "alice")
        alice.type("rm -rf /\r")  # impatience is not for the shell
        done = lena(site, "approve", ident, "--comment", "go on,", "then")
        assert done.returncode == 0, done.stderr
        alice.until("go on, then")
        alice.type("echo $((6*7))\n")
        assert "rm" not in alice.until("42")
        alice.type("exit 3\n")
        assert alice.wait() == 3


def test_a_no_is_said_with_its_comment(site: Site, entry: str) -> None:
    with at(site, entry) as alice:
        alice.until("say why")
        alice.type("fun\r")
        ident = re.findall(r"r-[a-z2-7]{8}", alice.until("ctrl-c"))[0]
        assert lena(site, "deny", ident, "--comment", "no\x1b]0;x\x07").returncode == 64  # not even kept
        assert lena(site, "deny", ident, "--comment", "not", "today").returncode == 0
        assert alice.wait() == 77
        assert b"denied by lena (lena: not today)" in alice.screen


def test_who_leaves_finds_the_request_waiting(site: Site, entry: str) -> None:
    with at(site, entry) as alice:
        alice.until("say why")
        alice.type("upgrade\r")
        ident = re.findall(r"r-[a-z2-7]{8}", alice.until("ctrl-c"))[0]
        alice.type("\x03")
        assert alice.wait() == 75
        assert f"ssh bastion cancel {ident}".encode() in alice.screen
    with at(site, entry) as alice:
        alice.until(f"request `{ident}` waits; ctrl-c")
        assert lena(site, "approve", ident).returncode == 0
        alice.until("approved")
        alice.type("exit\n")
        assert alice.wait() == 0
    assert requests(site) == []


@pytest.mark.parametrize("said", ["\r", "\x03", "\x04", " \r"])
def test_nobody_has_to_ask(site: Site, entry: str, said: str) -> None:
    with at(site, entry) as alice:
        alice.until("say why")
        alice.type(said)
        assert alice.wait() == 75
        assert b"ssh bastion request" in alice.screen
    assert requests(site) == []


def test_who_hangs_up_leaves_the_request_waiting(site: Site, entry: str) -> None:
    with at(site, entry) as alice:
        alice.until("say why")
        alice.type("upgrade\r")
        alice.until("ctrl-c")
    assert len(requests(site)) == 1


@pytest.mark.parametrize("terminal", [(), ("-tt",)])
def test_nobody_is_asked_where_nobody_is(site: Site, entry: str, terminal: tuple[str, ...]) -> None:
    """ansible: a terminal for sudo, and nobody at it."""
    done = site.ssh(entry, "id", options=terminal)
    assert done.returncode == 75
    assert b"ssh bastion request" in done.stdout + done.stderr
    assert b"say why" not in done.stdout + done.stderr
    assert requests(site) == []


def test_a_command_at_a_terminal_is_asked_for(site: Site, entry: str) -> None:
    with at(site, entry, "echo $((6*7)); tty") as alice:
        alice.until("say why")
        alice.type("look\r")
        alice.until("ctrl-c")
        lena(site, "approve", requests(site)[0]["request"])
        alice.until("42")
        alice.until("/dev/")
        assert alice.wait() == 0


# --- reasons ----------------------------------------------------------------------------------------------------


def test_a_reason_is_asked_for(site: Site, entry: str) -> None:
    site.set_rules(REASON)
    with at(site, entry) as alice:
        alice.until("needs a reason")
        alice.until("reason: ")
        alice.type("\x1b[A\x1b]52;x\x07backup \u202eis due\r")
        alice.until("backup")
        alice.type("exit\n")
        assert alice.wait() == 0
    event = [row for row in site.audit() if row["event"] == "access-granted"][-1]
    assert "backup is due" in json.dumps(event)


# --- the words --------------------------------------------------------------------------------------------------


def test_ask_with_words_and_wait(site: Site) -> None:
    words = [*site.command("ssh"), "bastion", "request", f"{site.target.account}@web1", "--wait", "--for", "1h",
             "--reason", "a", "long", "night"]  # fmt: skip
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        wait_until("a request", lambda: requests(site))
        (row,) = requests(site)
        assert (row["reason"], row["seconds"]) == ("a long night", "3600")
        assert waiting.poll() is None
        lena(site, "approve", row["request"])
        _, error = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, error
    assert b"is approved by lena" in error
    assert site.ssh("direct", "echo in").stdout == b"in\n"
    grants = json.loads(site.ssh("bastion", "grants", "--json").stdout)
    assert site.ssh("bastion", "revoke", grants[0]["grant"], "--reason", "done").returncode == 0
    assert site.ssh("direct", "echo in").returncode == 75


# --- second factors ---------------------------------------------------------------------------------------------


LOGIN = '\n[login]\nmfa = "1h"\n'
RECENT = rules('{ mfa = "always" }') + LOGIN


def test_enrol_confirm_and_step_up(site: Site) -> None:
    """A QR code and its first code in one go; then a newer code where a rule wants one, and the login did not."""
    site.set_rules(RECENT)
    with Person(*site.command("ssh", "-tt"), "bastion", "mfa", "enrol") as alice:
        assert "▀" in alice.until("shown this once: ")
        secret = re.match(r"[A-Z2-7]+", alice.until("code that your phone shows now: ").strip())
        assert secret is not None
        alice.type("000000\r")
        alice.until("this code is wrong")
        alice.until("code that your phone shows now: ")
        alice.type(pyotp.TOTP(secret[0]).now() + "\r")
        alice.until("shown this once: ")
        codes = alice.until("\r\n").split()
        assert alice.wait() == 0
    with at(site, "jump") as alice:
        alice.until("needs a second factor")
        alice.until("code: ")
        alice.type("wrong\r")
        alice.until("that code is wrong")
        alice.until("code: ")
        alice.type(f"{codes[0]}\r")
        alice.type("echo $((6*7))\n")
        assert codes[0] not in alice.until("42")
        alice.type("exit\n")
        assert alice.wait() == 0
    done = site.ssh("jump", "id")
    assert done.returncode == 77
    assert b"second factor" in done.stderr
    assert b"code: " not in done.stderr


@pytest.fixture
def codes(site: Site) -> list[str]:
    """Alice has a second factor, which her next logins from here need not show; a rule wants it all the same, on the
    connection. Codes for that; the fixture `leave` takes the factor away."""
    site.set_rules(RECENT.replace('targets = ["web1"]', 'targets = ["web1", "web2"]'))
    with Person(*site.command("ssh", "-tt"), "bastion", "mfa", "enrol") as alice:
        alice.until("shown this once: ")
        secret = re.match(r"[A-Z2-7]+", alice.until("code that your phone shows now: ").strip())
        assert secret is not None
        alice.type(pyotp.TOTP(secret[0]).now() + "\r")
        alice.until("shown this once: ")
        shown = alice.until("\r\n").split()
        assert alice.wait() == 0
    return shown


def test_a_step_up_from_the_menu(site: Site, codes: list[str]) -> None:
    with Person(*site.command("ssh", "-tt"), "bastion") as alice:
        alice.until("web1")
        alice.type("\r")
        alice.until("needs a second factor")
        alice.until("code: ")
        alice.type(f"{codes[0]}\r")
        alice.type("echo $((6*7))\n")
        alice.until("42")
        alice.type("exit 3\n")
        assert alice.wait() == 3


def test_a_second_target_on_one_connection_does_not_ask_again(site: Site, codes: list[str], tmp_path: Path) -> None:
    """One connection to the bastion (ControlMaster), and `-J` over it to one target, and then to another."""
    site.add_target("web2", site.target)
    control = ("-o", f"ControlPath={tmp_path}/c")
    words = [*site.command("ssh", *control, "-M", "-N"), "bastion"]
    master = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("the connection", (tmp_path / "c").exists)
        proxy = " ".join([*site.command("ssh", *control), "-W", "%h:22", "bastion"])
        for target in ("web1", "web2"):
            options = ("-tt", "-o", f"ProxyCommand={proxy}", "-o", f"HostName={target}")
            with Person(*site.command("ssh", *options), "jump") as alice:
                if target == "web1":
                    alice.until("needs a second factor")
                    alice.until("code: ")
                    alice.type(f"{codes[0]}\r")
                alice.type("echo $((6*7))\n")
                assert "code: " not in alice.until("42")
                alice.type("exit 3\n")
                assert alice.wait() == 3
    finally:
        master.terminate()
        master.wait(20)


def test_who_has_no_second_factor_is_told_how_to_get_one(site: Site, entry: str) -> None:
    site.set_rules(RECENT)
    with at(site, entry) as alice:
        assert alice.wait() == 77
        assert b"ssh -t bastion mfa enrol" in alice.screen


# --- other clients ----------------------------------------------------------------------------------------------


def test_paramiko_has_the_same_prompts(site: Site) -> None:
    place = site.endpoint("direct")
    key = paramiko.Ed25519Key.from_private_key_file(str(place.key))
    with closing(paramiko.Transport((place.host, place.port))) as transport:
        transport.start_client(timeout=20)
        transport.auth_publickey(place.user, key)
        channel = transport.open_session()
        channel.get_pty()
        channel.invoke_shell()
        channel.settimeout(40)
        shown = until(channel, "say why")
        channel.sendall(b"robots\n")
        ident = re.findall(r"r-[a-z2-7]{8}", shown + until(channel, "ctrl-c"))[-1]
        assert lena(site, "approve", ident).returncode == 0
        until(channel, "approved")
        channel.sendall(b"echo $((6*7)); exit\n")
        until(channel, "42")


def until(channel: paramiko.Channel, text: str) -> str:
    shown = ""
    while text not in shown:
        data = channel.recv(4096)
        assert data, shown
        shown += data.decode(errors="replace")
    return shown


@pytest.mark.skipif(not shutil.which("plink"), reason="plink is not installed")
def test_plink_has_the_same_prompts(site: Site, tmp_path: Path) -> None:
    place = site.endpoint("direct")
    ppk = tmp_path / "key.ppk"
    subprocess.run(["puttygen", str(place.key), "-o", str(ppk)], check=True, timeout=30)
    words = ["plink", "-ssh", "-batch", "-t", "-P", str(place.port), "-hostkey", place.fingerprint, "-i", str(ppk)]
    with Person(*words, f"{place.user}@{place.host}", env={"HOME": str(tmp_path)}) as alice:
        alice.until("say why")
        alice.type("upgrade\r")
        ident = re.findall(r"r-[a-z2-7]{8}", alice.until("ctrl-c"))[0]
        assert lena(site, "approve", ident).returncode == 0
        alice.until("approved")
        alice.type("exit 3\n")
        assert alice.wait() == 3


# --- the menu ---------------------------------------------------------------------------------------------------


def test_a_choice_that_needs_leave_is_asked_for(site: Site) -> None:
    with Person(*site.command("ssh", "-tt"), "bastion") as alice:
        alice.until("approval")
        alice.type("\r")
        alice.until("say why")
        alice.type("look\r")
        alice.until("ctrl-c")
        alice.type("x")  # impatience
        assert lena(site, "approve", requests(site)[0]["request"]).returncode == 0
        alice.until("approved")
        alice.type("echo $((6*7))\n")
        alice.until("42")
        alice.type("exit 3\n")
        assert alice.wait() == 3
