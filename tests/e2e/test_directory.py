"""People who come from a real slapd: they arrive, log in with keys and passwords of it, change, and leave."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from policy import messages as m
from policy.ldap.sync import ANSWER_SECONDS
from policy.model import Outcome
from tests.policy.policyd import Peer, hello
from tests.support.net import LOOPBACK, wait_until
from tests.support.person import Person
from tests.support.site import DIRECT, RULES, Site
from tests.support.slapd import PEOPLE, SERVICE, SERVICE_PASSWORD, SLAPD, Slapd
from tests.support.sshd import SSHD, keygen

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SLAPD).exists(), reason="needs OpenLDAP's slapd"),
    pytest.mark.skipif(not Path(SSHD).exists(), reason="needs OpenSSH's sshd"),
]

DIRECTORY = """
[directory]
url       = "{url}"
bind      = "{bind}"
password  = "file:ldap.password"
ca        = "ldap-ca.pem"
base      = "{base}"
keys      = "sshPublicKey"
passwords = true
every     = "1h"
alarm     = 1
{more}
[directory.roles]
"{group}" = "engineer"
"""
ENGINEERS = "cn=engineers,ou=groups,dc=example,dc=org"
PASSWORD = "password of the directory"


def rules(slapd: Slapd, more: str = "", **said: str) -> str:
    given = {"url": slapd.url, "bind": SERVICE, "base": PEOPLE, "group": ENGINEERS, "more": more} | said
    return RULES + DIRECTORY.format(**given)


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    server = Slapd(tmp_path_factory.mktemp("slapd") / "home").start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def site(slapd: Slapd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), {"policy": ["source_failures = 100000"]}).start()
    try:
        for name in ("erin", "finn", "gwen"):
            keygen(site.key(name))
        (site.folder / "ldap-ca.pem").write_text(slapd.ca.pem)
        secret = site.folder / "ldap.password"
        secret.write_text(f"{SERVICE_PASSWORD}\n")
        secret.chmod(0o600)
        slapd.add("erin", password=PASSWORD, keys=(line(site, "erin"), "ssh-ed25519 broken"))
        slapd.add("finn", password=PASSWORD, keys=(line(site, "finn"),))
        slapd.add(*(f"other{number}" for number in range(10)))
        slapd.group("engineers", "erin", "finn")
        site.set_rules(rules(slapd))
        wait_until("the first sync", lambda: "erin" in people(site))  # by itself, soon after the settings are there
        assert sync(site) == []  # they come one by one: the next sync is after the last of them
        yield site
    finally:
        site.stop()


def line(site: Site, name: str) -> str:
    return site.key(name).with_suffix(".pub").read_text().strip()


def people(site: Site) -> dict[str, dict[str, str]]:
    return {one["person"]: one for one in json.loads(site.bastion("person", "list", "--json").stdout)}


def sync(site: Site, *words: str) -> list[tuple[str, str, str]]:
    """Read the directory now: who, what happened to them, and what they gained or lost."""
    rows = json.loads(site.bastion("directory", "sync", "--json", *words).stdout)
    return [(row["person"], row["change"], row["what"]) for row in rows]


def try_password(site: Site, name: str, password: bytes) -> m.Verdict:
    with Peer(site.run / "policyd.sock", hello()) as peer:
        answer = peer.ask(m.TryPassword(person=name, password=password))
        assert isinstance(answer, m.Verdict)
        return answer


def events(site: Site, event: str) -> list[dict[str, Any]]:
    return [row for row in site.audit() if row["event"] == event]


def key(site: Site, name: str) -> tuple[str, ...]:
    """ssh with another key than that of ssh_config: without its own, which is added to the list."""
    return ("-i", str(site.key(name)), "-o", f"IdentityFile={site.key(name)}")


# --- who comes --------------------------------------------------------------------------------------


def test_who_is_in_the_directory_may_come(site: Site) -> None:
    assert people(site)["erin"]["roles"] == "engineer"
    assert people(site)["erin"]["keys"] == "1"  # the broken one is none
    assert people(site)["other1"]["roles"] == ""
    done = site.ssh(DIRECT, "echo", "hi", options=key(site, "erin"))
    assert (done.returncode, done.stdout) == (0, b"hi\n"), done.stderr
    (added,) = [row for row in events(site, "directory-add") if row["what"] == "erin"]
    assert (added["who"], added["source"]) == ("directory", LOOPBACK)
    assert "roles added" in str(added["detail"])


def test_a_sync_without_changes_changes_nothing(site: Site) -> None:
    before = len(site.audit())
    assert sync(site) == []
    assert [row["event"] for row in site.audit()[before:] if row["event"].startswith("directory")] == []


def test_a_password_of_the_directory(site: Site) -> None:
    assert try_password(site, "erin", PASSWORD.encode()) == m.Verdict(outcome=Outcome.DONE, person="erin")
    for wrong in (b"guess", b"", b"\xff\xfe", PASSWORD.encode() + b"\0"):
        assert try_password(site, "finn", wrong).outcome is Outcome.REFUSED, wrong
    assert try_password(site, "*", PASSWORD.encode()).outcome is Outcome.REFUSED
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    with client:
        client.connect(LOOPBACK, site.port, f"erin@{site.login()}", PASSWORD, allow_agent=False, look_for_keys=False)
        _, output, _ = client.exec_command("echo by password")
        assert output.read() == b"by password\n"


def test_how_long_it_takes_does_not_tell_who_is_in_the_directory(site: Site) -> None:
    for name in ("finn", "carol", "nobody-of-ours"):
        began = time.monotonic()
        assert try_password(site, name, b"guess").outcome is Outcome.REFUSED
        assert time.monotonic() - began >= ANSWER_SECONDS
    site.ask(m.PersonSet(name="finn", disabled=False))


def test_guesses_lock_here_before_they_lock_there(site: Site, slapd: Slapd) -> None:
    slapd.add("locked", password=PASSWORD)
    sync(site)
    for _ in range(5):
        try_password(site, "locked", b"guess")
    assert try_password(site, "locked", PASSWORD.encode()).outcome is Outcome.REFUSED
    assert [row["what"] for row in events(site, "person-locked")][-1] == "locked"
    site.ask(m.PersonSet(name="locked", disabled=False))
    assert try_password(site, "locked", PASSWORD.encode()).outcome is Outcome.DONE


def test_the_plan_changes_nothing(site: Site, slapd: Slapd) -> None:
    slapd.add("planned")
    assert sync(site, "--plan") == [("planned", "add", "")]
    assert "planned" not in people(site)
    assert sync(site) == [("planned", "add", "")]


def test_persons_of_here_are_not_taken_over(site: Site, slapd: Slapd) -> None:
    """Attack: an entry with the name of this bastion's administrator, and the attacker's key and password."""
    slapd.add("sam", password=PASSWORD, keys=(line(site, "stranger"),))
    try:
        assert sync(site) == []
        assert "made here" in site.bastion("directory", "status").stdout
        assert try_password(site, "sam", PASSWORD.encode()).outcome is Outcome.REFUSED
        assert people(site)["sam"]["keys"] == "1"
    finally:
        slapd.remove("sam")


def test_names_that_are_none(site: Site, slapd: Slapd) -> None:
    for name in ("root", "аdele", "x y"):
        slapd.add(name)
    before = people(site)
    assert sync(site) == []
    assert people(site).keys() == before.keys()
    status = site.bastion("directory", "status").stdout
    assert "common account" in status
    assert status.count("is not made of") == 2
    slapd.remove("root", "аdele", "x y")


# --- who changes and leaves -------------------------------------------------------------------------


def test_roles_and_keys_follow(site: Site, slapd: Slapd) -> None:
    slapd.add("gwen", keys=(line(site, "gwen"),))
    sync(site)
    site.ask(m.PersonSet(name="gwen", add_roles=["guest"]))
    slapd.change(f"dn: {ENGINEERS}\nchangetype: modify\nadd: member\nmember: uid=gwen,{PEOPLE}\n")
    assert sync(site) == [("gwen", "change", "+engineer")]
    slapd.change(f"dn: {ENGINEERS}\nchangetype: modify\ndelete: member\nmember: uid=gwen,{PEOPLE}\n")
    slapd.set("gwen", "delete: sshPublicKey")
    assert sync(site) == [("gwen", "change", "-engineer -1 key")]
    assert (people(site)["gwen"]["roles"], people(site)["gwen"]["keys"]) == ("guest", "0")


@pytest.mark.parametrize("how", ["nsAccountLock: TRUE", "userAccountControl: 514", "shadowExpire: 1", "gone"])
def test_who_leaves_is_out_at_the_next_sync(site: Site, slapd: Slapd, how: str) -> None:
    attribute = how.partition(":")[0]
    command = [*site.command("ssh", *key(site, "finn")), "-tt", DIRECT]
    assert people(site)["finn"]["state"] == "active"
    with Person(*command) as finn:
        finn.type("echo here I $((40 + 2))\n")
        finn.until("here I 42")
        if how == "gone":
            slapd.change(f"dn: uid=finn,{PEOPLE}\nchangetype: moddn\nnewrdn: uid=finn\ndeleteoldrdn: 0\n"
                         "newsuperior: ou=groups,dc=example,dc=org\n")  # fmt: skip
        else:
            slapd.set("finn", f"add: {attribute}", how)
        assert sync(site) == [("finn", "disable", "")]
        assert finn.wait() != 0
    assert people(site)["finn"]["state"] == "disabled"
    assert try_password(site, "finn", PASSWORD.encode()).outcome is Outcome.REFUSED
    (gone, *_) = [row for row in reversed(events(site, "directory-disable")) if row["what"] == "finn"]
    assert gone["why"]
    if how == "gone":
        slapd.change(f"dn: uid=finn,ou=groups,dc=example,dc=org\nchangetype: moddn\nnewrdn: uid=finn\n"
                     f"deleteoldrdn: 0\nnewsuperior: {PEOPLE}\n")  # fmt: skip
    else:
        slapd.set("finn", f"delete: {attribute}")
    back = sync(site)
    assert [(name, change) for name, change, _ in back] == [("finn", "enable")]


def test_who_was_disabled_by_hand_stays_so(site: Site) -> None:
    site.ask(m.PersonSet(name="other3", disabled=True))
    assert sync(site) == []
    assert people(site)["other3"]["state"] == "disabled"
    site.ask(m.PersonSet(name="other3", disabled=False))


def test_a_password_is_checked_as_the_directory_is_now(site: Site, slapd: Slapd) -> None:
    """Disabled there a second ago, and no sync since: the password lets nobody in any more."""
    slapd.set("erin", "add: nsAccountLock", "nsAccountLock: TRUE")
    try:
        assert try_password(site, "erin", PASSWORD.encode()).outcome is Outcome.REFUSED
        assert "nsAccountLock" in events(site, "login-failed")[-1]["why"]
    finally:
        slapd.set("erin", "delete: nsAccountLock")
    assert try_password(site, "erin", PASSWORD.encode()).outcome is Outcome.DONE


def test_a_name_that_somebody_else_has_now(site: Site, slapd: Slapd) -> None:
    slapd.add("ines", password="of the first")
    sync(site)
    slapd.remove("ines")
    slapd.add("ines", password="of the second")
    assert try_password(site, "ines", b"of the second").outcome is Outcome.REFUSED
    assert sync(site) == [("ines", "disable", "")]
    assert "another entry before" in site.bastion("directory", "status").stdout


# --- what goes wrong --------------------------------------------------------------------------------


def test_a_broken_filter_offboards_nobody(site: Site, slapd: Slapd) -> None:
    before = people(site)
    site.set_rules(rules(slapd, 'filter = "(uid=erin)"'))
    try:
        done = site.bastion("directory", "sync", check=False)
        assert done.returncode == 77
        assert "more than 20%" in done.stderr
        assert people(site) == before
        wait_until("the alarm", lambda: events(site, "directory-stopped"))
        assert len(sync(site, "--plan")) > 5  # it can be looked at
    finally:
        site.set_rules(rules(slapd))


def test_a_directory_that_is_away_changes_nothing(site: Site, slapd: Slapd) -> None:
    before = people(site)
    slapd.stop()
    try:
        done = site.bastion("directory", "sync", check=False)
        assert done.returncode == 69
        assert "connection refused" in done.stderr
        assert people(site) == before
        assert [row["what"] for row in events(site, "directory-failed")][-1] == LOOPBACK
        assert try_password(site, "erin", PASSWORD.encode()).outcome is Outcome.REFUSED
        failed = events(site, "login-failed")[-1]
        assert "connection refused" in failed["why"]
        for _ in range(6):  # and it is not held against her
            try_password(site, "erin", PASSWORD.encode())
        assert "erin" not in {row["what"] for row in events(site, "person-locked")}
        assert "failures in a row" in site.bastion("directory", "status").stdout
    finally:
        slapd.start()
    assert sync(site) == []
    assert events(site, "directory-back")
    assert try_password(site, "erin", PASSWORD.encode()).outcome is Outcome.DONE


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"bind": "cn=other,dc=example,dc=org"}, "does not accept the name and password"),
        ({"base": "ou=nowhere,dc=example,dc=org"}, "nothing at the base"),
        ({"url": "ldaps://localhost:{tls_port}"}, "certificate that is not accepted"),
        ({"group": "cn=nowhere,ou=groups,dc=example,dc=org", "more": 'groups = "member"'}, "nothing at the base"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(site: Site, slapd: Slapd, said: dict[str, str], why: str) -> None:
    before = people(site)
    site.set_rules(
        rules(slapd, **{key: value.replace("{tls_port}", str(slapd.tls_port)) for key, value in said.items()})
    )
    try:
        done = site.bastion("directory", "sync", check=False)
        assert (done.returncode, why in done.stderr) == (69, True), done.stderr
        assert people(site) == before
    finally:
        site.set_rules(rules(slapd))


def test_groups_that_list_their_members(site: Site, slapd: Slapd) -> None:
    site.set_rules(rules(slapd, 'groups = "member"'))
    try:
        assert sync(site) == []
        assert people(site)["erin"]["roles"] == "engineer"
    finally:
        site.set_rules(rules(slapd))


def test_the_secrets_of_the_directory_stay_where_they_are(site: Site) -> None:
    try_password(site, "erin", PASSWORD.encode())
    for path in (site.log, site.folder / "state/bastion.db", site.folder / "state/bastion.db-wal"):
        data = path.read_bytes() if path.exists() else b""
        assert SERVICE_PASSWORD.encode() not in data, path
        assert PASSWORD.encode() not in data, path
