"""The units as systemd itself judges them: valid, and closed as far as each process allows."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"
EXPOSURE = {  # what systemd-analyze gives at most: the gateway needs a network, the authorities do not
    "bastion-ssh.service": 1.2,
    "bastion-policyd.service": 0.5,
    "bastion-recorderd.service": 0.5,
    "bastion-courier.service": 1.2,
    "bastion-broker.service": 1.6,
    "bastion-runner.service": 2.0,
}

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")


@needs_systemd
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.socket"), *UNITS.glob("*.target")):
        # the program is installed by the package; here only its place is taken
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/lib/bastion/bin/python", "/bin/true"))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 16
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *(f"./{name}" for name in names)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize(("unit", "most"), EXPOSURE.items())
def test_each_service_is_closed(unit: str, most: float) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"./{unit}"],
        cwd=UNITS, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= most, done.stdout


@pytest.mark.parametrize("unit", EXPOSURE)
def test_every_user_exists_and_no_secret_is_in_the_environment(unit: str) -> None:
    text = (UNITS / unit).read_text()
    known = set(re.findall(r"^[ug] (\S+)", (UNITS / "bastion.sysusers").read_text(), flags=re.MULTILINE))
    named = re.findall(r"^(?:User|Group|SupplementaryGroups)=(\S+)$", text, flags=re.MULTILINE)
    assert len(named) >= 2
    assert set(named) <= known
    assert "Environment=" not in text


@pytest.mark.parametrize("unit", ["bastion-policyd.service", "bastion-broker.service"])
def test_who_connects_is_seen(unit: str) -> None:
    """The attack: with PrivateUsers= every peer is `nobody`, and the trail, or an application, is anybody's."""
    assert "\nPrivateUsers=no\n" in (UNITS / unit).read_text()


def test_the_broker_sees_in_which_unit_an_application_runs() -> None:
    assert "\nProtectProc=default\n" in (UNITS / "bastion-broker.service").read_text()


def test_each_socket_of_policyd_has_its_own_group() -> None:
    groups = {}
    for unit in UNITS.glob("bastion-policyd*.socket"):
        fields = dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), flags=re.MULTILINE))
        assert fields["SocketMode"] == "0660"
        groups[fields["FileDescriptorName"]] = fields["SocketGroup"]
    assert groups == {
        "policyd": "bastion",
        "policyd-admin": "bastion-admin",
        "policyd-audit": "bastion-audit",
        "policyd-courier": "bastion-courier",
        "policyd-broker": "bastion-broker",
        "policyd-runner": "bastion-runner",
    }
    known = re.findall(r"^[ug] (\S+)", (UNITS / "bastion.sysusers").read_text(), flags=re.MULTILINE)
    assert set(groups.values()) <= set(known)
