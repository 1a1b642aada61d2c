"""Tickets with real ssh, from SetEnv to a provider's answer: one server per kind that answers like the real one.

The bastion, its courier, the TLS and the HTTP are real; only what the ticket systems say is the test's.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from policy.messages import AccountAdd, TargetAdd, TargetRemove
from policy.notices.notify import signed
from tests.support.net import free_port, wait_until
from tests.support.outside import Asked, Ca, MailServer, Outside, answer, raw
from tests.support.site import DIRECT, RULES, THROUGH, Site
from tests.support.sshd import SSHD

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not Path(SSHD).exists(), reason="needs OpenSSH's sshd")]

TICKETED = """
[[rule]]
name    = "engineers with a ticket"
who     = {{ roles = ["engineer"] }}
where   = {{ labels = {{ env = "test" }} }}
as      = ["*"]
allow   = ["shell", "exec", "sftp", "scp"]
require = {{ ticket = "{system}" }}

[tickets.jira]
kind   = "jira"
url    = "{url}"
token  = "file:tickets.token"
ca     = "ca.pem"
status = ["Approved"]
target = {{ at = "customfield_10042" }}
window = {{ start = "customfield_10050", end = "customfield_10051" }}

[tickets.servicenow]
kind   = "servicenow"
url    = "{url}"
user   = "bastion"
token  = "file:tickets.token"
ca     = "ca.pem"
status = ["Implement"]
target = {{ at = "cmdb_ci.name" }}
window = {{ start = "start_date", end = "end_date" }}

[tickets.github]
kind    = "github"
url     = "{url}"
project = "ops/changes"
token   = "file:tickets.token"
ca      = "ca.pem"
status  = ["open"]
target  = {{ at = "/labels/*/name", is = "host:{{target}}" }}

[tickets.gitlab]
kind    = "gitlab"
url     = "{url}"
project = "ops/changes"
token   = "file:tickets.token"
ca      = "ca.pem"
status  = ["opened"]
target  = {{ at = "labels", is = "host:{{target}}" }}

[tickets.own]
kind     = "http"
url      = "{url}/tickets/{{ticket}}?for={{person}}"
token    = "file:tickets.token"
ca       = "ca.pem"
status   = ["ok"]
assignee = "email"
email    = "{{person}}@example.org"
fields   = {{ key = "/id", status = "/state", email = "/owner", title = "/what" }}

