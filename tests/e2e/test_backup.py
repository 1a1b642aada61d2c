"""The rehearsal of a restore: a bastion at work is backed up, restored elsewhere, and lets people in."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policy.messages import AccountAdd, TargetAdd
from tests.support.accounts_target import ANN, PASSWORD, AccountsTarget
from tests.support.net import wait_until
from tests.support.site import DIRECT, Site

pyrage = pytest.importorskip("pyrage")
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="accounts with passwords need root")]


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site")).start()  # a short path: sockets lie in it
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[AccountsTarget]:
    made = AccountsTarget(tmp_path / "accounts")
    made.start()
    try:
        yield made
    finally:
        made.stop()


def by_password(site: Site) -> "subprocess.CompletedProcess[bytes]":
    """alice on ann@pw1, whose password the vault alone knows."""
    return site.ssh(DIRECT, "id -un", options=("-l", f"{ANN}@pw1"))


def command(*words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "bastion", *words, "--json"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_bastion_at_work_is_restored_elsewhere(site: Site, accounts: AccountsTarget, tmp_path: Path):
    pins = [accounts.host_key.read_text().strip()]
    site.ask(TargetAdd(name="pw1", address=accounts.address, labels={"env": "test"}, host_keys=pins))
    site.ask(AccountAdd(account=ANN, target="pw1", password=PASSWORD))
    assert by_password(site).stdout == b"ann\n"
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "identity").write_text(f"{identity}\n")
    file, into = tmp_path / "backup.age", tmp_path / "restored"
    busy = subprocess.Popen(
        [*site.command("ssh"), DIRECT, "while sleep 0.05; do echo line; done"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert busy.stdout is not None
        assert busy.stdout.readline() == b"line\n"
        made = json.loads(
            site.bastion("backup", "--to", str(file), "--recipient", str(identity.to_public()), "--reason", "nightly",
                         "--json").stdout
        )  # fmt: skip
        assert busy.poll() is None, "sessions go on"
        assert busy.stdout.readline() == b"line\n"
    finally:
        busy.kill()
        busy.wait()
    names = {one["name"] for one in made["files"]}
    wanted = {"bastion.toml", "policy.toml", "user_cas", "state/bastion.db", "state/audit.head", "state/master.key",
              "state/ssh_host_ed25519_key", "state/recordings/node.key", "state/recordings/node.log"}  # fmt: skip
    assert {f"config/{name}" for name in wanted} <= names
    (noted,) = [one for one in site.audit() if one["event"] == "backup"]
    assert noted["what"] == str(file)
    assert PASSWORD.encode() not in file.read_bytes()

    found = command("restore", str(file), "--identity", str(tmp_path / "identity"), "--rehearse")
    assert "as they were written" in found["vault"]
    assert not into.exists()
    site.stop_bastion()
    found = command(
        "restore", str(file), "--identity", str(tmp_path / "identity"), "--into", str(into), "--accept-older"
    )
    assert "it was restored" in found["trail"]
    (site.folder).rename(tmp_path / "lost")
    into.rename(site.folder)
    site.start_bastion()
    wait_until("a login", lambda: by_password(site).stdout == b"ann\n", 30)
    events = [one["event"] for one in site.audit()]
    assert events.count("backup") == events.count("restored") == 1, "the backup holds the event of itself"
    assert "whole" in site.bastion("audit", "verify").stdout
