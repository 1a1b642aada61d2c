"""A real policyd and a real broker, with raw connections to it: what is sent is what the test wrote."""

import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from policy import messages as m
from tests.policy.policyd import Policyd
from tests.support.net import LOOPBACK, free_port, tail, wait_until

PATIENCE = 20.0


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class Talk:
    """One connection to the broker. Blocking, with a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE)
        self._left = b""

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def get(self, path: str, *fields: str, method: str = "GET") -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "Host: bastion", *fields]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        return self.answer()

    def answer(self) -> Answer:
        while b"\r\n\r\n" not in self._left:
            self._more()
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers["content-length"])
        while len(self._left) < length:
            self._more()
        body, self._left = self._left[:length], self._left[length:]
        return Answer(int(first.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Whether the broker hung up, waiting for it to do so; what comes before that is not looked at."""
        try:
            while self.sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def _more(self) -> None:
        data = self.sock.recv(65536)
        assert data, "the broker closed the connection"
        self._left += data

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Place:
    """`policyd` is running; the broker has its socket in the same folder, and HTTPS at `port`."""

    policyd: Policyd
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.policyd.home / "run/broker.sock"

    @property
    def log(self) -> Path:
        return self.policyd.home / "broker.log"

    @property
    def pki(self) -> Path:
        return self.policyd.home / "pki"

    def start(self) -> Self:
        if not self.pki.exists():
            make_pki(self.pki)
            text = self.policyd.config.read_text()
            self.policyd.config.write_text(
                f'{text}\n[broker]\nsocket = "broker.sock"\nlisten = ["{LOOPBACK}:{self.port}"]\n'
                'certificate = "pki/server.crt"\nkey = "pki/server.key"\nclient_cas = "pki/ca.crt"\n'
            )
        with self.log.open("ab") as log:
            begin = log.tell()
            words = [sys.executable, "-m", "bastion.broker", "--config", str(self.policyd.config)]
            self.process = subprocess.Popen(words, stderr=log)
        wait_until("the broker", lambda: self._is_ready(begin), 60)
        return self

    def _is_ready(self, begin: int) -> bool:
        """By its own word: its sockets come one after the other."""
        assert self.process is not None
        assert self.process.poll() is None, tail(self.log)
        return b'"event": "ready"' in self.log.read_bytes()[begin:]

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    # --- connections ----------------------------------------------------------------------------------

    def local(self) -> Talk:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(self.socket))
        return Talk(sock)

    def remote(self, client: str = "", source: str = LOOPBACK) -> Talk:
        """By HTTPS; `client` names a certificate of the folder `pki`."""
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        if client:
            context.load_cert_chain(self.pki / f"{client}.crt", self.pki / f"{client}.key")
        raw = socket.create_connection((LOOPBACK, self.port), timeout=PATIENCE, source_address=(source, 0))
        return Talk(context.wrap_socket(raw, server_hostname="localhost"))

    def fingerprint(self, client: str) -> str:
        done = _openssl("x509", "-in", str(self.pki / f"{client}.crt"), "-noout", "-fingerprint", "-sha256")
        return done.partition("=")[2].strip()

    # --- what there is --------------------------------------------------------------------------------

    def application(self, name: str, *shared: str, **bindings: Any) -> m.Done:
        """An application, bound to our uid if to nothing else, with which these scopes are shared."""
        rate = bindings.pop("rate", 1000)
        bindings = bindings or {"uid": os.getuid()}
        done = self.policyd.done(m.ApplicationAdd(name=name, rate=rate, **bindings))
        for scope in shared:
            self.share(name, scope)
        assert isinstance(done, m.Done)
        return done

    def share(self, application: str, scope: str, rights: str = "use", seconds: float = 0) -> None:
        """As `bastion vault share` does: shares are not sealed, so the row alone is what counts."""
        now = time.time_ns()
        expires = now + int(seconds * 1e9) if seconds else None
        row = (os.urandom(8).hex(), scope, "application", application, rights, now, "test", expires)
        self.sql("INSERT INTO share (id, scope, subject_kind, subject, rights, made, made_by, expires, reason,"
                 " ended_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', '')", row)  # fmt: skip

    def unshare(self, application: str) -> None:
        self.sql("UPDATE share SET ended = 1 WHERE subject = ?", (application,))

    def token(self, name: str, **more: Any) -> str:
        done = self.policyd.done(m.ApplicationToken(name=name, **more))
        return str(done.data["token"])

    def sql(self, statement: str, values: tuple[object, ...] = ()) -> list[Any]:
        connection = sqlite3.connect(self.policyd.database, timeout=20)
        try:
            with connection:
                return connection.execute(statement, values).fetchall()
        finally:
            connection.close()


def make_pki(folder: Path) -> None:
    """A CA; a server and two clients of it, and a client of another CA."""
    folder.mkdir()
    for ca in ("ca", "other"):
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                 "-subj", f"/CN={ca}", "-keyout", str(folder / f"{ca}.key"), "-out",
                 str(folder / f"{ca}.crt"))  # fmt: skip
    for name, ca in (("server", "ca"), ("shop", "ca"), ("thief", "ca"), ("stranger", "other")):
        extension = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"] if name == "server" else []
        _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                 *extension, "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.csr"))  # fmt: skip
        _openssl("x509", "-req", "-in", str(folder / f"{name}.csr"), "-CA", str(folder / f"{ca}.crt"), "-CAkey",
                 str(folder / f"{ca}.key"), "-days", "2", "-copy_extensions", "copy", "-out",
                 str(folder / f"{name}.crt"))  # fmt: skip


def _openssl(*words: str) -> str:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
