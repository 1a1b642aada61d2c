"""The demo's places and processes: keys, ssh_config, target, bastion. No output, no judgement."""

import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bastion.setup import make_host_keys

LOOPBACK: Final = "127.0.0.1"
START_PATIENCE: Final = 60.0  # seconds; a cold start on a busy machine takes 10
USUAL_PORT: Final = 2222

RULES: Final = """\
[[rule]]
name  = "engineers on demo machines"
who   = { roles = ["engineer"] }
where = { labels = { env = "demo" } }
as    = ["*"]
allow = ["shell", "exec", "sftp", "scp", "forward-local"]
"""


class StepFailed(Exception):
    """Something did not do what the demo says it does."""


@dataclass
class Site:
    """Everything below one folder; `stop` ends what was started."""

    folder: Path
    port: int
    target_port: int
    user: str = field(default_factory=getpass.getuser)
    target_kind: str = ""
    _bastion: subprocess.Popen[bytes] | None = None
    _target: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """The folder as one would type it."""
        return os.path.relpath(self.folder)

    @property
    def log(self) -> Path:
        return self.folder / "bastion.log"

    @property
    def target_log(self) -> Path:
        return self.folder / "target/log"

    @property
    def target_folder(self) -> Path:
        return self.folder / "target/files"

    @property
    def ssh(self) -> list[str]:
        return ["ssh", "-F", f"{self.name}/ssh_config"]

    @property
    def scp(self) -> list[str]:
        return ["scp", "-F", f"{self.name}/ssh_config"]

    @property
    def old_scp(self) -> bool:
        """Before OpenSSH 9.0 scp gave remote names to a shell."""
        version = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr
        found = re.search(r"OpenSSH_(\d+)", version)
        return bool(found and int(found[1]) < 9)

    def write_rules(self) -> None:
        (self.folder / "policy.toml").write_text(RULES)

    def trust(self, ca_lines: str) -> None:
        """Put the bastion's own `@cert-authority` line where this ssh looks."""
        lines = [line for line in ca_lines.splitlines() if line.startswith("@cert-authority")]
        with (self.folder / "known_hosts").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    # --- processes ----------------------------------------------------------------------------------

    def start_bastion(self) -> None:
        words = [sys.executable, "-m", "bastion", "run", "-c", str(self.folder / "bastion.toml")]
        with self.log.open("ab") as log:
            self._bastion = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._until("the bastion", lambda: _answers_ssh(self.port), self._bastion, self.log)
        line = (self.folder / "state/ssh_host_ed25519_key.pub").read_text()
        with (self.folder / "known_hosts").open("a") as file:
            file.write(f"[{LOOPBACK}]:{self.port} {line}")

    def start_target(self) -> None:
        """The system's sshd, if it lets us in; else a small server of our own."""
        sshd = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if not (sshd and self._start_sshd(sshd) and self._lets_us_in()):
            self._end(self._target)
            self._start_embedded()
            if not self._lets_us_in():
                raise StepFailed("the demo's target does not let its own key in")

    def _start_sshd(self, sshd: str) -> bool:
        config = self.folder / "target/sshd_config"
        config.write_text(
            f"ListenAddress {LOOPBACK}:{self.target_port}\n"
            f'HostKey "{self.folder}/target/ssh_host_ed25519_key"\n'
            f'AuthorizedKeysFile "{self.folder}/target/authorized_keys"\n'
            "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            "Subsystem sftp internal-sftp\nPrintMotd no\nPermitUserRC no\n"
            f'SetEnv "HOME={self.target_folder}"\n'  # one session is killed: not amid what your shell does at its start
        )
        with self.target_log.open("ab") as log:
            if subprocess.run([sshd, "-t", "-f", str(config)], stdout=log, stderr=log, check=False).returncode:
                return False  # no /run/sshd, no privileges, an sshd too old for these words
            self._target = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stdout=log, stderr=log)
        self.target_kind = "the system's sshd"
        return True

    def _start_embedded(self) -> None:
        place = self.folder / "target"
        words = [sys.executable, "-m", "bastion.ssh.demo_target", str(self.target_port),
                 str(place / "ssh_host_ed25519_key"), str(place / "authorized_keys")]  # fmt: skip
        with self.target_log.open("ab") as log:
            self._target = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.target_kind = "a small asyncssh server"

    def _lets_us_in(self) -> bool:
        """Not every sshd that starts does: the account may be locked, or PAM be wanted."""
        assert self._target is not None
        try:
            self._until("the target", lambda: _answers_ssh(self.target_port), self._target, self.target_log)
        except StepFailed:
            return False
        words = ["ssh", "-F", "none", "-p", str(self.target_port), "-i", f"{self.folder}/keys/vaulted",
                 "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=/dev/null",
                 "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR",
                 f"{self.user}@{LOOPBACK}", "true"]  # fmt: skip
        return subprocess.run(words, capture_output=True, timeout=START_PATIENCE, check=False).returncode == 0

    def is_running(self) -> bool:
        return self._bastion is not None and self._bastion.poll() is None

    def wait(self) -> None:
        if self._bastion is not None:
            self._bastion.wait()

    def stop(self) -> None:
        self._end(self._bastion)
        self._end(self._target)

    def _end(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _until(self, what: str, condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_PATIENCE
        while not condition():
            if process.poll() is not None or time.monotonic() > deadline:
                last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
                raise StepFailed(f"{what} did not start:\n{last}")
            time.sleep(0.05)

    # --- what the bastion says ----------------------------------------------------------------------

    def recordings(self) -> list[str]:
        """Session ids, oldest first, once the last sessions have ended."""
        return [str(row["session"]) for row in self._rows("replay", "ls")]

    def recording_files(self) -> list[Path]:
        return [
            path for path in (self.folder / "state/recordings").rglob("*") if path.is_file() and path.suffix == ".brec"
        ]

    def live_session(self) -> str:
        rows = self._rows("bastion", "sessions", "list")
        if not rows:
            raise StepFailed("`bastion sessions list` shows no session")
        return str(rows[-1]["session"])

    def _rows(self, module: str, *words: str) -> list[dict[str, object]]:
        full = [sys.executable, "-m", module, *words, "--json", "-c", f"{self.name}/bastion.toml"]
        done = subprocess.run(full, capture_output=True, text=True, timeout=START_PATIENCE, check=False)
        if done.returncode:
            raise StepFailed(f"`{' '.join([module, *words])}`: {done.stderr.strip()}")
        rows: list[dict[str, object]] = json.loads(done.stdout)
        return rows


def make_site(folder: Path) -> Site:
    """A fresh folder with keys and an ssh_config; what an earlier demo left there is removed."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / "ssh_config").exists():
            raise SystemExit(f"bastion: `{folder}` is not empty and no demo made it\nbastion: choose another folder")
        shutil.rmtree(folder)
    for name in ("keys", "target/files"):
        (folder / name).mkdir(mode=0o700, parents=True)
    site = Site(folder, _free_port(USUAL_PORT), _free_port())
    for name in ("alice", "sam", "stranger", "vaulted"):
        _key(folder / "keys" / name)
    make_host_keys(folder / "target")
    shutil.copy(folder / "keys/vaulted.pub", folder / "target/authorized_keys")
    common = (
        f"  HostName {LOOPBACK}\n  Port {site.port}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f'  UserKnownHostsFile "{folder}/known_hosts"\n  StrictHostKeyChecking yes\n  BatchMode yes\n  LogLevel ERROR\n'
    )
    (folder / "ssh_config").write_text(
        f'Host bastion\n  User alice\n  IdentityFile "{folder}/keys/alice"\n{common}'
        f"Host stranger\n{common}"
        f'Host web1\n  IdentityFile "{folder}/keys/alice"\n  IdentitiesOnly yes\n  IdentityAgent none\n'
        f'  UserKnownHostsFile "{folder}/known_hosts"\n  StrictHostKeyChecking yes\n  BatchMode yes\n'
    )
    return site


def _key(path: Path) -> None:
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def _free_port(wanted: int = 0) -> int:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError:
            probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _answers_ssh(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as sock:
            return sock.recv(255).startswith(b"SSH-2.0")
    except OSError:
        return False
