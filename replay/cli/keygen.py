"""`replay keygen`: the key pair of an auditor."""

import os
from pathlib import Path

import click

from replay.errors import MisuseError


@click.command("keygen")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--passphrase", "ask", is_flag=True, help="Protect the private key; asked at the terminal.")
@click.option("--passphrase-stdin", "stdin", is_flag=True, help="Protect it; the passphrase is on standard input.")
def command(file: Path, ask: bool, stdin: bool) -> None:
    """Make an X25519 key pair: FILE (private, mode 0600) and FILE.pub.

    The public one goes to the bastion ([recorder] auditors in bastion.toml); what is recorded from then on is
    encrypted to it. The private one stays with the auditor and never comes to the bastion.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    from replay.cli.common import new_passphrase

    public = file.with_name(file.name + ".pub")
    for path in (file, public):
        if path.exists():
            raise MisuseError(f"`{path}` exists", "name another file: a key is never written over")
    lock: KeySerializationEncryption = NoEncryption()
    if ask or stdin:
        lock = BestAvailableEncryption(new_passphrase(stdin).encode())
    key = X25519PrivateKey.generate()
    _write(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock), 0o600)
    _write(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    print(f"private key: {file}   keep it away from the bastion, and a copy in a safe: without it nothing can be read")
    print(f'public key:  {public}   add it in bastion.toml: [recorder] auditors = ["{public.name}"]')


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        # O_EXCL: never through a link that somebody has put there
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise MisuseError(f"cannot write `{path}`: {(error.strerror or str(error)).lower()}") from None
    with os.fdopen(handle, "wb") as file:
        file.write(data)
