"""A whole bastion for tests: `bastion init`, rules, `bastion run`, a real sshd behind it, people, an ssh_config.

The entry paths that everything is proven on are host names of that ssh_config: `reference` is the target itself with
nothing in between, `direct` is `account@target@bastion`, `jump` is `ssh -J bastion account@target`.
"""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bastion import control, setup
from policy.messages import (
    AccountAdd,
    Command,
    Done,
    MfaEnrol,
    PersonAdd,
    Reload,
    Rows,
    TargetAdd,
)
from tests.support import warm
from tests.support.net import LOOPBACK, free_port, tail, wait_until
from tests.support.sshd import Sshd, keygen

REFERENCE, DIRECT, JUMP = "reference", "direct", "jump"
ENTRIES: Final = (REFERENCE, DIRECT, JUMP)
THROUGH: Final = (DIRECT, JUMP)

EVERYTHING: Final = (
    "shell", "exec", "subsystem", "sftp", "scp", "forward-local", "forward-remote", "forward-socket", "agent", "x11",
)  # fmt: skip

ANYWHERE: Final = f"{LOOPBACK}:1"
_READY: Final = b'"event": "ready", "process": "supervisor"'

RULES: Final = f"""\
[[rule]]
name  = "engineers"
who   = {{ roles = ["engineer"] }}
where = {{ labels = {{ env = "test" }} }}
as    = ["*"]
allow = {json.dumps(EVERYTHING)}
"""


@dataclass(frozen=True)
class Endpoint:
    """What a client that does not read ssh_config needs to know."""

    port: int
    user: str
    key: Path
    host_key: str  # `ssh-ed25519 AAAA...`
    host: str = LOOPBACK

    @property
    def fingerprint(self) -> str:
        """SHA256:... of the host key."""
        blob = base64.b64decode(self.host_key.split()[1])
        return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


_made: list[Path] = []  # the newest is the one to copy


def _ready_made(near: Path) -> Path:
    """Keys and what `bastion init` makes, once per process: a site is a copy of it, two seconds sooner.

    It lies in `near`, a folder of some test's, and is made again once that is gone.
    """
    if not _made or not _made[-1].exists():
        home = near / f"ready-made-{os.getpid()}"
        (home / "keys").mkdir(parents=True)
        for name in ("alice", "bob", "sam", "stranger"):
            keygen(home / "keys" / name)
        keygen(home / "user_ca")
        answers = setup.Answers(listen=[ANYWHERE], admin="sam", admin_keys=[(home / "keys/sam.pub").read_text()])
        list(setup.make(home / "bastion", answers))
        _made.append(home)
    return _made[-1]


