"""`bastion broker`: a secret for a script, from the broker, as the application that the script is."""

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bastion.broker.client import SOCKET, Broker, BrokerError, Secret
from bastion.cli.common import JSON
from bastion.errors import BastionError, Denied, ExitCode, MisuseError, PeerError


@click.group()
def command() -> None:
    """Secrets for applications, from the broker on this machine or over HTTPS."""


def _door(function: click.Command) -> click.Command:
    """Options that say which broker, and who asks."""
    for option in reversed((
        click.option("--socket", "path", default=SOCKET, show_default=True, metavar="PATH", help="Its local socket."),
        click.option("--url", default="", metavar="https://HOST[:PORT]", help="By HTTPS instead."),
        click.option("--token-file", default="", metavar="FILE", help="Where the token for HTTPS is kept."),
        click.option("--certificate", default="", metavar="FILE", help="This application's certificate (PEM)."),
        click.option("--key", default="", metavar="FILE", help="Its key (PEM), if not in the same file."),
        click.option("--ca", default="", metavar="FILE", help="Who signed the broker's certificate (PEM)."),
        click.option("--application", default="", metavar="NAME", help="Which it is, where it fits several."),
        click.option("--patience", default=10.0, show_default=True, metavar="SECONDS", help="For a busy bastion."),
    )):  # fmt: skip
        function = option(function)
    return function


@command.command()
@click.argument("name")
@_door  # type: ignore[arg-type]
@JSON
def get(
    name: str, path: str, url: str, token_file: str, certificate: str, key: str, ca: str, application: str,
    patience: float, as_json: bool,
) -> None:  # fmt: skip
    """Print a secret, alone and as it is: no line end is added."""
    with _broker(
        "get", path, url=url, token_file=token_file, certificate=certificate, key=key, ca=ca, application=application,
        patience=patience,
    ) as broker:  # fmt: skip
        secret = broker.get(name)
    sys.stdout.buffer.write(_json(secret) if as_json else secret.data)
    sys.stdout.buffer.flush()


@command.command()
@_door  # type: ignore[arg-type]
@JSON
def renew(
    path: str, url: str, token_file: str, certificate: str, key: str, ca: str, application: str, patience: float,
    as_json: bool,
) -> None:  # fmt: skip
    """Change the token of --token-file for a newer one, and write it there."""
    if not (url and token_file):
        raise MisuseError("what is renewed is a token for HTTPS", "--url https://HOST:PORT --token-file FILE")
    with _broker(
        "renew", path, url=url, token_file=token_file, certificate=certificate, key=key, ca=ca, application=application,
        patience=patience,
    ) as broker:  # fmt: skip
        told = broker.renew_token()
    click.echo(json.dumps(told) if as_json else f"renewed for {told['expires_in']} seconds: {token_file}")


@contextmanager
def _broker(word: str, path: str, **options: Any) -> Iterator[Broker]:
    """A broker to ask; what it says no to, in words for people."""
    for file in (options[name] for name in ("token_file", "certificate", "key", "ca")):
        if file and not Path(file).is_file():
            raise MisuseError(f"`{file}` is no file", "name one that is there")
    try:
        with Broker(path, **options) as broker:
            yield broker
    except BrokerError as error:
        raise _said(error) from None
    except (OSError, ValueError) as error:
        raise MisuseError(str(error), f"bastion broker {word} --help") from None


def _json(secret: Secret) -> bytes:
    told = {"name": secret.name, "kind": secret.kind, "version": secret.version, "lease": secret.lease,
            "expires_in": secret.expires_in}  # fmt: skip
    if secret.value is not None:
        return json.dumps(told | {"value": secret.value}).encode() + b"\n"
    return json.dumps(told | {"value_base64": base64.b64encode(secret.data).decode()}).encode() + b"\n"


def _said(error: BrokerError) -> BastionError:
    if error.status == 0:
        return PeerError(error.error, "is it running: systemctl status bastion-broker")
    later = dict.fromkeys((423, 429, 503), ExitCode.PENDING)
    code = (later | {400: ExitCode.USAGE}).get(error.status, ExitCode.DENIED)
    return Denied(error.error, error.hint, ref=error.ref, code=code)
