"""The broker within a whole bastion: `bastion run` starts it, applications read, and what they read is proven."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bastion.broker.client import Broker, BrokerError
from policy.messages import AccountAdd, ApplicationAdd, ApplicationSet, OwnerAdd, SecretAdd
from tests.support.canary import files_below
from tests.support.net import wait_until
from tests.support.site import Site

pytestmark = pytest.mark.e2e

SEEDED = "seeded-5ca1ab1e-broker"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("s"), settings={"broker": ['socket = "broker.sock"']})
    site.start()
    try:
        site.ask(SecretAdd(name="shop/db", value=SEEDED.encode(), owner="alice"))
        site.ask(AccountAdd(account="shop", target="web1", password=f"{SEEDED}-account"))
        site.ask(ApplicationAdd(name="shop", uid=os.getuid(), rate=1000))
        site.ask(OwnerAdd(person="alice", scope="web1"))
        for scope in ("shop/", "shop@web1"):
            done = site.ssh("bastion", "vault", "share", scope, "application:shop", "--rights", "use")
            assert done.returncode == 0, done.stderr
        yield site
    finally:
        site.stop()


def read(site: Site, name: str = "shop/db") -> str | None:
    with Broker(str(site.run / "broker.sock"), application="shop", patience=30) as broker:
        return broker.get(name).value


def test_an_application_reads_what_is_shared(site: Site) -> None:
    assert read(site) == SEEDED
    assert read(site, "shop@web1") == f"{SEEDED}-account"
    done = site.bastion("application", "leases", "shop", "--json")
    assert {row["secret"] for row in json.loads(done.stdout)} == {"shop/db", "shop@web1"}
    events = [event for event in site.audit() if event["event"] == "secret-read"]
    assert {event["what"] for event in events} == {"shop/db", "shop@web1"}
    assert "whole" in site.bastion("audit", "verify").stdout


def test_a_killed_broker_and_a_killed_policyd_come_back(site: Site) -> None:
    for role in ("bastion.broker", "policy"):
        before = site.pid(role)
        os.kill(before, signal.SIGKILL)
        assert read(site) == SEEDED
        wait_until(f"another {role}", lambda role=role, before=before: site.pids(role) not in ([], [before]))


def test_a_changed_secret_is_read_and_the_old_lease_says_so(site: Site) -> None:
    with Broker(str(site.run / "broker.sock"), application="shop") as broker:
        lease = broker.get("shop/db").lease
        done = site.ssh("bastion", "vault", "set", "shop/db", input=f"{SEEDED}-2".encode())
        assert done.returncode == 0, done.stderr
        assert broker.renew(lease)["superseded"] is True
        assert broker.get("shop/db").value == f"{SEEDED}-2"


def test_a_disabled_application_reads_nothing(site: Site) -> None:
    site.ask(ApplicationSet(name="shop", disabled=True))
    try:
        with Broker(str(site.run / "broker.sock"), application="shop", patience=0) as broker:
            with pytest.raises(BrokerError, match="knows no application"):
                broker.get("shop/db")
    finally:
        site.ask(ApplicationSet(name="shop", disabled=False))


def test_the_secret_stands_nowhere(site: Site) -> None:
    """In no file of the bastion, in no log, and not in the memory of a broker at rest: only the reader has it."""
    assert (read(site) or "").startswith(SEEDED)
    files = files_below(site.folder, site.log)
    assert [path for path, data in files.items() if SEEDED.encode() in data] == []
    for event in site.audit():
        assert SEEDED not in json.dumps(event)
    assert SEEDED not in Path(f"/proc/{site.pid('bastion.broker')}/environ").read_text()
