"""Whoever it concerns is told by mail: a real courier, and a mail server over TLS."""

import json
from collections.abc import Iterator

import pytest

from policy import messages as m
from policy.keys.sshkeys import parse_private_key
from tests.policy.policyd import Peer, hello, proof
from tests.support.net import wait_until
from tests.support.outside import Ca, Mail, MailServer
from tests.support.site import DIRECT, RULES, Site

pytestmark = pytest.mark.e2e

MORE = """
[[rule]]
name    = "databases by leave"
who     = {{ roles = ["engineer"] }}
where   = {{ targets = ["db1"] }}
as      = ["root"]
allow   = ["shell"]
require = {{ approval = {{ by = ["lead"] }} }}

[[rule]]
name    = "passwords of databases"
who     = {{ roles = ["engineer"] }}
where   = {{ targets = ["db1"] }}
as      = ["root"]
allow   = ["checkout"]

[checkout]
unrotated = true

[[notify]]
name   = "those concerned"
mail   = "$person"
server = "{url}"
sender = "bastion@example.org"
ca     = "ca.pem"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, MailServer]]:
    """alice and ben have an address, lena, who decides, has none."""
    made, ca = Site(tmp_path_factory.mktemp("told")), Ca(tmp_path_factory.mktemp("ca"))
    with MailServer(ca.context("127.0.0.1")).served() as server:
        try:
            made.start()
            (made.folder / "ca.pem").write_text(ca.pem)
            made.set_rules(RULES + MORE.format(url=server.url))
            public = made.key("stranger").with_suffix(".pub").read_text().strip()
            made.bastion("person", "set", "alice", "--mail", "alice@example.org")
            made.bastion("person", "add", "ben", "--role", "engineer", "--mail", "ben@example.org")
            made.ask(m.PersonAdd(name="lena", roles=["lead"], keys=[public]))
            made.ask(m.TargetAdd(name="db1", address="127.0.0.1:9", host_keys=[public]))
            made.ask(m.AccountAdd(account="root", target="db1", password="correct-horse-7"))
            yield made, server
        finally:
            made.stop()


def said(site: Site, *words: str) -> str:
    """To alice."""
    done = site.ssh("bastion", *words)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def received(server: MailServer, text: str) -> set[tuple[str, ...]]:
    """To whom a mail with this in its subject went, once there is one."""
    wait_until(f"a mail about `{text}`", lambda: [one for one in server.mails if _subject(one, text)])
    return {one.to for one in server.mails if _subject(one, text)}


def _subject(mail: Mail, text: str) -> bool:
    subject = mail.data.partition("\r\n\r\n")[0].replace("\r\n ", " ")
    return mail.tls and text in subject


def test_leave_that_is_denied_given_and_taken_back(site: tuple[Site, MailServer]) -> None:
    bastion, server = site
    asked = json.loads(said(bastion, "request", "root@db1", "--json", "--reason", "disk"))["request"]
    with Peer(bastion.run / "policyd.sock", hello()) as lena:  # as a gateway makes it
        lena.ask(proof(parse_private_key(bastion.key("stranger").read_bytes())))
        assert isinstance(lena.ask(m.Decide(request=asked, approve=False, comment="not today")), m.Done)
    assert received(server, f"{asked} of alice for root@db1 denied by lena") == {("alice@example.org",)}
    bastion.bastion("grant", "ben", "root@db1", "--reason", "night shift")
    (grant,) = [one for one in json.loads(bastion.bastion("grants", "--json").stdout) if one["person"] == "ben"]
    bastion.bastion("revoke", grant["grant"], "--reason", "over")
    assert received(server, f"{grant['grant']} of ben for root@db1 revoked") == {("ben@example.org",)}


def test_a_password_that_has_to_come_back(site: tuple[Site, MailServer]) -> None:
    bastion, server = site
    said(bastion, "vault", "checkout", "root@db1", "--for", "1h", "--reason", "disk")
    bastion.bastion("vault", "checkin", "root@db1", "--force", "--reason", "holiday")
    assert received(server, "the password of root@db1 was taken from alice") == {("alice@example.org",)}
    said(bastion, "vault", "checkout", "root@db1", "--for", "62s", "--reason", "disk")
    assert received(server, "the password of root@db1 is alice's until") == {("alice@example.org",)}


def test_nobody_else_is_told_and_what_concerns_all_reaches_no_person(site: tuple[Site, MailServer]) -> None:
    bastion, server = site
    pin = bastion.key("stranger").with_suffix(".pub").read_text().strip()  # another key than the target shows
    bastion.ask(m.TargetAdd(name="moved", address=bastion.target.address, labels={"env": "test"}, host_keys=[pin]))
    bastion.ask(m.AccountAdd(account=bastion.target.account, target="moved", password="x"))
    assert bastion.ssh(DIRECT, "true", options=("-l", bastion.login(target="moved"))).returncode != 0
    wait_until("the event", lambda: [one for one in bastion.audit() if one["event"] == "host-key-mismatch"])
    bastion.bastion("grant", "alice", "root@db1", "--reason", "what is told last")
    assert ("alice@example.org",) in received(server, "alice on root@db1 of alice given")
    assert not [one for one in server.mails if "pinned" in one.data]
    assert {one.to for one in server.mails} <= {("alice@example.org",), ("ben@example.org",)}
