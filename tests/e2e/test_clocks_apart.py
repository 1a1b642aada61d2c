"""A target whose clock is minutes off takes our certificates, which live for minutes; where it does not, we say why.

The bastion keeps the right time; sshd runs under libfaketime.
"""

import glob
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from policy import messages as m
from tests.support.site import THROUGH, Site
from tests.support.sshd import SSHD, Sshd

LIBRARY: Final = next(iter(glob.glob("/usr/lib/*/faketime/libfaketime.so.1")), "")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
    pytest.mark.skipif(not LIBRARY, reason="needs libfaketime"),
]


@contextmanager
def off_by(site: Site, seconds: int, home: Path) -> Iterator[tuple[str, Sshd]]:
    """A target with another time that trusts our user CA, and its name."""
    rows = json.loads(site.bastion("ca", "lines", "user", "--json").stdout)
    home.mkdir(exist_ok=True)
    (home / "user_ca").write_text("".join(f"{row['line']}\n" for row in rows if "TrustedUserCAKeys" in row["where"]))
    name = f"ahead{seconds}" if seconds > 0 else f"late{-seconds}"
    target = Sshd(
        home / name, options=(f"TrustedUserCAKeys {home}/user_ca", "AuthorizedKeysFile none"),
        environment={"LD_PRELOAD": LIBRARY, "FAKETIME": f"{seconds:+d}", "FAKETIME_FORCE_MONOTONIC_FIX": "0",
                     "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
    ).start()  # fmt: skip
    try:
        pins = [target.host_key.read_text().strip()]
        site.ask(m.TargetAdd(name=name, address=target.address, labels={"env": "test"}, host_keys=pins))
        site.ask(m.AccountAdd(account=target.account, target=name, user_ca=True))
        yield name, target
    finally:
        target.stop()


def way(site: Site, entry: str, target: str) -> tuple[str, ...]:
    return ("-l", site.login(target=target)) if entry == "direct" else ("-o", f"HostName={target}")


@pytest.mark.parametrize("seconds", [-240, 240])
def test_a_target_that_is_minutes_late_or_ahead(site: Site, seconds: int, tmp_path: Path) -> None:
    with off_by(site, seconds, tmp_path) as (name, _):
        for entry in THROUGH:
            done = site.ssh(entry, "echo in", options=way(site, entry, name))
            assert done.stdout == b"in\n", done.stderr


@pytest.mark.parametrize(("seconds", "flaw"), [(-900, "not yet valid"), (900, "expired")])
def test_a_target_of_another_time_is_suspected(site: Site, seconds: int, flaw: str, tmp_path: Path) -> None:
    """Its log says what it thinks; we are told no more than no, and say what that may mean."""
    with off_by(site, seconds, tmp_path) as (name, target):
        for entry in THROUGH:
            done = site.ssh(entry, "echo in", options=way(site, entry, name))
            assert done.returncode != 0
            assert done.stdout == b""
            assert f"`{name}` refused our credential for".encode() in done.stderr
            assert b"its clock is minutes off" in done.stderr
        assert flaw in target.log()
