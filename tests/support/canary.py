"""Secrets that are looked for wherever they must not be: files, logs, recordings, arguments, environments, memory."""

import base64
import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

from recorder.model import Kind
from tests.support.chaos import tapes
from tests.support.site import Site

ROLES: Final = ("recorder", "policy", "bastion.ssh")


def canary(name: str) -> str:
    """Found by nobody who does not look for it, and by everybody who does. Letters: a terminal wraps nothing."""
    return f"{name}{secrets.token_hex(6)}"


def shapes(secret: str | bytes) -> list[bytes]:
    """As it may stand in a file. Base64 in its three alignments, without the ends that depend on what is around it."""
    plain = secret.encode() if isinstance(secret, str) else secret
    codes = [base64.b64encode(bytes(shift) + plain)[shift + 1 :].rstrip(b"=")[:-1] for shift in range(3)]
    return [plain, plain.hex().encode(), *([secret.encode("utf-16-le")] if isinstance(secret, str) else []), *codes]


def found_in_files(
    site: Site, *wanted: str | bytes, besides: tuple[Path, ...] = (), more: tuple[Path, ...] = ()
) -> list[str]:
    """Files below the bastion that hold one of them, and recordings that do once they are read as an auditor reads."""
    looked = [shape for secret in wanted for shape in shapes(secret)]
    places = [site.folder, site.log, site.recordings, *more]
    files = files_below(*places)
    assert any(path.suffix == ".db" for path in files), "the database is among them"
    assert any(path.suffix == ".brec" for path in files), "and recordings are"
    found = []
    for path, data in files.items():
        found += [str(path) for shape in looked if shape in data and path not in besides]
    for tape in tapes(site):
        # Typed key by key it comes in as many events: joined by kind it would be seen.
        whole = {kind: tape.joined(kind) for kind in {Kind(event.kind) for event in tape.events}}
        whole_typed = tape.joined(Kind.INPUT, Kind.REVEALED)
        texts = [
            *whole.values(),
            whole_typed,
            str(tape.recording.private).encode(),
            str(tape.recording.public).encode(),
        ]
        found += [f"recording {tape.session}" for text in texts if any(shape in text for shape in looked)]
    return found


def files_below(*places: Path) -> dict[Path, bytes]:
    """What is in all files there, links left out. Those that go while this looks are recordings that get their end."""
    found = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
    return {path: _read(path) for path in found if path.is_file() and not path.is_symlink()}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # a socket, or gone meanwhile


def in_memory(pid: int, secret: str | bytes) -> int:
    """How often it stands in memory that the process may write to."""
    plain, found = secret.encode() if isinstance(secret, str) else secret, 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights = line.split()[:2]
            if "w" in rights:
                first, end = (int(number, 16) for number in place.split("-"))
                memory.seek(first)
                with contextlib.suppress(OSError):  # gone meanwhile
                    found += memory.read(end - first).count(plain)
    return found


def found_in_processes(site: Site, *wanted: str | bytes) -> list[str]:
    """Arguments and environments of our processes."""
    assert site.process is not None
    pids = [site.process.pid, *(pid for role in ROLES for pid in site.pids(role))]
    assert len(pids) == 1 + len(ROLES)
    children = Path(f"/proc/{site.process.pid}/task/{site.process.pid}/children").read_text().split()
    looked = [shape for secret in wanted for shape in shapes(secret)]
    return [
        f"/proc/{pid}/{name}"
        for pid in {os.getpid(), *pids, *map(int, children)}
        for name in ("cmdline", "environ")
        if any(shape in _read(Path(f"/proc/{pid}/{name}")) for shape in looked)
    ]
