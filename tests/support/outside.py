"""The outside for tests: a CA, HTTP and HTTPS servers that behave as told, and a mail server. Loopback only."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.net import LOOPBACK, wait_until


@dataclass
class Ca:
    """A CA of its own in `folder`; `pem` is what a client is to trust."""

    folder: Path
    pem: str = ""
    _key: Any = None
    _name: Any = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        made = self._builder(self._name, self._key.public_key(), timedelta(days=1)).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.pem = made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        (self.folder / "ca.pem").write_text(self.pem)

    def context(self, *names: str, life: timedelta = timedelta(days=1)) -> ssl.SSLContext:
        """A server's side, with a certificate for these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        alternatives = [_alternative(name) for name in names]
        certificate = (
            self._builder(subject, key.public_key(), life)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path = self.folder / f"{abs(hash((names, life)))}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _builder(self, subject: Any, key: Any, life: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + life)
        )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class Asked:
    """One request as the server read it; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Behave = Callable[[Asked, socket.socket], None]
"""Answers on the open connection, or does whatever else; the connection is closed behind it."""


def answer(document: Any, status: int = 200, **headers: str) -> Behave:
    """A proper answer with a JSON document."""
    return raw(status, json.dumps(document).encode(), **headers)


def raw(status: int, body: bytes, **headers: str) -> Behave:
    def behave(_: Asked, connection: socket.socket) -> None:
        lines = [f"HTTP/1.1 {status} Because", f"Content-Length: {len(body)}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    return behave


@dataclass
class Outside:
    """A server of one's own; `behave` may be replaced at any time, `asked` is what came."""

    behave: Behave = field(default_factory=lambda: answer({}))
    context: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://{LOOPBACK}:{self.port}"

    @contextmanager
    def served(self) -> Iterator["Outside"]:
        with socket.socket() as listener:
            listener.bind((LOOPBACK, 0))
            listener.listen(64)
            self.port = listener.getsockname()[1]
            thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self.over.set()
                with suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                thread.join(10)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        with suppress(OSError, ValueError):  # a client that goes away, or refuses our certificate, is the test's point
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            with connection:
                request = _request(connection)
                self.asked.append(request)
                self.behave(request, connection)
        connection.close()


def _request(connection: socket.socket) -> Asked:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            raise ValueError("no request")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        more = connection.recv(65536)
        if not more:
            raise ValueError("half a request")
        body += more
    method, path, _ = first.split(" ", 2)
    return Asked(method, path, headers, body)


@dataclass(frozen=True)
class Mail:
    sender: str
    to: tuple[str, ...]
    data: str
    user: str = ""  # as it authenticated: AUTH PLAIN, base64
    tls: bool = False


@dataclass
class MailServer:
    """SMTP with STARTTLS, or TLS from the first byte; `says` replaces answers, by command: {"MAIL": "550 no"}."""

    context: ssl.SSLContext
    implicit: bool = False
    starttls: bool = True
    says: dict[str, str] = field(default_factory=dict)
    drip: bool = False  # one byte of the greeting, and then the next, without end
    mails: list[Mail] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def url(self) -> str:
        return f"{'smtps' if self.implicit else 'smtp'}://{LOOPBACK}:{self.port}"

    @contextmanager
    def served(self, listener: socket.socket | None = None) -> Iterator["MailServer"]:
        """On `listener`, which may be another machine's; else on loopback."""
        with listener or socket.create_server((LOOPBACK, 0), backlog=16) as listener:
            self.port = listener.getsockname()[1]
            thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self.over.set()
                with suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                thread.join(10)

    def wait(self, count: int = 1) -> list[Mail]:
        wait_until(f"{count} mails", lambda: len(self.mails) >= count)
        return self.mails

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._guarded, args=(connection,), daemon=True).start()

    def _guarded(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        with suppress(OSError), connection:
            if self.implicit:
                connection = self.context.wrap_socket(connection, server_side=True)
            self._talk(connection, self.implicit)

    def _talk(self, connection: socket.socket, tls: bool, *, greet: bool = True) -> None:
        if self.drip:
            while not self.over.wait(0.05):
                connection.sendall(b"2")
            return
        lines, sender, to, user = connection.makefile("rb"), "", [], ""

        def say(text: str) -> None:
            connection.sendall(f"{text}\r\n".encode())

        if greet:  # not again after STARTTLS (RFC 3207 section 4.2)
            say("220 test ESMTP")
        for line in lines:
            words = line.decode("latin-1").strip().split(" ")
            command = words[0].upper()
            if command in self.says:
                say(self.says[command])
            elif command == "EHLO":
                extra = "250-STARTTLS\r\n" if self.starttls and not tls else ""
                say(f"250-test\r\n{extra}250-AUTH PLAIN\r\n250 8BITMIME")
            elif command == "STARTTLS":
                say("220 go ahead")
                return self._talk(self.context.wrap_socket(connection, server_side=True), True, greet=False)
            elif command == "AUTH":
                user = words[2]
                say("235 ok")
            elif command == "MAIL":
                sender = line.decode("latin-1").partition("<")[2].partition(">")[0]
                say("250 ok")
            elif command == "RCPT":
                to.append(line.decode("latin-1").partition("<")[2].partition(">")[0])
                say("250 ok")
            elif command == "DATA":
                say("354 go ahead")
                body = []
                while (part := lines.readline()) not in (b".\r\n", b""):
                    body.append(part.decode("latin-1"))
                self.mails.append(Mail(sender, tuple(to), "".join(body), user, tls))
                say("250 kept")
            elif command == "QUIT":
                say("221 bye")
                return None
            else:
                say("250 ok")
        return None
