"""What bastion.toml says against what is there: files, modes, keys, addresses, room.

`bastion run` runs it before it starts anything and before each reload; `bastion check-config` shows it to people.
"""

import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_private_key

from bastion import master_checks
from bastion.config import Settings

MAX_SOCKET_PATH: Final = 107
"""Bytes of a path in sockaddr_un (unix(7)), without the final zero."""

LONGEST_SOCKET: Final = "policyd-courier.sock"
MIN_RSA_BITS: Final = 3072
MAX_KEY_FILE: Final = 64 * 1024  # bytes; a 16384-bit RSA key takes 13 KiB
MAX_RADIUS_SECONDS: Final = 25
"""The gateway ends a login after 30; nobody would hear a later answer."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Like `bastion.config.Problem`, but it does not know lines."""

    key: str
    text: str
    got: str = ""
    want: str = ""


def surroundings(settings: Settings) -> Iterator[Trouble]:
    """Everything that does not fit, in no particular order."""
    yield from _folders(settings)
    yield from _listen(settings)
    yield from _host_keys(settings)
    yield from _numbers(settings)
    yield from _policy(settings)
    yield from _radius(settings)
    yield from _sources(settings)
    yield from _auditors(settings)
    yield from _courier(settings)
    yield from _broker(settings)
    yield from _runner(settings)


