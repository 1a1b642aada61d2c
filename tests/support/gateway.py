"""A bastion of which only the login is needed: a real policyd and a real gateway worker, without a recorder."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bastion import control, setup
from policy.messages import Command, Done, PersonAdd, Rows
from tests.support.net import LOOPBACK, answers_ssh, free_port, tail, wait_until
from tests.support.sshd import keygen


@dataclass
class Gateway:
    """Everything below `home`. `settings` are lines for the [ssh] table."""

    home: Path
    settings: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    policyd: subprocess.Popen[bytes] | None = None
    worker: subprocess.Popen[bytes] | None = None

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
    def policy_log(self) -> Path:
        return self.home / "policyd.log"

    @property
    def log(self) -> Path:
        return self.home / "ssh.log"

    def make(self) -> "Gateway":
        self.home.mkdir(parents=True, exist_ok=True)
        list(setup.make(self.folder, setup.Answers(listen=[f"{LOOPBACK}:{self.port}"])))
        self.configure(*self.settings)
        return self

    def configure(self, *lines: str) -> None:
        """Put lines into the [ssh] table."""
        text = self.config.read_text()
        self.config.write_text(text.replace("[ssh]\n", "[ssh]\n" + "".join(f"{line}\n" for line in lines), 1))

    def start(self) -> "Gateway":
        self.start_policyd()
        self.person("sam", "admin")
        self.start_worker()
        return self

    def start_policyd(self) -> None:
        self.policyd = self._start("policy", "serve", log=self.policy_log)
        wait_until("policyd", lambda: control.is_answering(self.run / "policyd-admin.sock"), 60)

    def start_worker(self) -> None:
        self.worker = self._start("bastion.ssh", log=self.log, words=["--worker", "0"])
        try:
            wait_until("the gateway", lambda: answers_ssh(self.port), 60)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{tail(self.log)}") from None

    def _start(self, module: str, *verb: str, log: Path, words: list[str] | None = None) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", module, *verb, "--config", str(self.config), *(words or [])],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, **self.environment},
            )  # fmt: skip

    def stop(self) -> None:
        for process in (self.worker, self.policyd):
            end(process)

    def ask(self, command: Command) -> Rows | Done:
        """What an operator on this machine would ask."""
        return control.ask(self.run, command, "test")

    def person(self, name: str, *roles: str, **more: Any) -> Path:
        """A new person with a key of their own; where the key is."""
        key = self.home / name
        if not key.exists():
            keygen(key)
        self.ask(PersonAdd(name=name, roles=list(roles), keys=[self.public(name)], **more))
        return key

    def public(self, name: str) -> str:
        return (self.home / f"{name}.pub").read_text().strip()

    @property
    def known_hosts(self) -> Path:
        path = self.home / "known_hosts"
        key = (self.folder / "state/ssh_host_ed25519_key.pub").read_text()
        path.write_text(f"[{LOOPBACK}]:{self.port} {key}")
        return path

    def ssh(self, *words: str, key: str = "sam", user: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the system's ssh as a person would; `-v` goes to standard error with `verbose=True`."""
        return subprocess.run(
            self.words(*words, key=key, user=user, verbose=options.pop("verbose", False)),
            capture_output=True, text=True, timeout=options.pop("timeout", 60), check=False,
            stdin=options.pop("stdin", subprocess.DEVNULL), **options,
        )  # fmt: skip

    def words(self, *words: str, key: str = "sam", user: str = "", verbose: bool = False) -> list[str]:
        return [
            "ssh", "-F", "/dev/null", *(["-v"] if verbose else ["-o", "LogLevel=ERROR"]),
            "-i", str(self.home / key), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
            "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "StrictHostKeyChecking=yes",
            "-o", "PreferredAuthentications=publickey,keyboard-interactive", "-p", str(self.port),
            *(["-l", user] if user else []), LOOPBACK, *words,
        ]  # fmt: skip


def end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
