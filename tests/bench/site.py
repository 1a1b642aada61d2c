"""What is measured: a target sshd, a jump sshd that records nothing, and bastions, all on loopback.

Five ways to the same target, by the names that `ssh_config` gives them:
`direct`; `jumped`, which is `ssh -J` through the jump sshd; `bastion`; `nested`, which is `ssh -J` through the
bastion; and `stranger`, whose key nobody knows.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.bench import machine
from tests.support.net import LOOPBACK, answers_ssh, free_port, tail, wait_until
from tests.support.sshd import Sshd, keygen

WAYS = ("direct", "jumped", "bastion", "nested")
CIPHER, KEX = "aes128-gcm@openssh.com", "curve25519-sha256"
"""What all hops use where algorithms are not what is compared. Left alone, OpenSSH 9 would pay for sntrup761 on its
own hops, which is tens of milliseconds, and for chacha20."""

ROLES = {"recorder": "recorderd", "policy": "policyd", "bastion.ssh": "gateway"}  # python -m NAME -> process

RULES = """\
[[rule]]
name  = "the bench"
who   = { persons = ["alice"] }
where = { targets = ["web1"] }
as    = ["*"]
allow = ["shell", "exec", "sftp", "scp"]
"""

# one address fails and connects more often here than any person does
LIMITS = """\
lock_after = 100
source_failures = 100000
"""


@dataclass
class Bastion:
    """One `bastion run` with its own folder; `settings` are lines for its [ssh] table."""

    folder: Path
    site: "Site"
    settings: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Bastion":
        self._command("init", "--unattended", "--listen", f"{LOOPBACK}:{self.port}", str(self.folder))
        config = self.folder / "bastion.toml"
        text = config.read_text().replace("[ssh]\n", "\n".join(["[ssh]", "penalties = false", *self.settings, ""]), 1)
        config.write_text(text.replace("[policy]\n", "[policy]\n" + LIMITS, 1))
        (self.folder / "policy.toml").write_text(RULES)
        with self.log.open("ab") as log:
            words = [sys.executable, "-m", "bastion", "run", "-c", str(config)]
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until("the bastion", lambda: self.process.poll() is not None or answers_ssh(self.port), 60)
        assert self.process.poll() is None, tail(self.log)
        target, on = self.site.target, ("-c", str(config))
        self._command("person", "add", "alice", "--key", str(self.site.folder / "alice.pub"), *on)
        self._command("target", "add", "web1", "--address", target.address, "--pin", str(target.host_key), *on)
        self._command("account", "add", f"{target.account}@web1", "--key", str(target.client_key), *on)
        return self

    @property
    def log(self) -> Path:
        return self.folder / "bastion.log"

    def processes(self) -> dict[str, list[int]]:
        """gateway, policyd, recorderd -> their process ids."""
        assert self.process is not None
        found: dict[str, list[int]] = {role: [] for role in ROLES.values()}
        for pid in machine.descendants(self.process.pid):
            words = machine.words_of(pid)
            if "-m" in words and (role := ROLES.get(words[words.index("-m") + 1])):
                found[role].append(pid)
        return found

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU so far, per kind of process."""
        return {role: sum(machine.cpu(pid) for pid in pids) for role, pids in self.processes().items()}

    def memory(self) -> dict[str, int]:
        """Bytes (PSS) now, per kind of process."""
        return {role: machine.total_pss(pids) for role, pids in self.processes().items()}

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _command(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "bastion", *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"bastion {' '.join(words)}: {done.stderr or tail(self.log)}"


@dataclass
class Site:
    """The whole of it; a context manager that leaves nothing running."""

    folder: Path
    bastions: list[Bastion] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("alice", "stranger"):
            keygen(self.folder / name)
        self.target = Sshd(self.folder / "target")
        self.jump = Sshd(self.folder / "jump", ("LogLevel ERROR",))
        try:
            self.target.start()
            self.jump.start()
            self.main = self.bastion()
        except BaseException:
            self.__exit__()  # what was started before the fault would stay
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for bastion in self.bastions:
            bastion.stop()
        self.target.stop()
        self.jump.stop()

    def bastion(self, *settings: str) -> Bastion:
        """One more bastion, with other [ssh] settings."""
        bastion = Bastion(self.folder / f"bastion-{len(self.bastions)}", self, settings)
        self.bastions.append(bastion)
        return bastion.start()

    def ssh(self, *words: str, cipher: str = CIPHER, bastion: Bastion | None = None, program: str = "ssh") -> list[str]:
        """The command line that takes one of the ways; no `cipher`, no preference."""
        bastion = bastion or self.main
        path = bastion.folder / f"ssh_config-{cipher or 'default'}"
        if not path.exists():
            path.write_text(self._config(bastion, cipher))
        return [program, "-F", str(path), *words]

    def jump_cpu(self) -> float:
        """Seconds of CPU of the jump sshd and all it has forked."""
        assert self.jump.process is not None
        return machine.cpu_with_children(self.jump.process.pid)

    def _config(self, bastion: Bastion, cipher: str) -> str:
        account, target, jump = self.target.account, self.target, self.jump
        hosts = {
            "direct": (target.port, account, target.client_key, ""),
            "jump": (jump.port, account, jump.client_key, ""),
            "jumped": (target.port, account, target.client_key, "jump"),
            "bastion": (bastion.port, f"{account}@web1", self.folder / "alice", ""),
            "door": (bastion.port, "alice", self.folder / "alice", ""),
            "nested": (22, account, self.folder / "alice", "door"),
            "stranger": (bastion.port, f"{account}@web1", self.folder / "stranger", ""),
        }
        text = ""
        for name, (port, user, key, through) in hosts.items():
            host = "web1" if name == "nested" else LOOPBACK
            text += f'Host {name}\n  HostName {host}\n  Port {port}\n  User {user}\n  IdentityFile "{key}"\n'
            text += f"  ProxyJump {through}\n" if through else ""
        text += f"Host *\n  Ciphers {cipher}\n  KexAlgorithms {KEX}\n" if cipher else "Host *\n"
        return text + (
            "  IdentitiesOnly yes\n  IdentityAgent none\n  BatchMode yes\n  LogLevel ERROR\n  Compression no\n"
            "  UserKnownHostsFile /dev/null\n  StrictHostKeyChecking no\n  ControlMaster no\n"
        )


def versions() -> dict[str, str]:
    """What was measured with, for the foot of the table."""
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.split(",")[0].strip()
    done = subprocess.run([sys.executable, "-m", "bastion", "version", "--json"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    bastion = json.loads(done.stdout) if done.returncode == 0 else {}
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "openssh": ssh,
        "python": sys.version.split()[0],
        "bastion": str(bastion.get("bastion") or bastion.get("version") or ""),
        "machine": f"{len(model)} × {model[0].partition(':')[2].strip()}" if model else "",
    }
