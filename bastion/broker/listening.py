"""Where the broker listens, and what it shows over TLS."""

import os
import socket
import ssl
import stat
from pathlib import Path
from typing import Final

from bastion.config import Settings
from bastion.config_checks import split_address
from bastion.errors import BastionError

BACKLOG: Final = 128
PASSED: Final = ("broker", "broker-https")
"""FileDescriptorName of what systemd passes."""


def listeners(settings: Settings) -> list[socket.socket]:
    """Sockets that systemd passed, or those of the settings. BastionError if one cannot be had."""
    if passed := _passed():
        return passed
    broker, found = settings.broker, []
    if broker.socket:
        found.append(_local(settings.run / broker.socket, int(broker.mode, 8)))
    found += [_tcp(text) for text in broker.listen]
    if not found:
        raise BastionError("the broker has nowhere to listen", 'set `socket = "broker.sock"` in [broker]')
    return found


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """None without a certificate. BastionError if its files are not what they should be."""
    broker = settings.broker
    if not broker.certificate:
        if broker.listen:
            raise BastionError("broker.listen: HTTPS needs a certificate", "set `certificate` and `key` in [broker]")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed session says whose certificate was shown once, not who is there.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    place = settings.path.parent
    try:
        context.load_cert_chain(place / broker.certificate, place / broker.key)
        if broker.client_cas:
            context.load_verify_locations(place / broker.client_cas)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ssl.SSLError) as error:
        raise BastionError(
            f"broker.certificate: {(error.strerror or str(error)).lower()}",
            f"see all of it: bastion check-config {settings.path}",
        ) from None
    return context


def _local(path: Path, mode: int) -> socket.socket:
    """A socket that nobody listens on any more is replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    try:
        if path.exists():
            _clear(path)
        sock.bind(str(path))
        os.chmod(path, mode)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise BastionError(f"broker.socket `{path}`: {(error.strerror or str(error)).lower()}") from None
    finally:
        os.umask(old)
    return sock


def _clear(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        raise BastionError(f"broker.socket `{path}`: something that is not our socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        else:
            raise BastionError(f"broker.socket `{path}`: another broker is running")


def _tcp(text: str) -> socket.socket:
    try:
        host, port = split_address(text)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("" if host in ("", "*") else host, port))
        sock.listen(BACKLOG)
    except (ValueError, OSError) as error:
        raise BastionError(f"broker.listen `{text[:80]}`: {error}") from None
    return sock


def _passed() -> list[socket.socket]:
    """sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = []
    for number, name in zip(range(3, 3 + int(os.environ.get("LISTEN_FDS", "0"))), names, strict=False):
        os.set_inheritable(number, False)
        if name in PASSED:
            found.append(socket.socket(fileno=number))
    return found
