"""A vault that changes over to a passphrase while people work, and what they see until somebody unlocks it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from policy.messages import VaultRekey
from tests.support.net import wait_until
from tests.support.site import DIRECT, Site

pytestmark = pytest.mark.e2e
PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site")).start()  # a short path: sockets lie in it
    try:
        yield made
    finally:
        made.stop()


def unlock(site: Site, passphrase: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bastion", "vault", "unlock", "--passphrase-stdin", "-c", str(site.config)]
    return subprocess.run(command, input=f"{passphrase}\n", capture_output=True, text=True, check=False, timeout=60)


def works(site: Site) -> bool:
    return site.ssh(DIRECT, "echo in").stdout == b"in\n"


def test_people_are_told_that_the_vault_is_locked_and_come_in_once_it_is_not(site: Site):
    text = site.config.read_text().replace('#master_key = "file:master.key"', 'master_key = "passphrase:"')
    site.config.write_text(text)
    site.ask(VaultRekey(reason="a passphrase from now on", master=True, passphrase=PASSPHRASE.encode()))
    assert works(site), "nothing is locked by it: the vault is open"
    (site.folder / "state" / "master.key").unlink()

    os.kill(site.pid("policy"), signal.SIGKILL)
    wait_until("a locked policyd", lambda: b'"locked"' in site.log.read_bytes())

    def told() -> bool:
        return b"the vault of this bastion is locked" in site.ssh(DIRECT, "echo in", options=("-v",)).stderr

    wait_until("the reason", told, 20)
    assert unlock(site, "wrong horse battery staple").returncode == 77
    opened = unlock(site, PASSPHRASE)
    assert opened.returncode == 0, opened.stderr
    wait_until("a login", lambda: works(site), 20)
    assert "vault-unlock" in [one["event"] for one in site.audit()]
    assert PASSPHRASE.encode() not in site.log.read_bytes()
