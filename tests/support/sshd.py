"""A real OpenSSH sshd as target: own configuration, own host key, loopback, a free port."""

import getpass
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.net import LOOPBACK, answers_ssh, free_port, tail, wait_until

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
SFTP_SERVER = "/usr/lib/openssh/sftp-server"


def keygen(path: Path, kind: str = "ed25519", *options: str) -> Path:
    """Make an unencrypted key pair; the public half is `path`.pub."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", path.name, "-f", str(path), *options], check=True)
    return path


@dataclass
class Sshd:
    """One running sshd. `account` is the only user who can log in: the one who runs the tests.

    HOME is not that user's: what their shell does at its start is nothing that we may leave half done. A shell killed
    in `pyenv rehash` leaves a lock behind, and each later login waits a minute for it.
    """

    home: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    account: str = field(default_factory=getpass.getuser)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def host_key(self) -> Path:
        return self.home / "host_key.pub"

    @property
    def client_key(self) -> Path:
        """The private key that the bastion's vault holds for this target."""
        return self.home / "client_key"

    def start(self) -> "Sshd":
        self.home.mkdir(parents=True, exist_ok=True)
        if not (self.home / "host_key").exists():
            keygen(self.home / "host_key")
            keygen(self.client_key)
            (self.home / "authorized_keys").write_text(self.client_key.with_suffix(".pub").read_text())
        Path("/run/sshd").mkdir(exist_ok=True) if os.geteuid() == 0 else None
        (self.home / "sshd_config").write_text(
            "\n".join(
                [
                    *self.options,  # sshd takes the first value of an option
                    f"ListenAddress {LOOPBACK}",
                    f"Port {self.port}",
                    f"HostKey {self.home / 'host_key'}",
                    f"AuthorizedKeysFile {self.home / 'authorized_keys'}",
                    f"PidFile {self.home / 'sshd.pid'}",
                    "PermitRootLogin yes",
                    f"SetEnv HOME={self.home}",
                    "PermitUserRC no",
                    "StrictModes no",
                    "UsePAM no",
                    "PasswordAuthentication no",
                    "AllowAgentForwarding yes",
                    "AllowTcpForwarding yes",
                    "AllowStreamLocalForwarding yes",
                    "X11Forwarding yes",
                    "X11UseLocalhost yes",
                    "AcceptEnv LANG LC_* COLORTERM",
                    "MaxStartups 200",
                    "MaxSessions 100",
                    "PrintMotd no",
                    "PrintLastLog no",
                    f"Subsystem sftp {SFTP_SERVER}",
                    "Subsystem echo /bin/cat",
                    "LogLevel VERBOSE",
                    "",
                ]
            )
        )
        self.process = subprocess.Popen(
            [SSHD, "-D", "-f", str(self.home / "sshd_config"), "-E", str(self.home / "sshd.log")],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **self.environment},
        )
        wait_until(f"sshd: {tail(self.home / 'sshd.log')}", lambda: answers_ssh(self.port))
        return self

    def log(self) -> str:
        return (self.home / "sshd.log").read_text(errors="replace")

    def stop(self) -> None:
        """End the listener and every connection it still serves (they share its process session)."""
        if self.process is None:
            return
        for pid in _session_members(self.process.pid):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        self.process.wait(30)
        self.process = None


def _session_members(leader: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            found.append(int(stat.parent.name))
    return found
