"""The Debian package, and what `bastion init --existing` makes for its layout."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "bastion/templates/bastion.toml"


def bastion(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "bastion", *words], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder as the package leaves it: configuration with the units' places, state folder, no keys."""
    folder, state = tmp_path / "etc", tmp_path / "var"
    folder.mkdir()
    state.mkdir(mode=0o700)
    text = TEMPLATE.read_text()
    for old, new in (
        ('state = "state"', f"state = {json.dumps(str(state))}"),
        ('#host_keys = ["ssh_host_ed25519_key", "ssh_host_rsa_key"]',
         f"host_keys = {json.dumps([str(folder / 'ssh_host_ed25519_key'), str(folder / 'ssh_host_rsa_key')])}"),
        ('#master_key = "file:master.key"', 'master_key = "credential:master.key"'),
    ):  # fmt: skip
        assert f"\n{old}\n" in text
        text = text.replace(f"\n{old}\n", f"\n{new}\n", 1)
    (folder / "bastion.toml").write_text(text)
    shutil.copy(TEMPLATE.with_name("policy.toml"), folder)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "sam")], check=True)
    return folder


def test_an_installed_bastion_gets_its_keys_and_its_database(installed: Path) -> None:
    sam = str(installed.parent / "sam.pub")
    done = bastion("init", "--existing", "--unattended", "--admin", "sam", "--admin-key", sam, str(installed))
    assert done.returncode == 0, done.stderr
    assert "systemctl enable --now bastion.target" in done.stdout
    secrets = ("master.key", "ssh_host_ed25519_key", "ssh_host_rsa_key")
    assert {stat.S_IMODE((installed / name).stat().st_mode) for name in secrets} == {0o600}
    assert len((installed / "master.key").read_bytes()) == 32
    database = installed.parent / "var/bastion.db"
    assert database.stat().st_uid == (installed.parent / "var").stat().st_uid
    assert bastion("check-config", str(installed / "bastion.toml")).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_the_database_belongs_to_policyd(installed: Path) -> None:
    nobody = 65534
    try:
        subprocess.run([sys.executable, "-c", ""], user=nobody, cwd="/", check=True, timeout=60)
    except OSError:
        pytest.skip(f"others may not run {sys.executable}")
    installed.parent.chmod(0o755)
    for parent in installed.parents:  # pytest's own folders are closed to others
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    os.chown(installed.parent / "var", nobody, nobody)
    done = bastion("init", "--existing", "--unattended", str(installed))
    assert done.returncode == 0, done.stderr
    assert (installed.parent / "var/bastion.db").stat().st_uid == nobody
    assert (installed / "master.key").stat().st_uid == 0
    assert not list(Path("/run").glob("bastion-init-*")), "a copy of the master key was left"


def test_what_is_there_is_kept(installed: Path) -> None:
    assert bastion("init", "--existing", "--unattended", str(installed)).returncode == 0
    before = {path: path.read_bytes() for path in installed.iterdir()}
    done = bastion("init", "--existing", "--unattended", str(installed))
    assert done.returncode != 0
    assert "exists already: nothing was changed" in done.stderr
    assert {path: path.read_bytes() for path in installed.iterdir()} == before


def test_without_the_word_it_is_told_about_it(installed: Path) -> None:
    done = bastion("init", "--unattended", str(installed))
    assert done.returncode != 0
    assert f"bastion: make what it names: bastion init --existing {installed}" in done.stderr


def test_without_the_package_it_says_what_is_missing(installed: Path) -> None:
    (installed.parent / "var").rmdir()
    done = bastion("init", "--existing", "--unattended", str(installed))
    assert done.returncode != 0
    assert "is missing" in done.stderr
    assert "systemd-tmpfiles --create" in done.stderr


@pytest.mark.e2e
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.environ.get("BASTION_TEST_DEB") != "1", reason="builds for minutes: set BASTION_TEST_DEB=1")
@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_the_package_holds_what_the_units_name() -> None:
    subprocess.run([ROOT / "systemd/build-deb"], cwd=ROOT, check=True, timeout=800)
    package = max((ROOT / "build").glob("bastion_*.deb"), key=lambda path: path.stat().st_mtime)
    lines = subprocess.run(
        ["dpkg-deb", "-c", str(package)], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    found = {line.split()[5].removeprefix("."): (line.split()[0], line.split()[1]) for line in lines}
    assert {owner for _, owner in found.values()} == {"root/root"}
    for unit in (ROOT / "systemd").glob("bastion*.*"):
        if unit.suffix in (".service", ".socket", ".target"):
            assert f"/usr/lib/systemd/system/{unit.name}" in found
    for path in ("/usr/lib/sysusers.d/bastion.conf", "/usr/lib/tmpfiles.d/bastion.conf", "/etc/bastion/bastion.toml",
                 "/etc/bastion/policy.toml", "/usr/lib/bastion/bin/python"):  # fmt: skip
        assert path in found
    assert {found[path][0] for path in ("/usr/bin/bastion", "/usr/bin/replay")} == {"-rwxr-xr-x"}
    writable = [path for path, (mode, _) in found.items() if mode[0] != "l" and "w" in (mode[5], mode[8])]
    assert not writable
    control = subprocess.run(
        ["dpkg-deb", "-f", str(package), "Depends"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "python3 (>= 3." in control
