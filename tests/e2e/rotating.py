"""Accounts on a real sshd behind a real bastion, and rotations of them by the command."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policy.messages import AccountAdd, RotationList, Rows, TargetAdd
from tests.support.accounts_target import ANN, PASSWORD, AccountsTarget
from tests.support.chaos import FaultSite

ROTATION = """
[[rotation]]
name  = "by root"
where = { targets = ["by-*"] }
as    = ["ann"]
via   = "root"

[[rotation]]
name  = "by a sudoer"
where = { targets = ["sudo-*"] }
as    = ["ann"]
via   = "ops"

[[rotation]]
name  = "after use"
where = { targets = ["used-*"] }
as    = ["*"]
after = ["use"]

[[rotation]]
name  = "each by itself"
where = { labels = { env = "test" } }
as    = ["*"]
password = { length = 30 }
"""


@contextmanager
def rotating(folder: Path) -> Iterator[FaultSite]:
    """A bastion with these rules."""
    made = FaultSite(folder, {"ssh": ["dial = 5.0"]})
    try:
        made.start()
        made.set_rules((made.folder / "policy.toml").read_text() + ROTATION)
        yield made
    finally:
        made.stop()


class There:
    """One name for the target, with accounts of this test's own."""

    def __init__(self, site: FaultSite, target: AccountsTarget, name: str, address: str = "") -> None:
        self.site, self.target, self.name = site, target, name
        pins = [target.host_key.read_text().strip()]
        site.ask(
            TargetAdd(name=name, address=address or target.address, labels={"env": "test"}, host_keys=pins)
        )  # fmt: skip

    def account(self, name: str, password: str = PASSWORD) -> str:
        """With a password, on the target as in the vault."""
        self.target.set_password(name, password)
        self.site.ask(AccountAdd(account=name, target=self.name, password=password))
        return f"{name}@{self.name}"

    def keyed(self, name: str, key: Path) -> str:
        self.site.ask(AccountAdd(account=name, target=self.name, private_key=key.read_text()))
        return f"{name}@{self.name}"

    def rotate(self, place: str, *more: str) -> dict[str, Any]:
        """`bastion account rotate`, to its end; the row."""
        done = self.site.bastion("account", "rotate", place, "--json", *more, check=False)
        assert done.returncode in (0, 75), done.stderr
        row: dict[str, Any] = json.loads(done.stdout)[0]
        assert (done.returncode == 0) is (row["state"] == "committed")
        return row

    def state(self) -> str:
        """Of what is not ended; "" if everything is."""
        answer = self.site.ask(RotationList())
        assert isinstance(answer, Rows)
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        return next((row["state"] for row in rows if row["target"] == self.name), "")

    def works(self, account: str = ANN) -> bool:
        """Whether a person gets there, with what the vault has."""
        said = self.site.ssh("direct", "id", "-un", options=("-o", f"User={account}@{self.name}"))
        return said.returncode == 0 and said.stdout.decode().strip() == account


def has_heard(target: AccountsTarget) -> bool:
    """Whether `chpasswd` hangs there: it has read the new password by then."""
    words = [
        "pgrep",
        "-f",
        "^sleep 600$",
        "--ns",
        str(target.listener),
        "--nslist",
        "pid",
    ]  # those of other tests are not meant
    return subprocess.run(words, capture_output=True, check=False).returncode == 0
