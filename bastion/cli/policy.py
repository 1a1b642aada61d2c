"""`bastion policy`: who may do what, and why."""

import json
from pathlib import Path

import click

from bastion.cli.common import JSON, account_at, ask, check_rules, config_option, found_config, show
from bastion.errors import ExitCode
from bastion.text import neutral


@click.group()
def command() -> None:
    """Who may do what, and why."""


@command.command()
@click.argument("person")
@click.argument("place", metavar="ACCOUNT@TARGET")
@click.option("--channel", default="shell", show_default=True, help="shell, exec, sftp, scp, forward-local, ...")
@click.option("--at", default="", metavar="TIME", help="RFC 3339; now when left out.")
@click.option("--from", "source", default="", metavar="ADDRESS", help="Where the person would come from.")
@JSON
@config_option
def explain(person: str, place: str, channel: str, at: str, source: str, as_json: bool, config: Path | None) -> None:
    """Would this be allowed, by which rule, and what does each other rule miss."""
    from policy.messages import Explain

    account, target = account_at(place)
    question = Explain(person=person, account=account, target=target, channel=channel, at=at, source=source)
    show(ask(config, question), as_json)


@command.command()
@JSON
@config_option
def reload(as_json: bool, config: Path | None) -> None:
    """Read policy.toml again. A bad file changes nothing, and is answered with what is wrong."""
    from policy.messages import Reload

    show(ask(config, Reload()), as_json)


@command.command()
@click.argument("file", required=False)
@JSON
@config_option
def check(file: str | None, as_json: bool, config: Path | None) -> int:
    """Show everything that is wrong with policy.toml and the key files beside it, or with another file of rules."""
    problems, said = check_rules(found_config(config), file)
    if as_json:
        print(json.dumps(problems))
    else:
        print("\n".join(map(neutral, problems)) or neutral(said))
    return ExitCode.MISCONFIGURED if problems else 0
