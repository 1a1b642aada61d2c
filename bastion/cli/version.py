"""`bastion version`."""

import json

import click

from bastion.cli.common import JSON


@click.command("version")
@JSON
def command(as_json: bool) -> None:
    """Versions of everything that matters here."""
    import platform
    from importlib.metadata import version

    from cryptography.hazmat.backends.openssl import backend

    from bastion import __version__

    facts = {
        "bastion": __version__,
        "python": platform.python_version(),
        "openssl": backend.openssl_version_text(),
        **{name: version(name) for name in ("asyncssh", "cryptography", "trio", "sqlalchemy")},
        "kernel": platform.release(),
    }
    print(json.dumps(facts) if as_json else "\n".join(f"{name:<13}{value}" for name, value in facts.items()))
