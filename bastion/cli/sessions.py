"""`bastion sessions`: what goes on, and ending it."""

from pathlib import Path

import click

from bastion.cli.common import JSON, ask, config_option, pages, show


@click.group()
def command() -> None:
    """Live and past sessions."""


@command.command("list")
@click.option("--all", "past", is_flag=True, help="Ended ones too.")
@JSON
@config_option
def list_sessions(past: bool, as_json: bool, config: Path | None) -> None:
    """Show live sessions. `replay ls` shows recordings."""
    from policy.messages import SessionsList

    show(pages(config, SessionsList(all=past)), as_json)


@command.command()
@click.argument("session")
@click.option("--reason", required=True, help="Shown to the person and kept in the audit trail.")
@JSON
@config_option
def kill(session: str, reason: str, as_json: bool, config: Path | None) -> None:
    """End a session now."""
    from policy.messages import SessionKill

    show(ask(config, SessionKill(session=session, reason=reason)), as_json)
