"""The `bastion` command as a new operator uses it: a bastion made by `init`, a policyd, one command after the other."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from policy.keys import sshkeys
from tests.policy.policyd import Peer
from tests.support import warm
from tests.support.net import wait_until


class Bastion:
    """One folder made by `bastion init`."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *words: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "BASTION_CONFIG": str(self.home / "bastion.toml")}
        return warm.run([sys.executable, "-m", "bastion", *words], given, env=environment)

    def ok(self, *words: str, given: str = "") -> str:
        done = self.run(*words, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def no(self, *words: str, code: int = 64) -> str:
        done = self.run(*words)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert done.stderr.startswith("bastion: ")
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def bastion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    folder = tmp_path_factory.mktemp("b")
    key = folder / "ada.pub"
    key.write_text(sshkeys.generate_private_key().public.line("ada") + "\n")
    made = Bastion(folder / "d")
    said = made.ok("init", str(made.home), "--unattended", "--admin", "ada", "--admin-key", str(key))
    assert "person `ada` with role admin" in said
    with (folder / "log").open("wb") as log:
        policyd = warm.Popen(
            [sys.executable, "-m", "policy", "serve", "--config", str(made.home / "bastion.toml")], stderr=log
        )
    try:
        wait_until("policyd", lambda: _answers(made.home / "run" / "policyd-admin.sock"))
        yield made
    finally:
        policyd.send_signal(signal.SIGTERM)
        policyd.wait(60)


def _answers(path: Path) -> bool:
    try:
        Peer(path).close()
    except OSError:
        return False
    return True


def test_init_overwrites_nothing(bastion):
    before = (bastion.home / "state" / "master.key").read_bytes()
    assert "nothing was changed" in bastion.no("init", str(bastion.home), "--unattended")
    assert (bastion.home / "state" / "master.key").read_bytes() == before


def test_from_nothing_to_an_explanation(bastion, tmp_path):
    host_key = tmp_path / "host.pub"
    host_key.write_text(sshkeys.generate_private_key().public.line() + "\n")
    bastion.ok("person", "add", "alice", "--role", "engineer", "--password-stdin", given="correct horse\n")
    bastion.ok("target", "add", "web1", "--address", "192.0.2.1", "--pin", str(host_key), "--label", "env=test")
    bastion.ok("account", "add", "root@web1", "--password-stdin", given="secret\n")
    assert "certificate of the user CA" in bastion.ok("account", "add", "ops@web1", "--user-ca")
    (bastion.home / "policy.toml").write_text(
        '[[rule]]\nname = "engineers"\nwho = { roles = ["engineer"] }\nwhere = { labels = { env = "test" } }\n'
        'as = ["root"]\nallow = ["shell"]\n'
    )
    assert "1 rule, all fine" in bastion.ok("policy", "check")
    assert bastion.ok("policy", "reload") == "1 rule in force\n"
    rows = json.loads(bastion.ok("policy", "explain", "alice", "root@web1", "--json"))
    assert rows[-1]["effect"] == "allow"
    assert rows[-1]["detail"] == "shell by `engineers`"
    rows = json.loads(bastion.ok("policy", "explain", "alice", "ops@web1", "--channel", "exec", "--json"))
    assert rows[-1]["effect"] == "deny"
    assert "is no address" in bastion.no("policy", "explain", "alice", "root@web1", "--from", "moon")
    listed = bastion.ok("audit", "list", "--event", "person-add")
    assert "alice" in listed
    assert "correct horse" not in bastion.ok("audit", "list", "--json", "--limit", "1000")
    assert "is whole" in bastion.ok("audit", "verify")


def test_bad_rules_are_shown_and_not_taken(bastion):
    file = bastion.home / "policy.toml"
    good = file.read_text()
    file.write_text(good + '[[rule]]\nname = "x"\nallow = ["shel"]\n')
    try:
        shown = bastion.run("policy", "check")
        assert shown.returncode == 78
        assert "did you mean `shell`" in shown.stdout
        assert bastion.run("check-config").stdout.count("policy.toml") == 4
        problems = json.loads(bastion.run("check-config", "--json").stdout)
        assert {problem["line"] for problem in problems} >= {1 + good.count("\n")}
        refused = bastion.no("policy", "reload", code=78)
        assert "the old rules stay in force" in refused
        assert "see all of it: bastion policy check" in refused
    finally:
        file.write_text(good)


def test_what_clients_and_targets_have_to_know(bastion):
    said = bastion.ok("ca").splitlines()
    assert said[1].startswith("@cert-authority * ssh-ed25519 ")
    assert said[3].startswith("ssh-ed25519 ")
    assert [one["where"] for one in json.loads(bastion.ok("ca", "--json"))] == [
        "client known_hosts", "target TrustedUserCAKeys", "target sshd_config", "target sshd_config",
    ]  # fmt: skip


def test_a_group_without_a_command_shows_its_help(bastion):
    done = bastion.run("person")
    assert done.returncode == 64
    assert "Commands:\n  add " in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("person", "show", "nobody"), "no person `nobody`\nbastion: see `bastion person list`"),
        (("person", "add", "Alice"), "did you mean `alice`"),
        (("person", "add", "\x1b]52;c;x"), "cannot be printed"),
        (("account", "add", "root", "--user-ca"), "write it as ACCOUNT@TARGET"),
        (("sessions", "kill", "x"), "missing option `--reason`"),
        (("audit", "list", "--since", "noon"), "want RFC 3339"),
        (("persn",), "no such command `persn`"),
    ],
)
def test_mistakes_are_answered_for_people(bastion, words, said):
    assert said in bastion.no(*words)


