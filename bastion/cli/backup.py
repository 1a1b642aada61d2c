"""`bastion backup` and `bastion restore`: a whole bastion in one file that only its recipients open."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bastion.cli.common import JSON, MAX_SECRET, REASON, config_option, found_config, talk
from bastion.errors import BastionError, MisuseError, PeerError
from bastion.text import neutral

NODE_FILES = ("node.key", "node.pub", "node.log")
PASSPHRASE = click.option(
    "--passphrase-stdin", is_flag=True, help="The vault's passphrase, if it has one, is on standard input."
)


@click.command("backup")
@click.option("--to", "to", required=True, type=click.Path(path_type=Path), metavar="FILE", help="A new file.")
@click.option("--recipient", "recipients", multiple=True, required=True, metavar="KEY",
              help="age1..., or an ssh-ed25519 public key; may be repeated.")  # fmt: skip
@PASSPHRASE
@REASON
@JSON
@config_option
def backup(
    to: Path, recipients: tuple[str, ...], passphrase_stdin: bool, reason: str, as_json: bool, config: Path | None
) -> None:
    """Write database, keys, configuration and heads of the chains into one file, encrypted to age recipients.

    Sessions go on meanwhile. Recordings are not in it: they are files that never change, and their own backup.
    """
    from bastion import config as configuration
    from policy.messages import BackupBegin

    settings = configuration.load(found_config(config))
    try:
        with talk(config) as policyd:
            policyd.ask(BackupBegin(to=str(to.absolute()), recipients=list(recipients), reason=reason))
    except PeerError as error:
        # Root can copy the files anyway; what matters is that the honest way does not fail in an emergency.
        print(f"bastion: {error.cause}: the audit trail does not know of this backup", file=sys.stderr)
    others = [*(("host key", path) for path in settings.host_keys),
              *(("host key", path.with_name(f"{path.name}.pub")) for path in settings.host_keys),
              *(("recorder", settings.recordings / name) for name in NODE_FILES),
              *(("auditor", settings.path.parent / name) for name in settings.recorder.auditors)]  # fmt: skip
    words = ["make", "--config", str(settings.path), "--to", str(to.absolute())]
    words += [part for key in recipients for part in ("--recipient", key)]
    words += [part for what, path in others for part in ("--other", f"{what}={path}")]
    made = _run(words, passphrase_stdin, quiet=as_json)
    if as_json:
        print(json.dumps(made))
        return
    print(f"backup `{neutral(str(made['to']))}`: {len(made['files'])} files, {made['rows']} rows of the audit trail")
    print(f"verified: {made['verified']}")
    print(f"keep apart: {made['apart']}")


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--identity", required=True, type=click.Path(path_type=Path), metavar="KEY",
              help="File with AGE-SECRET-KEY-1..., or an OpenSSH private key.")  # fmt: skip
@click.option("--into", type=click.Path(path_type=Path), metavar="DIR", help="A new folder.")
@click.option("--rehearse", is_flag=True, help="Do all of it, say what was found, and leave nothing.")
@click.option("--accept-older", is_flag=True, help="What happened since is not in it; that becomes an event.")
@click.option("--ask-master", is_flag=True,
              help="Use the PKCS#11 token or transit server that it names: if it is yours.")  # fmt: skip
@PASSPHRASE
@JSON
def restore(
    file: Path, identity: Path, into: Path | None, rehearse: bool, accept_older: bool, ask_master: bool,
    passphrase_stdin: bool, as_json: bool,
) -> None:  # fmt: skip
    """Put a backup into a new folder, once the vault opens and the audit trail is whole."""
    if rehearse == (into is not None):
        raise MisuseError("one of --into DIR and --rehearse is wanted", "try it first: --rehearse")
    words = ["restore", str(file), "--identity", str(identity)]
    words += ["--into", str(into.absolute())] if into else []
    words += ["--accept-older"] if accept_older else []
    words += ["--ask-master"] if ask_master else []
    found = _run(words, passphrase_stdin, quiet=as_json)
    if as_json:
        print(json.dumps(found))
        return
    for name in ("made", "host", "files", "vault", "trail"):
        print(f"{name + ':':<7} {neutral(str(found[name]))}")
    if into is None:
        print("rehearsed: nothing was kept")
        return
    print(f"restored into `{neutral(str(into))}`: the state of {neutral(str(found['made']))}, and nothing since")
    print("next:")
    print("  rotate what was rotated since: bastion vault status")
    print(f"  bastion check-config {into}/bastion.toml && bastion run -c {into}/bastion.toml")


def command_of(name: str) -> click.Command:
    """Both are in this file."""
    return {"backup": backup, "restore": restore}[name]


def _run(words: Sequence[str], passphrase_stdin: bool, *, quiet: bool) -> dict[str, Any]:
    """The vault is policy's to read. Progress passes through where somebody looks; what it found comes back."""
    given = ""
    if passphrase_stdin:
        given, words = sys.stdin.readline(MAX_SECRET + 2), [*words, "--passphrase-stdin"]
    with subprocess.Popen(
        [sys.executable, "-m", "policy.backup", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write(given)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended already, and says why
        said: list[str] = []
        shows = sys.stderr.isatty() and not quiet
        for line in process.stderr:
            if line.startswith("bastion: "):
                said.append(line.removeprefix("bastion: ").strip())
            elif shows:
                print(f"\r\x1b[K{neutral(line.strip())[:70]}", end="", file=sys.stderr, flush=True)
        if shows:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        out = process.stdout.read(4 * 1024 * 1024)
    if process.returncode:
        cause, hint = [*(said or [f"policy.backup ended with {process.returncode}"]), ""][:2]
        raise BastionError(cause, hint)
    result: dict[str, Any] = json.loads(out)
    return result
