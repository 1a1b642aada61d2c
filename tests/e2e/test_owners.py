"""Owners and administrators with nothing but ssh: what is delegated can be done, and no secret is left behind."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from policy import messages as m
from policy.keys import sshkeys
from tests.support.canary import files_below
from tests.support.person import Person
from tests.support.site import Site

pytestmark = pytest.mark.e2e
SECRET = "not-to-be-found-anywhere-7"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("owners"), {"ssh": ["startups_per_source = 100"]})
    try:
        made.start()
        made.ask(m.OwnerAdd(person="alice", scope="env=test"))
        key = sshkeys.generate_private_key().public.line()
        made.ask(m.TargetAdd(name="other", address="192.0.2.1", labels={"env": "prod"}, host_keys=[key]))
        yield made
    finally:
        made.stop()


def say(site: Site, words: str, given: str | None = None) -> "subprocess.CompletedProcess[bytes]":
    more = {} if given is None else {"input": given.encode()}
    return site.ssh("bastion", *words.split(), **more)


def ok(site: Site, words: str, given: str | None = None) -> str:
    done = say(site, words, given)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def no(site: Site, words: str, code: int = 77) -> str:
    done = say(site, words)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stderr.startswith(b"bastion: ")
    return done.stderr.decode()


def test_an_owner_looks_after_accounts_over_ssh(site: Site) -> None:
    assert [row["target"] for row in json.loads(ok(site, "target list --json"))] == ["web1"]
    assert "opened by password" in ok(site, "account add app@web1 --reason for the new app", f"{SECRET}\n")
    key = sshkeys.generate_private_key()
    said = ok(site, "account add deploy@web1", sshkeys.write_private_key(key).decode())
    assert key.public.fingerprint in said
    assert "certificate of the user CA" in ok(site, "account add ca@web1 --user-ca")
    names = {row["account"] for row in json.loads(ok(site, "account list web1 --json"))}
    assert names >= {"app", "deploy", "ca"}
    for name in ("app", "deploy", "ca"):
        ok(site, f"account remove {name}@web1")
    assert "no secret came" in no(site, "account add none@web1", code=64)
    added = [event for event in site.audit() if event["event"] == "account-add" and event["what"] == "app@web1"]
    assert [(event["who"], event["why"]) for event in added] == [("alice", "for the new app")]


def test_a_password_is_typed_unseen(site: Site) -> None:
    with Person(*site.command("ssh"), "-tt", "bastion", "account", "add", "typed@web1") as person:
        person.until("password of typed@web1: ")
        person.type(f"{SECRET}\r")
        assert SECRET not in person.until("opened by password")
        assert person.wait() == 0
    ok(site, "account remove typed@web1")


def test_what_is_not_theirs_is_not_there(site: Site) -> None:
    words = ["target show other", "target show nosuch", "account list other", "account add x@other --user-ca",
             "target set web1 --label env=prod", "target remove web1", "person list", "person add eve",
             "owner add alice *", "target add new --address x --scan"]  # fmt: skip
    causes = {line.partition("  [")[0].splitlines()[0] for line in (no(site, word) for word in words)}
    assert causes == {"bastion: you may not do this"}


def test_an_administrator_has_the_words_too(site: Site) -> None:
    site.ask(m.PersonSet(name="alice", add_roles=["admin"]))
    try:
        key = sshkeys.generate_private_key().public.line("eve at home")
        ok(site, f"person add eve --role engineer --role dba --key {key} --reason joins us")
        assert "eve" in ok(site, "person list")
        assert "SHA256:" in ok(site, "person show eve")
        ok(site, "person set eve --remove-role dba --mail eve@example.org --reason no longer")
        assert "eve@example.org" in ok(site, "person show eve")
        ok(site, "person set eve --mail none")
        assert "eve@example.org" not in ok(site, "person show eve")
        ok(site, "target set other --label a=b")
        assert "a=b" in ok(site, "target show other")
        ok(site, "owner add eve other --reason hers")
        assert "would belong to nobody" in no(site, "person offboard eve", code=64)
        assert "nobody gives ownership to themselves" in no(site, "person offboard eve --heir alice")
        ok(site, "person offboard eve --heir bob --reason left")
        assert "nobody gives roles to themselves" in no(site, "person set alice --role security")
        assert "alice" in ok(site, "who-can web1")
    finally:
        ada = m.PersonAdd(name="ada", roles=["admin"], keys=[sshkeys.generate_private_key().public.line()])
        site.ask(ada)  # the last administrator stays
        site.ask(m.PersonSet(name="alice", remove_roles=["admin"]))


def test_the_secret_is_nowhere(site: Site) -> None:
    """Neither in the trail, nor in logs, nor in what is recorded."""
    files = files_below(site.log, site.folder)
    assert [path for path, data in files.items() if SECRET.encode() in data] == []
