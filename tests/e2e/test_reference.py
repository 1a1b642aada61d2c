"""The reference that the bastion is held against: stock clients and a real sshd with nothing in between.

What fails here is the machine's fault and not the gateway's.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.net import LOOPBACK
from tests.support.sshd import SFTP_SERVER, SSHD, Sshd

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    sshd = Sshd(tmp_path_factory.mktemp("sshd")).start()
    yield sshd
    sshd.stop()


def words(target: Sshd, program: str, port_flag: str) -> list[str]:
    known = target.home / "known_hosts"
    known.write_text(f"[{LOOPBACK}]:{target.port} {target.host_key.read_text()}")
    return [
        program, "-F", "/dev/null", "-i", str(target.client_key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
        "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", port_flag, str(target.port),
    ]  # fmt: skip


def test_command_output_error_and_status_stay_apart(target: Sshd) -> None:
    done = subprocess.run(
        [*words(target, "ssh", "-p"), f"{target.account}@{LOOPBACK}", "cat; echo err >&2; exit 7"],
        input=b"\0\xff binary", capture_output=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (7, b"\0\xff binary", b"err\n")


@pytest.mark.skipif(not Path(SFTP_SERVER).exists(), reason="needs OpenSSH's sftp-server")
def test_a_file_comes_back_as_it_went(target: Sshd, tmp_path: Path) -> None:
    sent, back = tmp_path / "sent", tmp_path / "back"
    sent.write_bytes(bytes(range(256)) * 4000)
    remote = f"{target.account}@{LOOPBACK}:{tmp_path}/there"
    for source, destination in ((str(sent), remote), (remote, str(back))):
        subprocess.run([*words(target, "scp", "-P"), "-q", source, destination], check=True, timeout=30)
    assert back.read_bytes() == sent.read_bytes()


def test_the_target_knows_which_key_came(target: Sshd) -> None:
    """What later tests rely on: the target's log names the credential, so injection can be proven there."""
    subprocess.run([*words(target, "ssh", "-p"), f"{target.account}@{LOOPBACK}", "true"], check=True, timeout=30)
    print_of = subprocess.run(
        ["ssh-keygen", "-lf", f"{target.client_key}.pub"], check=True, capture_output=True, text=True
    )
    assert print_of.stdout.split()[1] in target.log()
