"""`bastion vault rekey`: everything sealed anew, with its progress; or another master for the root keys."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bastion.cli.common import JSON, MAX_SECRET, config_option, found_config, show, talk
from bastion.errors import Denied, ExitCode, MisuseError
from bastion.text import neutral

if TYPE_CHECKING:
    from bastion.control import Operator

PAUSE: Final = 0.5
"""Seconds between two looks at how far it is."""
GOING: Final = "sealed anew now"


@click.command()
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the audit trail.")
@click.option("--master", is_flag=True, help="Wrap the root keys by the master that bastion.toml names now.")
@click.option("--passphrase-stdin", is_flag=True, help="Read the new passphrase from standard input.")
@click.option("--no-wait", is_flag=True, help="Do not stay until everything is sealed anew.")
@JSON
@config_option
def rekey(config: Path | None, reason: str, master: bool, passphrase_stdin: bool, no_wait: bool, as_json: bool) -> None:
    """Seal everything anew with a new root key, while all goes on. It goes on without this command, too.

    With --master the root keys stay, and what wraps them changes: write the new [policy] master_key into bastion.toml
    first.
    """
    from policy.messages import VaultRekey

    passphrase = b""
    if passphrase_stdin or (master and _wants_passphrase(config)):
        passphrase = _typed(passphrase_stdin)
    with talk(found_config(config), patience=300.0) as policyd:
        answer = policyd.ask(VaultRekey(reason=reason, master=master, passphrase=passphrase))
        if not master and not no_wait:
            _follow(policyd)
        show(answer, as_json)


def _wants_passphrase(config: Path | None) -> bool:
    from bastion.config import load

    return load(found_config(config)).policy.master_key == "passphrase:"


def _typed(from_stdin: bool) -> bytes:
    if from_stdin or not sys.stdin.isatty():
        typed = sys.stdin.readline(MAX_SECRET + 2).rstrip("\r\n")
    else:
        typed = str(click.prompt("new passphrase of the vault", hide_input=True, confirmation_prompt=True, err=True))
    if not 0 < len(typed) <= MAX_SECRET:
        raise MisuseError(f"the passphrase has {len(typed)} characters, want 1 to {MAX_SECRET}")
    return typed.encode()


def _follow(policyd: "Operator") -> None:
    """Until it is done; how far it is on standard error. Denied if it stopped."""
    from policy.messages import Rows, VaultStatus

    said = ""
    while True:
        answer = policyd.ask(VaultStatus())
        assert isinstance(answer, Rows)
        going = {row[0]: row[1] for row in answer.rows}[GOING]
        if going == "no":
            return
        if "; stopped: " in going:
            raise Denied(f"not everything is sealed anew: {going}", "bastion vault status", code=ExitCode.MISCONFIGURED)
        if going != said:
            print(neutral(f"bastion: {going}"), file=sys.stderr)
            said = going
        time.sleep(PAUSE)