@dataclass
class Site:
    """Everything below `home`. `settings` are lines for bastion.toml by table, like `{"ssh": ["channels = 64"]}`."""

    home: Path
    settings: dict[str, list[str]] = field(default_factory=dict)
    rules: str = RULES
    target: Sshd = field(init=False)
    port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    seeds: dict[str, str] = field(default_factory=dict)  # of one-time passwords, by person
    _log_start: int = 0

    def __post_init__(self) -> None:
        self.target = Sshd(self.home / "web1")

    # --- places -------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        return self.home / "bastion"

    @property
    def config(self) -> Path:
        return self.folder / "bastion.toml"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> Path:
        return self.home / "bastion.log"

    @property
    def ssh_config(self) -> Path:
        return self.home / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.home / "known_hosts"

    @property
    def recordings(self) -> Path:
        return self.folder / "state/recordings"

    def key(self, person: str) -> Path:
        return self.home / "keys" / person

    # --- life ---------------------------------------------------------------------------------------

    def start(self) -> "Site":
        """Make everything and wait until a person can log in."""
        shutil.copytree(_ready_made(self.home.parent), self.home, dirs_exist_ok=True)
        self.config.write_text(self.config.read_text().replace(ANYWHERE, f"{LOOPBACK}:{self.port}"))
        self.target.start()
        (self.folder / "user_cas").write_text((self.home / "user_ca.pub").read_text())
        # Tests share one machine with little disk: the low-water mark is a test of its own.
        tables = {"policy": ['trusted_user_cas = "user_cas"'], "recorder": ["low_water_mib = 16", "reserve_mib = 1"]}
        for table, lines in [*tables.items(), *self.settings.items()]:
            self._configure(table, lines)
        (self.folder / "policy.toml").write_text(self.rules)
        self.start_bastion()
        self._populate()
        self._write_ssh_config()
        return self

    def start_bastion(self) -> None:
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bastion", "run", "-c", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.environment},
            )  # fmt: skip
        try:
            wait_until("the bastion", self._is_up, 60)  # three processes that start, on a machine that others use
        except AssertionError as error:
            raise AssertionError(f"{error}\n{tail(self.log)}") from None

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"`bastion run` ended with {self.process.poll()}"
        return _READY in self.log.read_bytes()[self._log_start :]

    def stop(self) -> None:
        self.stop_bastion()
        self.target.stop()

    def stop_bastion(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"`bastion run` did not end within 30 s\n{tail(self.log)}") from None
        finally:
            self.process = None

    def pids(self, role: str) -> list[int]:
        """Processes of a role now: `recorder`, `policy` or `bastion.ssh`."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if f"-m\0{role}\0" in _command_line(pid)]

    def pid(self, role: str) -> int:
        """The only process of a role, once there is one."""
        wait_until(f"one {role}", lambda: len(self.pids(role)) == 1)
        return self.pids(role)[0]

    # --- people, targets, rules ---------------------------------------------------------------------

    def _populate(self) -> None:
        public = {name: self.key(name).with_suffix(".pub").read_text().strip() for name in ("alice", "bob")}
        self.ask(PersonAdd(name="alice", roles=["engineer"], keys=[public["alice"]]))
        self.ask(PersonAdd(name="bob", roles=["engineer"], keys=[public["bob"]]))
        self.ask(PersonAdd(name="carol", roles=["engineer"], password="correct horse battery staple"))
        self.ask(PersonAdd(name="dave", roles=["engineer"]))  # by certificate alone
        enrolled = self.ask(MfaEnrol(person="bob"))
        assert isinstance(enrolled, Done)
        self.seeds["bob"] = enrolled.data["secret"]
        self.add_target("web1", self.target)

    def add_target(self, name: str, target: Any, env: str = "test", account: str = "") -> None:
        """Put a server of tests.support behind the bastion: its own host key pinned, its client key in the vault."""
        pins = [target.host_key.read_text().strip()]
        self.ask(TargetAdd(name=name, address=target.address, labels={"env": env}, host_keys=pins))
        secret = target.client_key.read_text()
        self.ask(AccountAdd(account=account or target.account, target=name, private_key=secret))

    def set_rules(self, text: str) -> None:
        (self.folder / "policy.toml").write_text(text)
        self.ask(Reload())

    def certificate(self, person: str, *options: str) -> Path:
        """A key with a user certificate of the trusted CA; `-o CertificateFile` finds it beside the key."""
        if not (key := self.key(person)).exists():
            keygen(key)
        words = ["ssh-keygen", "-q", "-s", str(self.home / "user_ca"), "-I", person, "-n", person, "-V", "-1m:+1h"]
        subprocess.run([*words, *options, f"{key}.pub"], check=True, capture_output=True)
        return key

    def ask(self, command: Command) -> Rows | Done:
        """What an operator on this machine would ask."""
        return control.ask(self.run, command, "test")

    def audit(self) -> list[dict[str, Any]]:
        """The audit trail, oldest first."""
        done = self.bastion("audit", "list", "--json")
        return list(json.loads(done.stdout))

    def sessions(self) -> list[dict[str, Any]]:
        return list(json.loads(self.bastion("sessions", "list", "--json").stdout))

    def alone(self) -> None:
        """Wait for the ends of the sessions of tests before: who looks for a session finds none but their own."""
        wait_until("the end of all sessions", lambda: not self.sessions(), 40)

    def bastion(self, *words: str, check: bool = True, given: str = "") -> subprocess.CompletedProcess[str]:
        return self._command("bastion", *words, check=check, given=given)

    def replay(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._command("replay", *words, check=check)

    def _command(self, module: str, *words: str, check: bool, given: str = "") -> subprocess.CompletedProcess[str]:
        done = warm.run([sys.executable, "-m", module, *words, "-c", str(self.config)], given)
        if check:
            assert done.returncode == 0, f"{module} {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    # --- clients ------------------------------------------------------------------------------------

    def command(self, program: str, *options: str) -> list[str]:
        """An OpenSSH program, to be followed by one of ENTRIES: `[*site.command("ssh"), entry, "id"]`."""
        return [program, "-F", str(self.ssh_config), *options]

    def ssh(
        self, entry: str, *words: str, options: tuple[str, ...] = (), **more: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command on the target by one of the entry paths."""
        more = {"capture_output": True, "timeout": 60, "check": False} | more
        if "input" not in more:
            more.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run([*self.command("ssh", *options), entry, *words], **more)

    def endpoint(self, entry: str) -> Endpoint:
        """REFERENCE, DIRECT, or `bastion`: the bastion itself, for clients that make their own way from there."""
        if entry == REFERENCE:
            port, user, key, host_key = (
                self.target.port,
                self.target.account,
                self.target.client_key,
                self.target.host_key,
            )
        else:
            user = self.login() if entry == DIRECT else "alice"
            port, key, host_key = self.port, self.key("alice"), self.folder / "state/ssh_host_ed25519_key.pub"
        return Endpoint(port, user, key, " ".join(host_key.read_text().split()[:2]))

    def login(self, account: str = "", target: str = "web1") -> str:
        """The user name that leads to an account on a target."""
        return f"{account or self.target.account}@{target}"

    def _write_ssh_config(self) -> None:
        host_keys = [self.folder / f"state/ssh_host_{kind}_key.pub" for kind in ("ed25519", "rsa")]
        lines = [f"[{LOOPBACK}]:{self.port} {path.read_text()}" for path in host_keys]
        lines.append(f"[{LOOPBACK}]:{self.target.port} {self.target.host_key.read_text()}")
        self.known_hosts.write_text("".join(lines))
        common = (
            f"  UserKnownHostsFile {self.known_hosts}\n  StrictHostKeyChecking yes\n  BatchMode yes\n"
            "  IdentitiesOnly yes\n  IdentityAgent none\n  LogLevel ERROR\n"
        )
        self.ssh_config.write_text(
            f"Host {REFERENCE}\n  HostName {LOOPBACK}\n  Port {self.target.port}\n  User {self.target.account}\n"
            f"  IdentityFile {self.target.client_key}\n{common}"
            f"Host {DIRECT}\n  HostName {LOOPBACK}\n  Port {self.port}\n  User {self.login()}\n"
            f"  IdentityFile {self.key('alice')}\n{common}"
            f"Host bastion\n  HostName {LOOPBACK}\n  Port {self.port}\n  User alice\n"
            f"  IdentityFile {self.key('alice')}\n{common}"
            f"Host {JUMP}\n  HostName web1\n  User {self.target.account}\n  ProxyJump bastion\n"
            f"  IdentityFile {self.key('alice')}\n{common}"
        )
        ca = subprocess.run(
            [*self.command("ssh"), "bastion", "ca"], capture_output=True, text=True, timeout=30, check=False
        )
        assert "@cert-authority" in ca.stdout, f"`ssh bastion ca`: {ca.stdout}{ca.stderr}\n{tail(self.log)}"
        with self.known_hosts.open("a") as file:
            file.writelines(line for line in ca.stdout.splitlines(keepends=True) if line.startswith("@cert-authority"))

    def _configure(self, table: str, lines: list[str]) -> None:
        text = self.config.read_text()
        assert f"[{table}]\n" in text
        for line in lines:
            name = line.split()[0]
            kept = [known for known in text.splitlines(keepends=True) if known.split(" =")[0] != name]
            text = "".join(kept)
        text = text.replace(f"[{table}]\n", f"[{table}]\n" + "".join(f"{line}\n" for line in lines), 1)
        self.config.write_text(text)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still within the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
