"""Everything that the vault does, at once and on a real target, while policyd is killed: nothing of it is lost."""

import json
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from bastion.broker.client import Broker, BrokerError
from bastion.errors import BastionError
from policy.messages import AccountAdd, ApplicationAdd, OwnerAdd, Rotate, RotationList, Rows, TargetAdd, VaultRekey
from tests.support.accounts_target import PASSWORD, AccountsTarget, missing
from tests.support.chaos import FaultSite, patience
from tests.support.net import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.fault,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

ACCOUNTS = tuple(f"a{number}" for number in range(6))
BORROWED = ACCOUNTS[-2:]
"""Those that are checked out, changed when they come back, and told to an application."""
RULES = """
[[rule]]
name   = "lend"
who    = { roles = ["engineer"] }
where  = { targets = ["box*"] }
as     = ["*"]
allow  = ["checkout"]

[[rotation]]
name     = "all"
where    = { targets = ["box*"] }
as       = ["*"]
after    = ["checkout"]
at_once  = 4
password = { length = 24, classes = ["lower", "upper", "digit"] }
"""
BOXES = 3
"""Names of the one target: one account at a time is changed on each."""
WORK = ("rotate", "rekey", "log in", "borrow", "read")
AT_LEAST = 3
"""Times that each of these is done before the death of policyd, and as often again after it."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountsTarget]:
    made = AccountsTarget(tmp_path_factory.mktemp("accounts") / "target", more=ACCOUNTS)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, target: AccountsTarget) -> Iterator[FaultSite]:

    made = FaultSite(tmp_path_factory.mktemp("s"), {"ssh": ["dial = 5.0"], "broker": ['socket = "broker.sock"']})
    try:
        made.start()
        made.set_rules((made.folder / "policy.toml").read_text() + RULES)
        pins = [target.host_key.read_text().strip()]
        for number in range(BOXES):
            made.ask(TargetAdd(name=f"box{number}", address=target.address, labels={"env": "test"}, host_keys=pins))
        for place in map(place_of, ACCOUNTS):
            account, _, box = place.partition("@")
            made.ask(AccountAdd(account=account, target=box, password=PASSWORD))
        made.ask(ApplicationAdd(name="shop", uid=os.getuid(), rate=1000))
        for number in range(BOXES):
            made.ask(OwnerAdd(person="alice", scope=f"box{number}"))
        for account in ACCOUNTS:
            done = made.ssh("bastion", "vault", "share", place_of(account), "application:shop", "--rights", "use")
            assert done.returncode == 0, done.stderr
        yield made
    finally:
        made.stop()


def place_of(account: str) -> str:
    return f"{account}@box{ACCOUNTS.index(account) % BOXES}"


class Work:
    """Threads that go on until they are told to stop; `done` counts what came of each try, by who tried."""

    def __init__(self, site: FaultSite, target: AccountsTarget) -> None:
        self.site, self.target = site, target
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.over = threading.Event()
        self.threads = [
            threading.Thread(target=self._again_and_again, args=(what,), daemon=True)
            for what in (self.rotate, self.rekey, self.log_in, self.log_in, self.borrow, self.read)
        ]

    def goes_on(self) -> None:
        """Wait until each was done often enough since now."""
        before = self.done.copy()

        def done() -> bool:
            return bool(self.wrong) or all(self.done[what] - before[what] >= AT_LEAST for what in WORK)

        wait_until(f"work since {before}", done, patience(60))

    def _again_and_again(self, what: Callable[[], None]) -> None:
        while not self.over.is_set():
            try:
                what()
            except (BastionError, BrokerError, OSError):  # policyd is dead for a while
                self.done[f"{what.__name__}: nobody there"] += 1
                time.sleep(0.1)
            except Exception as error:
                self.wrong.append(f"{what.__name__}: {error!r}")
                return

    def rotate(self) -> None:
        self.site.ask(Rotate(places=[place_of(one) for one in ACCOUNTS[:-2]], reason="at work"))
        self.done["rotate"] += 1
        time.sleep(0.3)

    def rekey(self) -> None:
        self.site.ask(VaultRekey(reason="at work"))
        self.done["rekey"] += 1
        time.sleep(0.5)

    def log_in(self) -> None:
        account = random.choice(ACCOUNTS[:-2])
        said = self.site.ssh("direct", "id", "-un", options=("-o", f"User={place_of(account)}"))
        if said.returncode == 0:
            assert said.stdout.decode().strip() == account
            self.done["log in"] += 1
        else:
            self.done[f"log in: {said.stderr.decode().splitlines()[:1]}"] += 1

    def borrow(self) -> None:
        account = BORROWED[self.done["borrow"] % len(BORROWED)]
        words = ("vault", "checkout", place_of(account), "--for", "10m", "--reason", "at-work", "--json")
        said = self.site.ssh("bastion", *words)
        if said.returncode:
            self.done[f"borrow: {said.stderr.decode().splitlines()[:1]}"] += 1
            return
        shown = json.loads(said.stdout)
        assert self.target.opens(account, shown["value"]), "what is shown opens the account"
        self.done["borrow"] += 1
        while not self.over.is_set() and self.site.ssh("bastion", "vault", "checkin", place_of(account)).returncode:
            time.sleep(0.1)

    def read(self) -> None:
        with Broker(str(self.site.run / "broker.sock"), application="shop", patience=30) as broker:
            for account in ACCOUNTS:
                value = broker.get(place_of(account)).value
                assert value == PASSWORD or re.fullmatch("[A-Za-z0-9]{24}", value or ""), "whole, or nothing"
                self.done["read"] += 1


def test_the_vault_at_work_while_policyd_is_killed(site: FaultSite, target: AccountsTarget) -> None:
    work = Work(site, target)
    for one in work.threads:
        one.start()
    work.goes_on()
    site.kill("policy")
    site.recovers(patience(20))
    work.goes_on()
    work.over.set()
    for one in work.threads:
        one.join(60)
    print(json.dumps(work.done, indent=1))
    assert work.wrong == []
    for account in BORROWED:
        site.ssh("bastion", "vault", "checkin", place_of(account))
    wait_until("every rotation's end", lambda: not _open(site), patience(90))
    for account in ACCOUNTS:
        said = site.ssh("direct", "id", "-un", options=("-o", f"User={place_of(account)}"))
        assert said.stdout.decode().strip() == account, said.stderr
        assert not target.opens(account, PASSWORD), "each was changed"
    assert json.loads(site.bastion("audit", "list", "--event", "rotation-in-doubt", "--json").stdout) == []
    assert "whole" in site.bastion("audit", "verify").stdout
    site.stop_bastion()
    site.start_bastion()  # compares every sealed row with the register, and starts with no other
    assert site.ssh("direct", "id", "-un", options=("-o", f"User={place_of('a0')}")).stdout == b"a0\n"


def _open(site: FaultSite) -> list[list[str]]:
    answer = site.ask(RotationList())
    assert isinstance(answer, Rows)
    return answer.rows
