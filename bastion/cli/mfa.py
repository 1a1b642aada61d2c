"""`bastion mfa`: second factors."""

import sys
from pathlib import Path

import click

from bastion.cli.common import JSON, ask, config_option, show


@click.group()
def command() -> None:
    """Second factors."""


@command.command()
@click.argument("person")
@JSON
@config_option
def enrol(person: str, as_json: bool, config: Path | None) -> None:
    """Make a one-time password secret; shown once, as a QR code and as text."""
    from policy.messages import MfaEnrol

    answer = ask(config, MfaEnrol(person=person))
    if not as_json and sys.stdout.isatty():
        import segno

        for value in answer.data.values():
            if value.startswith("otpauth://"):
                segno.make(value).terminal(compact=True)
    show(answer, as_json)


@command.command("list")
@click.argument("person")
@JSON
@config_option
def list_factors(person: str, as_json: bool, config: Path | None) -> None:
    """Show what a person has enrolled."""
    from policy.messages import MfaList

    show(ask(config, MfaList(person=person)), as_json)


@command.command()
@click.argument("person")
@JSON
@config_option
def reset(person: str, as_json: bool, config: Path | None) -> None:
    """Remove a person's second factors, so that they can enrol again."""
    from policy.messages import MfaReset

    show(ask(config, MfaReset(person=person)), as_json)
