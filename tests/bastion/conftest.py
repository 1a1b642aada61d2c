"""A real sshd with accounts of its own, one for each module, put right before each test."""

from collections.abc import Iterator

import pytest

from tests.support.accounts_target import ACCOUNTS, PASSWORD, AccountsTarget


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountsTarget]:
    target = AccountsTarget(tmp_path_factory.mktemp("accounts") / "web1").start()
    yield target
    target.stop()


@pytest.fixture
def target(shared: AccountsTarget) -> AccountsTarget:
    shared.fault()
    for account in ACCOUNTS:
        shared.set_password(account, PASSWORD)
    return shared
