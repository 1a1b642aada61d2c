"""`bastion account`: accounts on targets, and what opens them."""

from pathlib import Path

import click

from bastion.cli.common import (
    JSON,
    PASSWORD_STDIN,
    REASON,
    account_at,
    ask,
    config_option,
    pages,
    read_file,
    read_secret,
    show,
)  # fmt: skip
from bastion.cli.rotating import rotate_one
from bastion.errors import MisuseError

PLACE = click.argument("place", metavar="ACCOUNT@TARGET")


@click.group()
def command() -> None:
    """Accounts on targets, and the credentials that open them."""


command.add_command(rotate_one)


@command.command()
@PLACE
@PASSWORD_STDIN
@click.option("--key", metavar="FILE", help="Private key; stored encrypted, never leaves policyd.")
@click.option("--user-ca", is_flag=True, help="A certificate of our user CA, made for each login.")
@REASON
@JSON
@config_option
def add(
    place: str, password_stdin: bool, key: str | None, user_ca: bool, reason: str, as_json: bool, config: Path | None
) -> None:
    """Add an account and the credential that opens it."""
    from policy.messages import AccountAdd

    account, target = account_at(place)
    if password_stdin + bool(key) + user_ca != 1:
        raise click.UsageError("give exactly one of --password-stdin, --key FILE, --user-ca")
    show(
        ask(
            config,
            AccountAdd(
                account=account, target=target, user_ca=user_ca,
                password=read_secret(f"Password of {place}") if password_stdin else "",
                private_key=private_key(key) if key else "", reason=reason,
            ),
        ),
        as_json,
    )  # fmt: skip


@command.command("list")
@click.argument("target", default="")
@JSON
@config_option
def list_accounts(target: str, as_json: bool, config: Path | None) -> None:
    """Show accounts, all or those on TARGET."""
    from policy.messages import AccountList

    show(pages(config, AccountList(target=target)), as_json)


@command.command("show")
@PLACE
@JSON
@config_option
def show_account(place: str, as_json: bool, config: Path | None) -> None:
    """Show one account: kind of credential, public key, last use. Never the secret."""
    from policy.messages import AccountShow

    account, target = account_at(place)
    show(ask(config, AccountShow(account=account, target=target)), as_json)


@command.command()
@PLACE
@REASON
@JSON
@config_option
def remove(place: str, reason: str, as_json: bool, config: Path | None) -> None:
    """Remove an account and its credential."""
    from policy.messages import AccountRemove

    account, target = account_at(place)
    show(ask(config, AccountRemove(account=account, target=target, reason=reason)), as_json)


def private_key(name: str) -> str:
    """The key in OpenSSH form without passphrase: policyd encrypts it with its own key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
        load_ssh_private_key,
    )

    text = read_file(name)
    if "PRIVATE KEY" not in text:
        raise MisuseError(f"`{name}` is not a private key", f"give the private one: --key {name.removesuffix('.pub')}")
    load = load_ssh_private_key if "OPENSSH" in text else load_pem_private_key
    try:
        try:
            key = load(text.encode(), None)
        except TypeError:  # it has a passphrase
            if name == "-":
                raise MisuseError("a key with a passphrase cannot come from standard input") from None
            key = load(text.encode(), click.prompt(f"Passphrase of {name}", hide_input=True, err=True).encode())
        return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    except (ValueError, UnsupportedAlgorithm):
        raise MisuseError(f"cannot read the key in `{name}`", f"check it: ssh-keygen -y -f {name}") from None


def public_line(private: str) -> str:
    """The public half, as in a .pub file, of a key that `private_key` has read."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

    key = load_ssh_private_key(private.encode(), None).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
