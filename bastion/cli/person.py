"""`bastion person`: who may log in, and what proves them."""

from pathlib import Path

import click

from bastion.cli.common import JSON, PASSWORD_STDIN, REASON, ask, config_option, key_lines, pages, read_secret, show

KEY = click.option("--key", "keys", multiple=True, metavar="FILE|-", help="File with public keys; - is standard input.")
ROLE = click.option("--role", "roles", multiple=True, help="Role to give; may be repeated.")

MAIL = click.option("--mail", metavar="ADDRESS", help="Where they are told of what is theirs, or `none`.")


@click.group()
def command() -> None:
    """People who may log in."""


@command.command()
@click.argument("name")
@KEY
@ROLE
@MAIL
@PASSWORD_STDIN
@REASON
@JSON
@config_option
def add(
    name: str, keys: tuple[str, ...], roles: tuple[str, ...], mail: str | None, password_stdin: bool, reason: str,
    as_json: bool, config: Path | None,
) -> None:  # fmt: skip
    """Add a person, with public keys, roles or a password."""
    from policy.messages import PersonAdd

    password = read_secret("Password") if password_stdin else ""
    person = PersonAdd(
        name=name, roles=list(roles), keys=key_lines(keys), password=password, mail=mail or "", reason=reason
    )  # fmt: skip
    show(ask(config, person), as_json)


@command.command("list")
@JSON
@config_option
def list_people(as_json: bool, config: Path | None) -> None:
    """Show everyone."""
    from policy.messages import PersonList

    show(pages(config, PersonList()), as_json)


@command.command("show")
@click.argument("name")
@JSON
@config_option
def show_person(name: str, as_json: bool, config: Path | None) -> None:
    """Show one person: roles, keys, second factors, state."""
    from policy.messages import PersonShow

    show(ask(config, PersonShow(name=name)), as_json)


@command.command("set")
@click.argument("name")
@KEY
@ROLE
@click.option("--remove-role", "lost_roles", multiple=True, metavar="ROLE", help="Role to take away; may be repeated.")
@click.option("--remove-key", "lost_keys", multiple=True, metavar="SHA256:...", help="Fingerprint of a key to remove.")
@MAIL
@click.option("--enable", is_flag=True, help="Let a disabled person log in again.")
@PASSWORD_STDIN
@REASON
@JSON
@config_option
def set_person(
    name: str, keys: tuple[str, ...], roles: tuple[str, ...], lost_roles: tuple[str, ...], lost_keys: tuple[str, ...],
    mail: str | None, enable: bool, password_stdin: bool, reason: str, as_json: bool, config: Path | None,
) -> None:  # fmt: skip
    """Change a person: add or remove roles and keys, set a password or where they are told."""
    from policy.messages import PersonSet

    if not (keys or roles or lost_roles or lost_keys or enable or password_stdin or mail is not None):
        raise click.UsageError("nothing to change")
    show(
        ask(
            config,
            PersonSet(
                name=name, add_roles=list(roles), remove_roles=list(lost_roles), add_keys=key_lines(keys),
                remove_keys=list(lost_keys), password=read_secret("New password") if password_stdin else "",
                disabled=False if enable else None, mail=mail, reason=reason,
            ),
        ),
        as_json,
    )  # fmt: skip


@command.command()
@click.argument("name")
@REASON
@JSON
@config_option
def disable(name: str, reason: str, as_json: bool, config: Path | None) -> None:
    """Keep a person from logging in, and end their sessions. `person set NAME --enable` undoes it."""
    from policy.messages import PersonSet

    show(ask(config, PersonSet(name=name, disabled=True, reason=reason)), as_json)


@command.command()
@click.argument("name")
@click.option("--heir", default="", metavar="NAME", help="Who takes over the targets they own.")
@REASON
@JSON
@config_option
def offboard(name: str, heir: str, reason: str, as_json: bool, config: Path | None) -> None:
    """Someone leaves: end sessions, grants and requests, remove keys, password, second factors and roles."""
    from policy.messages import PersonOffboard

    show(ask(config, PersonOffboard(name=name, heir=heir, reason=reason)), as_json)
