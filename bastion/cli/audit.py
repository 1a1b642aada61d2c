"""`bastion audit`: every decision, and proof that none was removed."""

from pathlib import Path

import click

from bastion.cli.common import JSON, ask, config_option, show


@click.group()
def command() -> None:
    """The audit trail."""


@command.command("list")
@click.option("--since", default="", metavar="TIME", help="RFC 3339, like 2026-11-23T14:00:00Z.")
@click.option("--event", default="", help="Only this kind of event.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="The newest so many.")
@JSON
@config_option
def list_events(since: str, event: str, limit: int, as_json: bool, config: Path | None) -> None:
    """Show who did what, when and why."""
    from policy.messages import AuditList

    show(ask(config, AuditList(since=since, limit=limit, event=event)), as_json)


@command.command()
@JSON
@config_option
def verify(as_json: bool, config: Path | None) -> None:
    """Check the hash chain from the first event to the last."""
    from policy.messages import AuditVerify

    show(ask(config, AuditVerify()), as_json)
