"""A whole bastion changes secrets: on a host by its gateway, in a directory by its courier, elsewhere by a script."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policy.messages import AccountAdd, Rotate, RotationList, SecretAdd, TargetAdd
from tests.support.accounts_target import ANN, KIOSK, OPS, PASSWORD, AccountsTarget, missing
from tests.support.canary import files_below
from tests.support.folders import public_folder
from tests.support.net import wait_until
from tests.support.site import RULES, Site
from tests.support.slapd import PEOPLE, ROOT_PASSWORD, SLAPD, Slapd
from tests.support.slapd import ROOT as DIRECTORY_ROOT

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(missing()), reason=missing() or "it can run"),
    pytest.mark.skipif(not Path(SLAPD).exists(), reason="needs OpenLDAP's slapd"),
]

SCRIPT = """\
#!/usr/bin/python3
# A machine of its own kind: its password is the text of a file.
import json, sys
said = json.load(sys.stdin)
place = "{place}/" + said["account"]
if said["action"] == "verify":
    sys.exit(0 if open(place).read() == said["new"] else 1)
if open(place).read() != said["old"]:
    print("the old one is another", file=sys.stderr)
    sys.exit(1)
open(place, "w").write(said["new"])
"""


class World:
    def __init__(self, home: Path) -> None:
        self.target = AccountsTarget(home / "accounts")
        self.slapd = Slapd(home / "slapd", rules="access to attrs=userPassword by self write by anonymous auth\n"
                           "access to * by * read\n")  # fmt: skip
        self.machine = home / "machine"
        script = home / "script"
        self.site = Site(home / "site", rules=RULES + self.rules(home))
        user = ['user = "nobody"'] if os.geteuid() == 0 else []
        self.site.settings = {"runner": [*user, f'scripts = {{ files = "{script}" }}']}
        self.machine.mkdir()
        self.machine.chmod(0o777)
        script.write_text(SCRIPT.format(place=self.machine))
        script.chmod(0o755)

    def rules(self, home: Path) -> str:
        def entry(name: str, targets: str, accounts: list[str], more: str) -> str:
            return (
                f'[[rotation]]\nname = "{name}"\nwhere = {{ targets = ["{targets}"] }}\nas = {json.dumps(accounts)}\n'
                f"{more}\npassword = {{ length = 24, classes = ['lower', 'upper', 'digit'] }}\n"
            )

        ldap = f'driver = "ldap"\noptions = {{ url = "{self.slapd.url}", entry = "uid={{account}},{PEOPLE}", '
        ca = f'ca = "{home}/slapd/ca/ca.pem"'
        return (
            "\n"
            + entry("by itself", "box", [ANN], "")
            + entry("by another", "box", [KIOSK], 'via = "ops"')
            + entry("directory, by itself", "directory", ["svc-self"], f"{ldap}{ca} }}")
            + entry("directory, by another", "directory", ["svc-reset"],
                    f'{ldap}{ca}, bind = "{DIRECTORY_ROOT}", secret = "ldap/root" }}')
            + entry("script", "machine", ["scott"], 'driver = "script"\noptions = { script = "files" }')
        )  # fmt: skip

    def start(self) -> "World":
        self.target.start()
        self.slapd.start()
        for name in ("svc-self", "svc-reset"):
            self.slapd.add(name, password=PASSWORD)
        (self.machine / "scott").write_text(PASSWORD)
        (self.machine / "scott").chmod(0o666)
        site = self.site.start()
        pins = [self.target.host_key.read_text().strip()]
        for name in ("box", "directory", "machine"):
            site.ask(TargetAdd(name=name, address=self.target.address, labels={"env": "test"}, host_keys=pins))
        for account, target in ((ANN, "box"), (KIOSK, "box"), ("svc-self", "directory"), ("svc-reset", "directory"),
                                ("scott", "machine")):  # fmt: skip
            site.ask(AccountAdd(account=account, target=target, password=PASSWORD))
        site.ask(AccountAdd(account=OPS, target="box", private_key=self.target.client_key.read_text()))
        site.ask(SecretAdd(name="ldap/root", value=ROOT_PASSWORD.encode(), owner="sam", reason="test"))
        return self

    def rotate(self, place: str) -> dict[str, str]:
        """One rotation, from the word to its end; its row."""
        return self.ended(self.begin(place))

    def begin(self, place: str) -> str:
        return self.rows(self.site.ask(Rotate(places=[place], reason="test")))[0]["rotation"]

    def ended(self, ident: str) -> dict[str, str]:
        def row() -> dict[str, str]:
            return self.rows(self.site.ask(RotationList(ids=[ident], all=True)))[0]

        over = ("committed", "rolled-back", "both-kept")
        wait_until(f"the end of {row()}", lambda: row()["state"] in over, 60)
        return row()

    @staticmethod
    def rows(answer: Any) -> list[dict[str, str]]:
        return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]

    def stop(self) -> None:
        self.site.stop()
        self.target.stop()
        self.slapd.stop()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with public_folder() as home:  # scripts run as somebody else, who has to come to them
        world = World(home)
        try:
            yield world.start()
        finally:
            world.stop()


@pytest.mark.parametrize("account", [ANN, KIOSK])
def test_a_password_of_a_host(account: str, world: World) -> None:
    row = world.rotate(f"{account}@box")
    assert row["state"] == "committed", row
    assert not world.target.opens(account, PASSWORD)
    if account == ANN:
        done = world.site.ssh("direct", "id", "-un", options=("-l", f"{ANN}@box"))
        assert done.stdout == b"ann\n", done.stderr


def test_a_target_that_lies_changes_nothing_here(world: World) -> None:
    before = world.target.shadow(ANN)
    world.target.fault("lies")
    try:
        row = world.rotate(f"{ANN}@box")
    finally:
        world.target.fault()
    assert row["state"] == "rolled-back", row
    assert world.target.shadow(ANN) == before
    assert world.site.ssh("direct", "id", "-un", options=("-l", f"{ANN}@box")).stdout == b"ann\n"


def test_an_operator_ends_the_session_of_one(world: World) -> None:
    before = world.target.shadow(ANN)
    world.site.alone()
    world.target.fault("hangs")
    try:
        ident = world.begin(f"{ANN}@box")
        wait_until("its session", lambda: [one for one in world.site.sessions() if one["person"] == "bastion"])
        (session,) = [one["session"] for one in world.site.sessions() if one["person"] == "bastion"]
        world.site.bastion("sessions", "kill", session, "--reason", "not now")
        row = world.ended(ident)
    finally:
        world.target.fault()
    assert row["state"] == "rolled-back", row
    assert world.target.shadow(ANN) == before
    ended = [event for event in world.site.audit() if event["session"] == session and "not now" in event["why"]]
    assert ended, "the trail says who ended it, and why"


@pytest.mark.parametrize("account", ["svc-self", "svc-reset"])
def test_a_password_of_a_directory(account: str, world: World) -> None:
    row = world.rotate(f"{account}@directory")
    assert row["state"] == "committed", row
    again = world.rotate(f"{account}@directory")
    assert again["state"] == "committed", "with the new one, which is what the vault holds"


def test_a_secret_that_a_script_changes(world: World) -> None:
    row = world.rotate("scott@machine")
    assert row["state"] == "committed", row
    changed = (world.machine / "scott").read_text()
    assert changed != PASSWORD
    (world.machine / "scott").write_text("set by hand")
    row = world.rotate("scott@machine")
    assert row["state"] == "both-kept", row
    (world.machine / "scott").write_text(changed)


def test_no_secret_is_anywhere_else(world: World) -> None:
    """Whatever was said on the way: not in logs, recordings, the trail or the database."""
    secrets = [(world.machine / "scott").read_bytes(), PASSWORD.encode()]
    for path, data in files_below(world.site.log, world.site.folder).items():
        assert not [secret for secret in secrets if secret in data], path
