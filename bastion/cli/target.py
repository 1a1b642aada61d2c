"""`bastion target`: machines behind the bastion, and the host keys they must show."""

from pathlib import Path

import click

from bastion.cli.common import JSON, REASON, ask, config_option, labels, pages, read_file, show


@click.group()
def command() -> None:
    """Machines behind the bastion, and their pinned host keys."""


@command.command()
@click.argument("name")
@click.option("--address", required=True, metavar="HOST[:PORT]", help="Where it is.")
@click.option("--protocol", type=click.Choice(["ssh"]), default="ssh", show_default=True)
@click.option("--label", "pairs", multiple=True, metavar="K=V", help="Label that rules can name; may be repeated.")
@click.option(
    "--pin", required=True, metavar="scan|FILE",
    help="Trust what the target shows now (scan), or the keys in a known_hosts or .pub file.",
)  # fmt: skip
@REASON
@JSON
@config_option
def add(
    name: str, address: str, protocol: str, pairs: tuple[str, ...], pin: str, reason: str, as_json: bool,
    config: Path | None,
) -> None:  # fmt: skip
    """Add a target and pin its host keys."""
    from policy.messages import TargetAdd

    keys = [] if pin == "scan" else _lines(pin)
    show(
        ask(
            config,
            TargetAdd(
                name=name, address=address, protocol=protocol, labels=labels(pairs), host_keys=keys,
                scan=pin == "scan", reason=reason,
            ),
        ),
        as_json,
    )  # fmt: skip


@command.command("set")
@click.argument("name")
@click.option("--address", default="", metavar="HOST[:PORT]", help="Where it is now.")
@click.option("--label", "pairs", multiple=True, metavar="K=V", help="Label to set; may be repeated.")
@click.option("--remove-label", "lost", multiple=True, metavar="K", help="Label to take away; may be repeated.")
@click.option("--pin", default="", metavar="FILE", help="More host keys to trust, in a known_hosts or .pub file.")
@REASON
@JSON
@config_option
def set_target(
    name: str, address: str, pairs: tuple[str, ...], lost: tuple[str, ...], pin: str, reason: str, as_json: bool,
    config: Path | None,
) -> None:  # fmt: skip
    """Change a target's address or labels; sessions that its rules no longer allow then end."""
    from policy.messages import TargetSet

    if not (address or pairs or lost or pin):
        raise click.UsageError("nothing to change")
    change = TargetSet(
        name=name, address=address, set_labels=labels(pairs), remove_labels=list(lost),
        add_host_keys=_lines(pin) if pin else [], reason=reason,
    )  # fmt: skip
    show(ask(config, change), as_json)


@command.command("list")
@JSON
@config_option
def list_targets(as_json: bool, config: Path | None) -> None:
    """Show every target."""
    from policy.messages import TargetList

    show(pages(config, TargetList()), as_json)


@command.command("show")
@click.argument("name")
@JSON
@config_option
def show_target(name: str, as_json: bool, config: Path | None) -> None:
    """Show one target: address, labels, accounts, pinned keys."""
    from policy.messages import TargetShow

    show(ask(config, TargetShow(name=name)), as_json)


@command.command()
@click.argument("name")
@REASON
@JSON
@config_option
def remove(name: str, reason: str, as_json: bool, config: Path | None) -> None:
    """Remove a target with its accounts and their credentials; its recordings stay."""
    from policy.messages import TargetRemove

    show(ask(config, TargetRemove(name=name, reason=reason)), as_json)


@command.command()
@click.argument("name")
@click.option("--accept", default="", metavar="SHA256:...", help="Scan, and pin the key with this fingerprint.")
@click.option("--forget", default="", metavar="SHA256:...", help="No longer trust this key.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the audit trail.")
@JSON
@config_option
def hostkey(name: str, accept: str, forget: str, reason: str, as_json: bool, config: Path | None) -> None:
    """Change the pinned host keys after a target was rebuilt; without an option, show them."""
    from policy.messages import TargetHostkey, TargetShow

    if accept or forget:
        show(ask(config, TargetHostkey(name=name, accept=accept, forget=forget, reason=reason)), as_json)
    else:
        show(ask(config, TargetShow(name=name)), as_json)


def _lines(name: str) -> list[str]:
    return [line.strip() for line in read_file(name).splitlines() if line.strip()]
