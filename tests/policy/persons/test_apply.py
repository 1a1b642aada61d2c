"""`bastion apply` and its round trip, over a real policyd."""

import json
import os
import sys

import pytest

from policy import messages as m
from policy.keys import sshkeys
from tests.support import warm


class Cli:
    def __init__(self, policyd):
        self.policyd = policyd
        self.home = policyd.home

    def run(self, *words, given=""):
        environment = {**os.environ, "BASTION_CONFIG": str(self.policyd.config)}
        return warm.run([sys.executable, "-m", "bastion", *words], given, env=environment)

    def ok(self, *words, given=""):
        done = self.run(*words, given=given)
        assert done.returncode == 0, done.stderr
        return done

    def write(self, text, name="inventory.toml"):
        (self.home / name).write_text(text)
        return str(self.home / name)


@pytest.fixture
def cli(make_policyd):
    return Cli(make_policyd())


def test_a_plan_an_apply_and_nothing_left_to_do(cli):
    key, host = sshkeys.generate_private_key(), sshkeys.generate_private_key()
    (cli.home / "deploy").write_bytes(sshkeys.write_private_key(key))
    (cli.home / "app").write_text("a password of app\n")
    person = sshkeys.generate_private_key()
    file = cli.write(f"""
[persons.nora]
roles = ["engineer"]
keys = ["{person.public.line("nora@home")}"]
owns = ["new1"]
mail = "nora@example.org"
[persons.bob]
roles = ["engineer", "lead"]
[targets.new1]
address = "192.0.2.7:2222"
labels = {{ env = "test" }}
host-keys = ["{host.public.line()}"]
accounts.root = "user-ca"
accounts.deploy = {{ key-file = "deploy" }}
accounts.app = {{ password-file = "app" }}
accounts.pipe = {{ password-file = "-" }}
""")
    before = cli.policyd.audit(limit=1)[0]["seq"]
    said = cli.ok("apply", file, "--plan")
    assert "+ person nora" in said.stdout
    assert "    role + lead" in said.stdout
    assert "left alone (--prune removes them)" in said.stderr
    assert {event["event"] for event in cli.policyd.audit(limit=10) if int(event["seq"]) > int(before)} <= {
        "view",
        "operator",
    }
    listed = json.loads(cli.ok("apply", file, "--plan", "--json").stdout)
    assert {"sign": "+", "what": "owner nora of new1", "detail": []} in listed["changes"]
    refused = cli.run("apply", file)
    assert refused.returncode == 64
    assert "--yes" in refused.stderr
    done = cli.ok("apply", file, "--yes", "--reason", "ticket 9", given="a piped password\n")
    assert "8 changes made" in done.stderr
    assert cli.policyd.audit("person-add", limit=1)[0]["why"] == "ticket 9"
    again = cli.ok("apply", file, "--yes")
    assert "nothing to change" in again.stderr
    assert 'mail = "nora@example.org"' in cli.ok("export-inventory").stdout
    cli.ok("person", "set", "nora", "--mail", "none")
    assert "mail after=none; mail before=nora@example.org" in cli.policyd.audit("person-set", limit=1)[0]["detail"]
    assert "mail" not in cli.ok("person", "show", "nora").stdout
    refused = cli.run("person", "set", "nora", "--mail", "nora@example.org, all@example.org")
    assert refused.returncode == 64
    assert "want an address like `ops@example.org`" in refused.stderr
    for secret in ("a password of app", "a piped password"):
        assert secret not in done.stdout + done.stderr
    opened = {row[0]: row[2] for row in cli.policyd.done(m.AccountList(target="new1")).rows}
    assert opened == {
        "root": "certificate of the user CA", "deploy": f"key {key.public.fingerprint}",
        "app": "password", "pipe": "password",
    }  # fmt: skip


def test_the_round_trip(cli):
    cli.policyd.done(m.PersonSet(name="bob", disabled=True))
    cli.policyd.done(m.OwnerAdd(person="sue", scope="env=prod"))
    file = cli.write(cli.ok("export-inventory").stdout)
    said = cli.ok("apply", file, "--plan", "--prune")
    assert said.stdout == ""
    assert "nothing to change" in said.stderr


def test_it_stops_at_the_first_refusal_and_says_what_is_done(cli):
    host = sshkeys.generate_private_key()
    file = cli.write(f"""
[targets.new1]
address = "192.0.2.7"
host-keys = ["{host.public.line()}"]
[persons.newt]
[persons.root]
[persons.zara]
""")
    done = cli.run("apply", file, "--yes")
    assert done.returncode == 64
    assert "made: 2 changes; not made: + person root, + person zara" in done.stderr
    assert "bastion: stopped at person root: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "- person root" not in done.stderr
    cli.ok("apply", cli.write((cli.home / "inventory.toml").read_text().replace("[persons.root]\n", "")), "--yes")


def test_a_bad_file_changes_nothing(cli):
    said = cli.run("apply", cli.write('[persons.a]\nrole = ["x"]\n[targets.b]\nadress = "y"\n'), "--yes")
    assert said.returncode == 64
    assert "inventory.toml:2: persons.a.role: unknown key; did you mean `roles`" in said.stderr
    assert "inventory.toml:4: targets.b.adress: unknown key; did you mean `address`" in said.stderr
    said = cli.run("apply", cli.write("[targets.b]\n"), "--yes")
    assert "inventory.toml:1: targets.b: a new target needs an `address`" in said.stderr
    assert "nothing was changed" in said.stderr
    said = cli.run("apply", cli.write('[targets.web1]\naccounts.x = { password-file = "nowhere" }\n'), "--yes")
    assert "nowhere" in said.stderr
    assert cli.run("apply", str(cli.home / "no-such-file")).returncode == 64


def test_prune_removes_and_keeps_the_last_administrator(cli):
    file = cli.write('[persons.ada]\nroles = ["admin"]\n[targets.web1]\naccounts = {}\n')
    cli.ok("apply", file, "--yes", "--prune")
    states = {row[0]: row[5] for row in cli.policyd.done(m.PersonList()).rows}
    assert states["ada"] == "active"
    assert states["alice"] == "offboarded"
    assert [row[0] for row in cli.policyd.done(m.TargetList()).rows] == ["web1"]
    assert cli.policyd.done(m.AccountList()).rows == []
    said = cli.run("apply", cli.write("[targets.web1]\n"), "--yes", "--prune")
    assert said.returncode == 77
    assert "last person with the right" in said.stderr


def test_a_thousand_targets_are_listed_applied_and_compared(cli):
    key = sshkeys.generate_private_key().public.line()
    text = "".join(
        f'[targets.bulk{number:04}]\naddress = "192.0.2.9"\nhost-keys = ["{key}"]\n'
        f'labels = {{ env = "test", rack = "r{number % 40}" }}\naccounts.root = "user-ca"\n'
        for number in range(500)
    )
    file = cli.write(text)
    cli.ok("apply", file, "--yes")
    assert "nothing to change" in cli.ok("apply", file, "--yes").stderr
    listed = json.loads(cli.ok("target", "list", "--json").stdout)
    assert len(listed) == 503
    assert len(json.loads(cli.ok("account", "list", "--json").stdout)) == 504