def split_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[HOST]:PORT` -> host and port; ValueError saying what is wrong."""
    matched = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]*)):(\d{1,5})", text)
    if not matched:
        raise ValueError("not an address with a port")
    host, port = matched[1] or matched[2], int(matched[3])
    if not 0 < port < 65536:
        raise ValueError("port out of range")
    if host not in ("", "*", "localhost"):
        ipaddress.ip_address(host)
    return host, port


def _folders(settings: Settings) -> Iterator[Trouble]:
    for key, folder in (("bastion.state", settings.state), ("bastion.run", settings.run)):
        if not folder.is_dir():
            if key == "bastion.state":  # `run` is made at start; systemd and reboots empty it
                yield Trouble(key, "no such folder", f"`{folder}`", "a folder made by `bastion init`")
        elif folder.stat().st_mode & 0o022:
            yield Trouble(key, "others may write there", f"mode {_mode(folder)}", "mode 0700")
    length = len(os.fsencode(settings.run / LONGEST_SOCKET))
    if length > MAX_SOCKET_PATH:
        yield Trouble("bastion.run", "path too long for a socket", f"{length} bytes with `{LONGEST_SOCKET}`",
                      f"at most {MAX_SOCKET_PATH}")  # fmt: skip
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}", settings.bastion.node):
        yield Trouble("bastion.node", "not a host name", f"`{settings.bastion.node[:80]}`", "letters, digits, `.`, `-`")


def _listen(settings: Settings) -> Iterator[Trouble]:
    seen: dict[tuple[str, int], str] = {}
    if not settings.ssh.listen:
        yield Trouble("ssh.listen", "nowhere to listen", "`[]`", '["0.0.0.0:2222"]')
    for text in settings.ssh.listen:
        try:
            address = split_address(text)
        except ValueError as error:
            yield Trouble("ssh.listen", str(error).split(" does not appear")[0], f"`{text[:80]}`", "`ADDRESS:PORT`")
            continue
        if address in seen:
            yield Trouble("ssh.listen", f"the same address twice: `{seen[address]}` and `{text}`")
        seen[address] = text


def _host_keys(settings: Settings) -> Iterator[Trouble]:
    kinds: dict[str, str] = {}
    if not settings.ssh.host_keys:
        yield Trouble("ssh.host_keys", "no host key", "`[]`", "at least one file")
    for name, path in zip(settings.ssh.host_keys, settings.host_keys, strict=True):
        if (trouble := _private_file("ssh.host_keys", path)) is not None:
            yield trouble
            continue
        try:
            key = load_ssh_private_key(_read(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            yield Trouble("ssh.host_keys", f"`{path}` is no private key without passphrase: {_first_words(error)}")
            continue
        kind = type(key).__name__
        if isinstance(key, RSAPrivateKey) and key.key_size < MIN_RSA_BITS:
            yield Trouble("ssh.host_keys", f"`{path}` is too short", f"{key.key_size} bits", f"{MIN_RSA_BITS} or more")
        elif not isinstance(key, Ed25519PrivateKey | RSAPrivateKey):
            yield Trouble("ssh.host_keys", f"`{path}` is of a kind clients have trouble with", kind, "ed25519 or rsa")
        if kind in kinds:
            yield Trouble("ssh.host_keys", f"two keys of one kind: `{kinds[kind]}` and `{name}`")
        kinds[kind] = name


RANGES: Final[dict[str, tuple[float, float]]] = {
    "ssh.workers": (1, 64),
    "ssh.grace": (1, 600),
    "ssh.tries": (1, 20),
    "ssh.startups": (1, 10_000),
    "ssh.startups_per_source": (1, 10_000),
    "ssh.startups_begin": (1, 10_000),
    "ssh.startups_rate": (0, 100),
    "ssh.dial": (1, 600),
    "ssh.stall": (5, 300),
    "ssh.channels": (1, 1000),
    "ssh.keepalive": (1, 3600),
    "policy.secret_versions": (0, 1000),
    "policy.certificate_minutes": (1, 24 * 60),
    "policy.host_certificate_hours": (1, 24 * 30),
    "policy.lock_after": (1, 100),
    "policy.lock_minutes": (1, 24 * 60),
    "policy.source_failures": (1, 100_000),
    "policy.recheck_seconds": (1, 3600),
    "recorder.sync_ms": (0, 10_000),
    "recorder.reserve_mib": (1, 1024 * 1024),
    "recorder.low_water_mib": (1, 1024 * 1024),
    "recorder.segment_seconds": (1, 3600),
    "recorder.segment_kib": (16, 64 * 1024),
}


def _numbers(settings: Settings) -> Iterator[Trouble]:
    for key, (low, high) in RANGES.items():
        table, name = key.split(".")
        value = getattr(getattr(settings, table), name, None)
        if value is not None and not low <= value <= high:
            yield Trouble(key, "out of range", str(value), f"{low} to {high}")
    if settings.recorder.low_water_mib <= settings.recorder.reserve_mib:
        yield Trouble("recorder.low_water_mib", "must be above reserve_mib, or the reserve is never safe",
                      str(settings.recorder.low_water_mib), f"more than {settings.recorder.reserve_mib}")  # fmt: skip


def _policy(settings: Settings) -> Iterator[Trouble]:
    try:
        tomllib.loads(_read(settings.rules, 16 * 1024 * 1024).decode())
    except OSError as error:
        yield Trouble("policy.rules", f"`{settings.rules}` cannot be read: {(error.strerror or '').lower()}")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        yield Trouble("policy.rules", f"`{settings.rules}` is not TOML: {_first_words(error)}")
    if not re.match(r"(sqlite|postgresql)(\+[a-z0-9]+)?://", settings.policy.database):
        yield Trouble("policy.database", "unknown kind of database", want="sqlite:///FILE or postgresql+psycopg://...")
    for text, got, want in master_checks.problems(settings.policy.master_key, settings.state, _private):
        yield Trouble("policy.master_key", text, got, want)


def _radius(settings: Settings) -> Iterator[Trouble]:
    radius = settings.policy.radius
    for server in radius.servers:
        if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", server):
            yield Trouble("policy.radius.servers", "no address", f"`{server[:80]}`", "`HOST[:PORT]`")
    if not 1 <= radius.seconds <= MAX_RADIUS_SECONDS:
        yield Trouble("policy.radius.seconds", "out of range", str(radius.seconds), f"1 to {MAX_RADIUS_SECONDS}")
    scheme, _, name = radius.secret.partition(":")
    if scheme == "file" and name:
        if (trouble := _private_file("policy.radius.secret", settings.path.parent / name)) is not None:
            yield trouble
    elif (radius.secret or radius.servers) and (scheme != "credential" or not name):
        yield Trouble("policy.radius.secret", "unknown source", f"`{scheme[:20]}`", "`file:PATH` or `credential:NAME`")


def _sources(settings: Settings) -> Iterator[Trouble]:
    """A target refuses a certificate whose list of addresses it cannot read: nobody would get in anywhere."""
    for word in settings.policy.certificate_sources:
        try:
            ipaddress.ip_network(word)
        except ValueError:
            want = "addresses or networks, like `192.0.2.7` or `10.0.0.0/24`"
            yield Trouble("policy.certificate_sources", "no network", f"`{word[:60]}`", want)


def _auditors(settings: Settings) -> Iterator[Trouble]:
    for name in settings.recorder.auditors:
        path = settings.path.parent / name
        try:
            key = load_pem_public_key(_read(path))
        except OSError as error:
            yield Trouble("recorder.auditors", f"`{path}` cannot be read: {(error.strerror or '').lower()}")
            continue
        except (ValueError, UnsupportedAlgorithm) as error:
            yield Trouble("recorder.auditors", f"`{path}` is no public key in PEM: {_first_words(error)}")
            continue
        if not isinstance(key, X25519PublicKey):
            yield Trouble("recorder.auditors", f"`{path}` is of the wrong kind", type(key).__name__, "X25519")
    if len(set(settings.recorder.auditors)) < len(settings.recorder.auditors):
        yield Trouble("recorder.auditors", "the same file twice")


def _courier(settings: Settings) -> Iterator[Trouble]:
    for word in settings.courier.reach:
        try:
            ipaddress.ip_network(word)
        except ValueError:
            yield Trouble("courier.reach", "no network", f"`{word[:60]}`", "one like `169.254.1.0/24`")


def _broker(settings: Settings) -> Iterator[Trouble]:
    broker, place = settings.broker, settings.path.parent
    length = len(os.fsencode(settings.run / broker.socket))
    if broker.socket and length > MAX_SOCKET_PATH:
        yield Trouble("broker.socket", "path too long for a socket", f"{length} bytes", f"at most {MAX_SOCKET_PATH}")
    if not re.fullmatch(r"0?[0-7]{3}", broker.mode) or int(broker.mode, 8) & 0o111:
        yield Trouble("broker.mode", "no mode of a socket", f"`{broker.mode[:20]}`", "`0666`, or `0660` for a group")
    for text in broker.listen:
        try:
            split_address(text)
        except ValueError as error:
            yield Trouble("broker.listen", str(error).split(" does not appear")[0], f"`{text[:80]}`", "`ADDRESS:PORT`")
    if broker.listen and not (broker.certificate and broker.key):
        yield Trouble("broker.listen", "HTTPS needs a certificate", want="`certificate` and `key`")
    for key, name in (("certificate", broker.certificate), ("key", broker.key), ("client_cas", broker.client_cas)):
        if not name:
            continue
        try:
            _read(place / name)
        except OSError as error:
            yield Trouble(f"broker.{key}", f"`{place / name}` cannot be read: {(error.strerror or '').lower()}")
        else:
            if key == "key" and (place / name).stat().st_mode & 0o007:
                yield Trouble("broker.key", f"others may read `{place / name}`", f"mode {_mode(place / name)}",
                              f"chmod o= {place / name}")  # fmt: skip


def _runner(settings: Settings) -> Iterator[Trouble]:
    for name, path in settings.runner.scripts.items():
        key = f"runner.scripts.{name[:32]}"
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name):
            yield Trouble(key, "no name of a script", f"`{name[:60]}`", "lower-case letters, digits, - and _")
        if not path.startswith("/"):
            yield Trouble(key, "path is not absolute", f"`{path[:60]}`", "one like `/usr/local/lib/bastion/oracle`")
        elif not Path(path).is_file():
            yield Trouble(key, f"`{path[:200]}` is not there or is no file")


def _private_file(key: str, path: Path) -> Trouble | None:
    """A secret that others can read is no secret; sshd refuses it as well."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return Trouble(key, f"`{path}` is not a file")
        if found.st_mode & 0o077:
            return Trouble(key, f"others may read `{path}`", f"mode {_mode(path)}", f"chmod 600 {path}")
        path.open("rb").close()
    except OSError as error:
        return Trouble(
            key, f"`{path}` cannot be read: {(error.strerror or '').lower()}", want="`bastion init` makes it"
        )
    return None


def _private(path: Path) -> tuple[str, str, str] | None:
    trouble = _private_file("", path)
    return (trouble.text, trouble.got, trouble.want) if trouble else None


def _read(path: Path, limit: int = MAX_KEY_FILE) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def _first_words(error: Exception) -> str:
    return str(error).split("\n")[0][:120].lower()
