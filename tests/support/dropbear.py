"""A real Dropbear as a second kind of target, with the same face as tests.support.sshd.Sshd. Needs root."""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.net import LOOPBACK, answers_ssh, free_port, tail, wait_until
from tests.support.sshd import keygen

DROPBEAR = shutil.which("dropbear") or "/usr/sbin/dropbear"


def missing() -> str:
    """Why it cannot run here; empty if it can."""
    if not Path(DROPBEAR).exists():
        return "needs dropbear"
    if os.geteuid() != 0:
        return "dropbear reads keys in the home folder alone: giving it another one needs root"
    return ""


@dataclass
class Dropbear:
    """One running server; root, with `home` as home folder, is the only one who can log in."""

    home: Path
    port: int = field(default_factory=free_port)
    account: str = "root"
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def host_key(self) -> Path:
        return self.home / "host_key.pub"

    @property
    def client_key(self) -> Path:
        return self.home / "client_key"

    def start(self) -> "Dropbear":
        (self.home / ".ssh").mkdir(mode=0o700, parents=True)
        self.home.chmod(0o700)
        keygen(self.home / "host_key")
        keygen(self.client_key)
        (self.home / ".ssh/authorized_keys").write_text(self.client_key.with_suffix(".pub").read_text())
        convert = [
            "dropbearconvert",
            "openssh",
            "dropbear",
            str(self.home / "host_key"),
            str(self.home / "dropbear_key"),
        ]
        subprocess.run(convert, check=True, capture_output=True)
        users = Path("/etc/passwd").read_text().splitlines()
        root = next(line.split(":") for line in users if line.startswith("root:"))
        root[5] = str(self.home)
        (self.home / "passwd").write_text("\n".join([":".join(root), *users[1:], ""]))
        # Its own view of /etc/passwd; nobody else on the machine sees it.
        script = 'mount --bind "$0" /etc/passwd && exec "$@"'
        server = [DROPBEAR, "-F", "-E", "-p", self.address, "-r", str(self.home / "dropbear_key"),
                  "-P", str(self.home / "pid")]  # fmt: skip
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script, str(self.home / "passwd"), *server],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(f"dropbear: {tail(self.home / 'log')}", lambda: answers_ssh(self.port))
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
            self.process = None
