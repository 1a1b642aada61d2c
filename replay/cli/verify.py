"""`replay verify`: prove that recordings are whole and unaltered."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from replay import place
from replay.cli.common import JSON, SINCE, is_file, key_option, located, place_options, private_keys
from replay.errors import MisuseError
from replay.judge import Finding, Verified, gravest, judge, missing
from replay.text import neutral, size
from replay.when import instant

NODE_KEY: Final = "node.pub"
"""The node's public key, beside the recordings. Who can change those can change it, too: keep a copy elsewhere."""

BAR_FROM: Final = 256 * 1024 * 1024
"""Bytes from which a progress bar is shown: about a second of work."""


@click.command("verify")
@click.argument("recording", required=False)
@click.option("--all", "everything", is_flag=True, help="Every recording, and whether one is missing.")
@SINCE
@click.option("--node-key", type=click.Path(path_type=Path), metavar="FILE", help="The node's public key, kept apart.")
@place_options
@key_option
@JSON
def command(
    recording: str | None, everything: bool, since: str | None, node_key: Path | None,
    config: Path | None, directory: Path | None, keys: tuple[Path, ...], as_json: bool,
) -> Verified:  # fmt: skip
    """Prove that recordings are whole and unaltered: RECORDING is an id or a file.

    Works offline, without any key to read them; with an auditor's --key the content is compared as well.

    \b
    Exit codes: 0 all are ok, 1 one was altered, 2 one is cut off or still open, 3 one is missing.
    """
    if (recording is None) == (not everything and since is None):
        raise MisuseError("name one recording, or --all", "replay verify --all")
    if recording is not None:
        path = located(recording, config, directory)
        paths = [path]
        elsewhere = is_file(recording) and config is None and directory is None
        folder = None if elsewhere else place.directory(config, directory)
    else:
        folder = place.directory(config, directory)
        paths = _since(folder, since)
    node = _node_key(node_key, folder)
    findings = _judge_all(paths, node, list(private_keys(keys)))
    if everything and folder is not None:
        from recorder.store import Store

        findings += missing(Store(folder), node)
    if as_json:
        print(json.dumps([finding.plain() for finding in findings]))
    else:
        _say(findings, one=recording is not None, unpinned=node is None)
    return gravest(findings)


def _judge_all(paths: list[Path], node: bytes | None, keys: list[object]) -> list[Finding]:
    total = sum(path.stat().st_size for path in paths if path.exists())
    with _bar(total) as progress:
        return [judge(path, node, keys, progress) for path in paths]


def _since(folder: Path, since: str | None) -> list[Path]:
    from recorder.store import Store

    paths = Store(folder).recordings()
    if since is None:
        return list(paths)
    begin = instant(since, datetime.now().astimezone())
    if begin is None:
        raise MisuseError(f"`{since}` is no time", "write it as 2026-11-25, 2026-11-25T16:00 or 3d")
    # the id is a UUIDv7: its first 48 bits are milliseconds since 1970, so an altered header cannot hide a file here
    return [path for path in paths if int(path.name[:12], 16) * 1000 >= begin]


def _node_key(given: Path | None, folder: Path | None) -> bytes | None:
    """Raw Ed25519 key; None: believe what each recording names."""
    if given is None:
        if folder is None or not (folder / NODE_KEY).is_file():
            return None
        given = folder / NODE_KEY
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = place.read(given, place.MAX_KEY)
    if len(data) == 32:
        return data
    try:
        key = load_pem_public_key(data)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise MisuseError(f"`{given}` is not a node's public key (Ed25519, PEM)")
    return key.public_bytes_raw()


def _say(findings: list[Finding], *, one: bool, unpinned: bool) -> None:
    for finding in findings:
        if finding.status == "ok" and not one:
            continue
        where = f" at byte {finding.at}" if finding.at is not None else ""
        print(f"{finding.session}: {finding.status}{where}", end="")
        print(f" ({finding.seals} seals, {size(finding.bytes)})" if finding.status == "ok" else "")
        for problem in finding.problems:
            print(f"  {neutral(problem)}")
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.status] = counts.get(finding.status, 0) + 1
    if not one:
        summary = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "none"
        print(f"{len(findings)} recordings: {summary}")
    if unpinned:
        print("replay: the node's key was not checked: --node-key FILE, with a copy kept apart", file=sys.stderr)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    if total < BAR_FROM or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("verifying", total=total)
        yield lambda done: progress.advance(task, done)
