"""`bastion init`."""

from pathlib import Path

import click

from bastion.cli.common import key_lines


@click.command("init")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--unattended", is_flag=True, help="Ask nothing; take what is not given from the defaults.")
@click.option("--listen", multiple=True, metavar="ADDRESS:PORT", help="Where ssh clients come in; may be repeated.")
@click.option("--admin", default="", metavar="NAME", help="First administrator.")
@click.option("--admin-key", default="", metavar="FILE", help="The administrator's public key.")
@click.option("--master", default="", metavar="WHERE", help="What is to encrypt the vault, as [policy] master_key.")
@click.option("--existing", is_flag=True, help="DIR has its bastion.toml, as from the package: make what it names.")
def command(
    folder: Path, unattended: bool, listen: tuple[str, ...], admin: str, admin_key: str, master: str, existing: bool
) -> None:
    """Make a new bastion in DIR: bastion.toml, policy.toml, keys, database, first administrator."""
    from bastion.setup import Answers, make
    from bastion.setup_installed import complete

    if existing and listen:
        raise click.UsageError("--listen stands in the existing bastion.toml, or in bastion-ssh.socket")
    if existing and master:
        raise click.UsageError("--master stands in the existing bastion.toml: [policy] master_key")
    if master == "passphrase:":  # and it is never a word of a command
        raise click.UsageError("a passphrase is asked for by: bastion-policyd init --config bastion.toml")
    if not unattended:
        if not existing:
            listen = listen or (click.prompt("Listen on", default="0.0.0.0:2222", err=True),)
        admin = admin or click.prompt("First administrator", default="admin", err=True)
        admin_key = admin_key or click.prompt("Their public key", default=_likely_key(), err=True)
    if bool(admin) != bool(admin_key):
        raise click.UsageError("--admin and --admin-key go together")
    keys = key_lines((admin_key,)) if admin_key else []
    answers = Answers(listen=list(listen) or ["0.0.0.0:2222"], admin=admin, admin_keys=keys, master=master)
    for line in complete(folder, answers) if existing else make(folder, answers):
        print(line)


def _likely_key() -> str:
    for name in ("id_ed25519", "id_ecdsa", "id_rsa"):
        if (path := Path.home() / ".ssh" / f"{name}.pub").exists():
            return str(path)
    return str(Path.home() / ".ssh/id_ed25519.pub")
