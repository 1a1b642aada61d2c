"""`bastion ca`: what clients and targets have to know of us, and what they must not believe any more."""

import base64
import json
import os
import sys
import tempfile
from pathlib import Path

import click

from bastion.cli.common import JSON, ask, config_option, talk
from bastion.cli.words import Group
from bastion.errors import BastionError, MisuseError
from bastion.text import neutral
from policy.messages import CaKrl, CaLines, Done

_WHAT = {
    "client known_hosts": "for ~/.ssh/known_hosts of people who use `ssh -J`",
    "target TrustedUserCAKeys": "for the file that TrustedUserCAKeys names in sshd_config of targets",
    "target sshd_config": "for sshd_config of targets; first make the list there: bastion ca krl --to FILE",
}
MAX_LIST = 8 * 1024 * 1024
"""Bytes of a revocation list; policyd lists 10,000 entries at most."""


@click.group("ca", invoke_without_command=True)
@JSON
@config_option
def command(as_json: bool, config: Path | None) -> None:
    """Show the lines that make clients and targets trust this bastion's certificates, or change who is trusted."""
    if click.get_current_context().invoked_subcommand is None:
        _show("", as_json, config)


@command.command()
@click.argument("use", default="", metavar="[user|host]")
@JSON
@config_option
def lines(use: str, as_json: bool, config: Path | None) -> None:
    """Show the lines that targets (user) or clients (host) have to have."""
    _show(use, as_json, config)


def _show(use: str, as_json: bool, config: Path | None) -> None:
    answer = ask(config, CaLines(use=use))
    if as_json:
        print(json.dumps([dict(zip(answer.columns, row, strict=True)) for row in answer.rows]))
        return
    before = ""
    for where, line in answer.rows:
        if where != before:
            print(f"# {_WHAT.get(where, where)}")
        print(neutral(line))
        before = where


@command.command()
@click.option("--to", default="-", metavar="FILE", help="Where to; it is replaced as a whole. Standard output else.")
@JSON
@config_option
def krl(to: str, as_json: bool, config: Path | None) -> None:
    """Write the list of what is revoked, for RevokedKeys of targets and RevokedHostKeys of clients."""
    if to == "-" and as_json:
        raise MisuseError("a list is no JSON", "name a file: --to FILE")
    version, data = _whole(config)
    if to == "-":
        sys.stdout.buffer.write(data)
        return
    _write(Path(to), data)
    said = {"file": to, "version": version, "bytes": len(data)}
    print(json.dumps(said) if as_json else f"wrote version {version} of the list to `{to}`, {len(data)} bytes")


def _whole(config: Path | None) -> tuple[int, bytes]:
    """All parts, of one version: one that changes meanwhile is asked for anew."""
    with talk(config) as policyd:
        data, version = b"", 0
        while True:
            part = policyd.ask(CaKrl(offset=len(data)))
            assert isinstance(part, Done)
            found, size, more = int(part.data["version"]), int(part.data["size"]), base64.b64decode(part.data["list"])
            if data and found != version:
                data = b""
                continue
            data, version = data + more, found
            if len(data) >= size:
                return version, data
            if not more or size > MAX_LIST:
                raise BastionError("policyd gave half of a list", "try again")


def _write(path: Path, data: bytes) -> None:
    """At once and whole: sshd that finds half a list lets nobody in."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)  # nothing in it is secret, and sshd reads it as another user
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise MisuseError(f"cannot write `{path}`: {(error.strerror or str(error)).lower()}") from None


for _name, _word in Group("ca").commands.items():  # what can be said over ssh, too
    if _name not in command.commands:
        command.add_command(_word)
