"""`python -m policy.backup make|restore`: what `bastion backup` and `bastion restore` run, as who may read it.

Progress goes to standard error, a line each; standard output has one JSON object, or nothing.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from policy import memory
from policy.__main__ import EXIT_MISCONFIGURED, MAX_PASSPHRASE
from policy.backup import making, restoring
from policy.configuration import BadConfiguration, read_configuration
from policy.errors import PolicyError
from policy.vault.secret import Secret


def main(argv: list[str] | None = None) -> int:
    """The exit status; errors as everywhere, cause and then hint."""
    arguments = _parser().parse_args(argv)
    try:
        memory.protect()
        print(json.dumps(arguments.run(arguments)))
    except PolicyError as error:
        return _fail(error.cause, error.hint)
    except BadConfiguration as error:
        return _fail("\n".join(error.problems))
    except OSError as error:
        return _fail(f"{error.filename or 'system'}: {(error.strerror or str(error)).lower()}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bastion-backup", description="Backups of a bastion, for `bastion backup`.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    make = commands.add_parser("make")
    make.add_argument("--config", required=True, type=Path)
    make.add_argument("--to", required=True, type=Path)
    make.add_argument("--recipient", action="append", default=[])
    make.add_argument("--other", action="append", default=[], metavar="WHAT=PATH", help="a file of another process")
    make.set_defaults(run=_make)
    restore = commands.add_parser("restore")
    restore.add_argument("backup", type=Path)
    restore.add_argument("--identity", required=True, type=Path)
    restore.add_argument("--into", type=Path, help="a new folder; without it, a rehearsal")
    restore.add_argument("--accept-older", action="store_true")
    restore.add_argument("--ask-master", action="store_true")
    restore.set_defaults(run=_restore)
    for command in (make, restore):
        command.add_argument("--passphrase-stdin", action="store_true")
    return parser


def _make(arguments: argparse.Namespace) -> dict[str, Any]:
    others = [(what, Path(path)) for what, _, path in (word.partition("=") for word in arguments.other)]
    config = read_configuration(arguments.config)
    manifest = making.make(config, others, arguments.to, arguments.recipient, _say, _passphrase(arguments))
    return {"to": str(arguments.to), **msgspec.to_builtins(manifest)}


def _restore(arguments: argparse.Namespace) -> dict[str, Any]:
    _, found = restoring.restore(
        arguments.backup, arguments.identity, arguments.into, _say,
        older=arguments.accept_older, passphrase=_passphrase(arguments), ask_master=arguments.ask_master,
    )  # fmt: skip
    return {"into": str(arguments.into or ""), **found}


def _passphrase(arguments: argparse.Namespace) -> Secret | None:
    if not arguments.passphrase_stdin:
        return None
    return Secret(sys.stdin.buffer.readline(MAX_PASSPHRASE).rstrip(b"\r\n"))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fail(cause: str, hint: str = "") -> int:
    for line in (*cause.splitlines(), hint):
        if line:
            print(f"bastion: {line}", file=sys.stderr)
    return EXIT_MISCONFIGURED


if __name__ == "__main__":
    sys.exit(main())