def test_without_a_policyd(tmp_path):
    made = Bastion(tmp_path / "d")
    made.ok("init", str(made.home), "--unattended")
    said = made.no("person", "list", code=69)
    assert "policyd is not running" in said
    assert "start it with: bastion run -c " in said


def test_the_trail_is_filtered_and_one_event_shown(bastion):
    bastion.ok("person", "add", "tilda", "--role", "engineer")
    (row,) = json.loads(bastion.ok("audit", "list", "--what", "tilda", "--event", "person-add", "--json"))
    assert row["who"].startswith("operator ")
    assert json.loads(bastion.ok("audit", "list", "--what", "tilda", "--until", "2001-01-01", "--json")) == []
    shown = bastion.ok("audit", "show", row["seq"])
    assert "person-add" in shown
    fields = {field["field"]: field["value"] for field in json.loads(bastion.ok("audit", "show", row["seq"], "--json"))}
    assert (fields["what"], fields["seq"]) == ("tilda", row["seq"])
    assert "no event `none`" in bastion.no("audit", "show", "none")
    assert "want RFC 3339" in bastion.no("audit", "export", "--until", "noon")


def test_the_trail_is_exported_so_that_others_can_check_it(bastion, tmp_path):
    """`sha256(hash before + line without its hash)`, with nothing of ours."""
    for _ in range(3):
        bastion.ok("audit", "list")
    copy = tmp_path / "trail.jsonl"
    assert "written" in bastion.run("audit", "export", "--output", str(copy)).stderr
    state = bytes(32)
    for number, line in enumerate(copy.read_text().splitlines(), 1):
        event = json.loads(line)
        digest = event.pop("hash")
        text = json.dumps(event, sort_keys=True, separators=(",", ":"))
        state = sha256(state + text.encode()).digest()
        assert (event["seq"], digest) == (number, state.hex())
    assert number > 10
    assert copy.stat().st_mode & 0o777 == 0o600
    assert "file exists" in bastion.no("audit", "export", "--output", str(copy))
    words = ("audit", "export", "--what", "tilda", "--event", "person-add")
    assert [json.loads(line)["what"] for line in bastion.ok(*words).splitlines()] == ["tilda"]
