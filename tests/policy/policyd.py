"""A real policyd over its real sockets: a state of its own, a process, and the two sorts of peers that talk to it."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from policy import messages as m
from policy.keys import signatures, sshkeys
from policy.keys.sshkeys import PrivateKey
from policy.keys.sshwire import string
from policy.model import Outcome
from tests.support import warm
from tests.support.net import tail, wait_until

PATIENCE = 20.0
SESSION = bytes(range(32))
SOURCE = "192.0.2.10"

RULES = """
[[rule]]
name  = "engineers on test machines"
who   = { roles = ["engineer"] }
where = { labels = { env = "test" } }
as    = ["*"]
allow = ["shell", "exec", "sftp"]

[[rule]]
name    = "production with a code and a reason"
who     = { roles = ["engineer"] }
where   = { labels = { env = "prod" } }
as      = ["*"]
allow   = ["shell"]
require = { mfa = "15m", reason = true }

[[rule]]
name   = "short sessions"
who    = { roles = ["guest"] }
where  = { targets = ["web1"] }
as     = ["*"]
allow  = ["shell"]
limits = { session = "1s" }
"""


class Gone(Exception):
    """policyd closed the connection."""


class Peer:
    """One connection to policyd. Blocking, with a deadline; pushes are kept apart from replies."""

    def __init__(self, path: Path, first: m.Request | None = None) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(path))
        self.number = 0
        self.pushes: list[m.Reply] = []
        if first is not None:
            self.ask(first)

    def ask(self, body: m.Request) -> Any:
        """The reply to one request; Gone if policyd closes instead."""
        self.number += 1
        self.send(m.encode(self.number, body))
        while True:
            ident, reply = self.receive()
            if ident == self.number:
                return reply
            self.pushes.append(reply)

    def send(self, data: bytes) -> None:
        try:
            self.sock.send(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone from None

    def receive(self) -> tuple[int, m.Reply]:
        try:
            data = self.sock.recv(m.MAX_MESSAGE + 1)
        except ConnectionResetError:
            raise Gone from None
        if not data:
            raise Gone
        return m.decode_reply(data)

    def push(self) -> Any:
        """The next thing that policyd says unasked."""
        if self.pushes:
            return self.pushes.pop(0)
        ident, body = self.receive()
        assert ident == 0, body
        return body

    def is_closed(self) -> bool:
        """Whether policyd hung up, waiting for it to do so."""
        try:
            while True:
                self.receive()
        except Gone:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def login_data(key: PrivateKey, *, user: str = "root@web1", session: bytes = SESSION, blob: bytes = b"") -> bytes:
    """What a client signs (RFC 4252 section 7)."""
    algorithm = key.public.signature_algorithms[0]
    if blob and sshkeys.is_certificate(blob):
        algorithm += sshkeys.CERTIFICATE
    return (
        string(session) + b"\x32" + string(user) + string("ssh-connection") + string("publickey") + b"\x01"
        + string(algorithm) + string(blob or key.public.blob)
    )  # fmt: skip


def proof(key: PrivateKey, *, person: str = "", blob: bytes = b"", session: bytes = SESSION) -> m.ProveKey:
    """A key proven as a client would."""
    signed = login_data(key, blob=blob, session=session)
    signature = signatures.sign(key, key.public.signature_algorithms[0], signed)
    return m.ProveKey(person=person, blob=blob or key.public.blob, signed=signed, signature=signature)


def hello(source: str = SOURCE, session: bytes = SESSION) -> m.Hello:
    return m.Hello(source=source, source_port=40000, listener="ssh", client="SSH-2.0-test", ssh_session=session)


@dataclass
class Policyd:
    """`home` holds bastion.toml, policy.toml and the state; `settings` are lines of [policy]."""

    home: Path
    rules: str = RULES
    settings: str = ""
    process: subprocess.Popen[bytes] | None = None
    keys: dict[str, PrivateKey] = field(default_factory=dict)  # of the persons that `person` made

    @property
    def config(self) -> Path:
        return self.home / "bastion.toml"

    @property
    def database(self) -> Path:
        return self.home / "state" / "bastion.db"

    def make(self) -> Self:
        """A new state, as `bastion init` has it made."""
        self.write()
        return self.initialise()

    def initialise(self) -> Self:
        """The same beside a bastion.toml that is there."""
        done = self.run("init")
        assert done.returncode == 0, done.stderr
        return self

    def write(self) -> None:
        """bastion.toml and policy.toml."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.config.write_text(f"[policy]\n{self.settings}\n")
        (self.home / "policy.toml").write_text(self.rules)

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """`bastion-policyd WORDS --config ...`, to its end."""
        return warm.run([sys.executable, "-m", "policy", *words, "--config", str(self.config)])

    def start(self) -> Self:
        with (self.home / "log").open("ab") as log:
            self.process = warm.Popen(
                [sys.executable, "-m", "policy", "serve", "--config", str(self.config)], stderr=log
            )
        wait_until(f"policyd\n{self.log()}", self._ready, 60)
        return self

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with suppress(OSError):
            Peer(self.home / "run" / "policyd-admin.sock").close()
            return True
        return False

    def log(self) -> str:
        return tail(self.home / "log")

    def cpu(self) -> float:
        """User and system seconds of the process so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    # --- peers ----------------------------------------------------------------------------------------

    def gateway(self, first: m.Request | None = None) -> Peer:
        """A connection to the gateways' socket that has said nothing yet, or `first`."""
        return Peer(self.home / "run" / "policyd.sock", first)

    def connection(self, source: str = SOURCE) -> Peer:
        """One that has said hello for a client."""
        return self.gateway(hello(source))

    def courier(self, first: m.Request | None = None) -> Peer:
        return Peer(self.home / "run" / "policyd-courier.sock", first)

    def runner(self, first: m.Request | None = None) -> Peer:
        return Peer(self.home / "run" / "policyd-runner.sock", first)

    def operator(self) -> Peer:
        return Peer(self.home / "run" / "policyd-admin.sock", m.Admin(command="test"))

    def auditor(self, first: m.Request | None = None) -> Peer:
        """A connection to the auditors' socket."""
        return Peer(self.home / "run" / "policyd-audit.sock", first)

    def command(self, body: m.Command) -> Any:
        with self.operator() as operator:
            return operator.ask(body)

    def done(self, body: m.Command) -> Any:
        answer = self.command(body)
        assert not isinstance(answer, m.Refused), answer.cause
        return answer

    def audit(self, event: str = "", limit: int = 200) -> list[dict[str, str]]:
        """The newest events of one kind, newest first."""
        rows = self.done(m.AuditList(event=event, limit=limit))
        return [dict(zip(rows.columns, row, strict=True)) for row in reversed(rows.rows)]

    # --- what there is ----------------------------------------------------------------------------------

    def person(self, name: str, *roles: str, password: str = "") -> PrivateKey:
        key = self.keys[name] = sshkeys.generate_private_key()
        self.done(m.PersonAdd(name=name, roles=list(roles), keys=[key.public.line(name)], password=password))
        return key

    def target(self, name: str, *accounts: str, env: str = "test") -> PrivateKey:
        """A target with a pinned key; the accounts have passwords. Its host key."""
        key = sshkeys.generate_private_key()
        self.done(m.TargetAdd(name=name, address="127.0.0.1:9", labels={"env": env}, host_keys=[key.public.line()]))
        for account in accounts:
            self.done(m.AccountAdd(account=account, target=name, password=f"password of {account}"))
        return key

    def login(self, name: str, source: str = SOURCE) -> Peer:
        """A conversation in which this person is proven."""
        peer = self.connection(source)
        verdict = peer.ask(proof(self.keys[name]))
        assert verdict == m.Verdict(outcome=Outcome.DONE, person=name), verdict.outcome
        return peer

    def session(self, name: str, account: str = "root", target: str = "web1") -> tuple[Peer, m.Grant]:
        """A person with a live session."""
        peer = self.login(name)
        grant = peer.ask(m.Authorize(account=account, target=target))
        assert isinstance(grant, m.Grant), grant
        return peer, grant
