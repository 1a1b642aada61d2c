"""`bastion owner`: targets delegated to persons who need no right to administer."""

from pathlib import Path

import click

from bastion.cli.common import JSON, REASON, ask, config_option, show

SCOPE = click.argument("scope")


@click.group()
def command() -> None:
    """Who looks after which targets. SCOPE is a target, a label like env=test, or '*'."""


@command.command()
@click.argument("person")
@SCOPE
@REASON
@JSON
@config_option
def add(person: str, scope: str, reason: str, as_json: bool, config: Path | None) -> None:
    """Make a person an owner: they administer accounts and host keys there, give grants, and are `$owner` in rules."""
    from policy.messages import OwnerAdd

    show(ask(config, OwnerAdd(person=person, scope=scope, reason=reason)), as_json)


@command.command()
@click.argument("person")
@SCOPE
@REASON
@JSON
@config_option
def remove(person: str, scope: str, reason: str, as_json: bool, config: Path | None) -> None:
    """End an ownership."""
    from policy.messages import OwnerRemove

    show(ask(config, OwnerRemove(person=person, scope=scope, reason=reason)), as_json)


@command.command("list")
@click.argument("person", default="")
@JSON
@config_option
def list_owners(person: str, as_json: bool, config: Path | None) -> None:
    """Show who owns what, and how many targets that is now."""
    from policy.messages import OwnerList

    show(ask(config, OwnerList(person=person)), as_json)