[tickets.file]
kind   = "file"
file   = "tickets.toml"
status = ["approved"]
"""
TOKEN = "t0ken-of-the-ticket-system"


@dataclass
class Records:
    """What the fake systems know: tickets by number, each as one neutral record."""

    tickets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, number: str, *, status: str, who: str = "alice", host: str = "web1", closes: float = 3600) -> str:
        now = datetime.now(UTC).replace(microsecond=0)
        self.tickets[number] = {
            "status": status, "who": who, "host": host,
            "from": now - timedelta(minutes=5), "to": now + timedelta(seconds=closes),
        }  # fmt: skip
        return number

    def __call__(self, asked: Asked, connection: socket.socket) -> None:
        url = urlsplit(asked.path)
        query, path = parse_qs(url.query), unquote(url.path)
        if asked.headers.get("authorization", asked.headers.get("private-token", "")) not in GOOD_PROOFS:
            return answer({"message": "Bad credentials"}, 401)(asked, connection)
        if path.startswith("/api/now/table/change_request"):
            return answer(self._servicenow(query), 200)(asked, connection)
        record = self.tickets.get(path.rpartition("/")[2])
        if record is None:
            return answer({"errorMessages": ["Issue Does Not Exist"], "errors": {}}, 404)(asked, connection)
        made = {"rest": self._jira, "repos": self._github, "api": self._gitlab, "tickets": self._own}
        return answer(made[path.split("/")[1]](path.rpartition("/")[2], record))(asked, connection)

    def _jira(self, number: str, record: dict[str, Any]) -> Any:
        times = {name: record[key].strftime("%Y-%m-%dT%H:%M:%S.000+0000") for name, key in
                 (("customfield_10050", "from"), ("customfield_10051", "to"))}  # fmt: skip
        return {
            "expand": "names,schema", "id": "10002", "key": number,
            "fields": {
                "summary": "disk \x1b[31mfull", "status": {"name": record["status"], "id": "3"},
                "assignee": {"name": record["who"], "emailAddress": f"{record['who']}@example.org", "active": True},
                "customfield_10042": record["host"], **times,
            },
        }  # fmt: skip

    def _servicenow(self, query: dict[str, list[str]]) -> Any:
        number = query["sysparm_query"][0].removeprefix("number=")
        record = self.tickets.get(number)
        if record is None:
            return {"result": []}
        values = {
            "number": number, "short_description": "disk full", "state": record["status"],
            "assigned_to.user_name": record["who"], "assigned_to.email": f"{record['who']}@example.org",
            "cmdb_ci.name": record["host"], "start_date": record["from"].strftime("%Y-%m-%d %H:%M:%S"),
            "end_date": record["to"].strftime("%Y-%m-%d %H:%M:%S"),
        }  # fmt: skip
        wanted = query["sysparm_fields"][0].split(",")
        return {"result": [{name: {"display_value": values[name], "value": values[name]} for name in wanted}]}

    def _github(self, number: str, record: dict[str, Any]) -> Any:
        return {
            "number": int(number), "state": record["status"], "title": "disk full",
            "assignees": [{"login": "octocat"}, {"login": record["who"]}],
            "labels": [{"name": f"host:{record['host']}"}],
        }  # fmt: skip

    def _gitlab(self, number: str, record: dict[str, Any]) -> Any:
        return {
            "iid": int(number), "state": record["status"], "title": "disk full",
            "assignees": [{"username": record["who"]}],
            "labels": ["urgent", f"host:{record['host']}"], "due_date": None,
        }  # fmt: skip

    def _own(self, number: str, record: dict[str, Any]) -> Any:
        return {"id": number, "state": record["status"], "owner": f"{record['who']}@example.org", "what": "disk full"}


GOOD_PROOFS = {f"Bearer {TOKEN}", TOKEN, "Basic YmFzdGlvbjp0MGtlbi1vZi10aGUtdGlja2V0LXN5c3RlbQ=="}
PROVIDERS = {  # system -> number, status that is allowed
    "jira": ("OPS-{}", "Approved"), "servicenow": ("CHG{:07}", "Implement"), "github": ("{}", "open"),
    "gitlab": ("{}", "opened"), "own": ("C-{}", "ok"),
}  # fmt: skip


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    return Ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def server(ca: Ca, records: Records) -> Iterator[Outside]:
    with Outside(behave=records, context=ca.context("127.0.0.1")).served() as server:
        yield server


@pytest.fixture(autouse=True)
def own_rules(site: Site, ca: Ca) -> Iterator[None]:
    (site.folder / "ca.pem").write_text(ca.pem)
    token = site.folder / "tickets.token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    yield
    site.set_rules(RULES)


def use(site: Site, system: str, url: str) -> None:
    site.set_rules(TICKETED.format(system=system, url=url))


def run(site: Site, entry: str, ticket: str = "", *words: str) -> "subprocess.CompletedProcess[bytes]":
    options = ("-o", f"SetEnv=BASTION_TICKET={ticket}") if ticket else ()
    return site.ssh(entry, *(words or ("echo", "in")), options=options)


@pytest.mark.parametrize("entry", THROUGH)
@pytest.mark.parametrize("system", PROVIDERS)
def test_a_good_ticket_lets_in_and_a_bad_one_says_why(
    site: Site, server: Outside, records: Records, system: str, entry: str
) -> None:
    form, status = PROVIDERS[system]
    use(site, system, server.url)
    good = records.add(form.format(1), status=status)
    done = run(site, entry, good)
    assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr
    bad = {
        records.add(form.format(2), status="Rejected"): b"is `Rejected`, wants",
        records.add(form.format(3), status=status, who="mallory"): b"is not assigned to alice",
        form.format(4): b"has no ticket",
        "../../../x?y": b"is no ticket number of",
    }
    if system != "own":
        bad[records.add(form.format(5), status=status, host="db1")] = b"is not for"
    if system in ("jira", "servicenow"):
        bad[records.add(form.format(6), status=status, closes=-60)] = b"the change window of"
    for ticket, why in bad.items():
        done = run(site, entry, ticket)
        assert done.returncode == 77, (ticket, done.stderr)
        assert done.stdout == b""
        assert why in done.stderr, done.stderr
        assert b"-o SetEnv=BASTION_TICKET=NUMBER" in done.stderr
        assert b"\x1b" not in done.stderr
    assert TOKEN.encode() not in site.log.read_bytes()
    assert TOKEN not in json.dumps(site.audit())


def test_without_a_ticket_it_says_what_to_add(site: Site, server: Outside) -> None:
    use(site, "jira", server.url)
    done = run(site, DIRECT)
    assert done.returncode == 77
    assert b"no ticket of `jira` is given" in done.stderr
    assert b"add: -o SetEnv=BASTION_TICKET=NUMBER" in done.stderr
    assert server.asked == []


def test_fifty_commands_of_one_ticket_ask_once(site: Site, server: Outside, records: Records) -> None:
    use(site, "jira", server.url)
    ticket = records.add("OPS-1", status="Approved")
    for _ in range(5):
        assert run(site, DIRECT, ticket).returncode == 0
    assert len(server.asked) == 1


def test_the_session_ends_with_the_change_window(site: Site, server: Outside, records: Records) -> None:
    use(site, "jira", server.url)
    ticket = records.add("OPS-1", status="Approved", closes=4)
    began = time.monotonic()
    done = run(site, DIRECT, ticket, "sleep 60")
    assert done.returncode != 0
    assert time.monotonic() - began < 30
    assert b"bastion:" in done.stderr


def silent(_: Asked, connection: socket.socket) -> None:
    connection.recv(1)


@pytest.mark.parametrize(
    ("behave", "why"),
    [
        (silent, b"gave no whole answer within 5 s"),
        (answer({}, 302, Location="https://127.0.0.1:1/"), b"points elsewhere (status 302), which is not followed"),
        (answer({}, 500), b"has a fault of its own (status 500)"),
        (answer({}, 429), b"is asked too often now"),
        (answer({}, 403), b"does not let this bastion look"),
        (answer({"key": "OPS-1"}), b"without status"),
        (answer({"key": "OPS-2", "fields": {"status": {"name": "Approved"}}}), b"answered with another ticket"),
        (raw(200, b"<html>please log in</html>"), b"its answer is no JSON"),
        (raw(200, b'{"key":' + b"[" * 1000), b"nested more than"),
        (raw(200, b" " * (2 << 20)), b"sent more than 1024 KiB"),
    ],
)  # fmt: skip
def test_a_system_that_misbehaves_is_a_denial_in_words(site: Site, server: Outside, behave: Any, why: bytes) -> None:
    server.behave = behave
    use(site, "jira", server.url)
    done = run(site, DIRECT, "OPS-1")
    assert done.returncode == 77
    assert why in done.stderr, done.stderr
    assert done.stdout == b""


def test_a_system_that_is_away_or_another_is_a_denial_in_words(site: Site, tmp_path: Path) -> None:
    use(site, "jira", f"https://127.0.0.1:{free_port()}")
    done = run(site, DIRECT, "OPS-1")
    assert done.returncode == 77
    assert b"`jira` cannot be reached: connection refused" in done.stderr
    with Outside(context=Ca(tmp_path / "other").context("127.0.0.1")).served() as other:
        use(site, "jira", other.url)
        done = run(site, DIRECT, "OPS-1")
        assert done.returncode == 77
        assert b"shows a certificate that is not accepted" in done.stderr
        assert other.asked == [], "nothing was said to it, and the token least of all"


def test_tickets_of_a_file(site: Site) -> None:
    use(site, "file", "https://127.0.0.1:1")
    (site.folder / "tickets.toml").write_text(
        '["C-1"]\nstatus = "approved"\nassignee = ["alice"]\ntargets = ["web1"]\nends = 2099-01-01\n'
        '["C-2"]\nstatus = "approved"\nassignee = ["bob"]\n'
    )
    assert run(site, DIRECT, "C-1").returncode == 0
    assert b"is not assigned to alice" in run(site, DIRECT, "C-2").stderr


def test_a_courier_that_is_killed_takes_nothing_with_it(site: Site, server: Outside, records: Records) -> None:
    use(site, "jira", server.url)
    ticket = records.add("OPS-1", status="Approved")
    words = [*site.command("ssh", "-o", f"SetEnv=BASTION_TICKET={ticket}"), DIRECT, "echo in; read line; echo $line"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        assert living.stdout is not None
        assert living.stdin is not None
        assert living.stdout.readline() == b"in\n"
        os.kill(site.pid("bastion.courier"), signal.SIGKILL)
        living.stdin.write(b"still here\n")
        living.stdin.close()
        assert living.stdout.read() == b"still here\n"
    other = records.add("OPS-2", status="Approved")
    wait_until("a new courier", lambda: run(site, DIRECT, other).returncode == 0, 40)


# --- notices ------------------------------------------------------------------------------------------


def test_a_webhook_and_a_mail_are_received(site: Site, ca: Ca) -> None:
    """A host key that changed: the chat gets it signed, the mail server over TLS."""
    key = site.folder / "hook.key"
    key.write_text("hook-key-1")
    key.chmod(0o600)
    with (
        Outside(context=ca.context("127.0.0.1")).served() as hook,
        MailServer(ca.context("127.0.0.1")).served() as mail,
    ):
        site.set_rules(
            RULES
            + f'[[notify]]\nname = "chat"\nwebhook = "{hook.url}/hook"\nkey = "file:hook.key"\nca = "ca.pem"\n'
            + f'[[notify]]\nname = "ops"\nmail = "ops@example.org"\nserver = "{mail.url}"\nca = "ca.pem"\n'
            + 'sender = "bastion@example.org"\non = ["host-key-mismatch"]\n'
        )
        pin = site.key("stranger").with_suffix(".pub").read_text().strip()  # another key than the target shows
        site.ask(TargetAdd(name="moved", address=site.target.address, labels={"env": "test"}, host_keys=[pin]))
        site.ask(AccountAdd(account=site.target.account, target="moved", password="x"))
        done = site.ssh(DIRECT, "true", options=("-l", site.login(target="moved")))
        assert done.returncode != 0
        wait_until("the webhook", lambda: hook.asked)
        (asked,) = hook.asked
        assert (asked.method, asked.path, asked.headers["content-type"]) == ("POST", "/hook", "application/json")
        expected = signed("hook-key-1", int(asked.headers["x-bastion-timestamp"]), asked.body)["X-Bastion-Signature"]
        assert asked.headers["x-bastion-signature"] == expected
        assert abs(int(asked.headers["x-bastion-timestamp"]) - time.time()) < 60
        assert "is not the pinned one" in json.loads(asked.body)["text"]
        (received,) = mail.wait()
        assert received.tls
        assert received.to == ("ops@example.org",)
        assert "is not the pinned one" in received.data
        assert [one for one in site.audit() if one["event"] == "notify-failed"] == []
        site.ask(TargetRemove(name="moved"))
