"""`bastion init --existing`: what an installed bastion.toml names and a package cannot bring: keys and database.

The package brings configuration, users and folders. Secrets are made here, on the machine they belong to: the master
key and the host keys beside the configuration, for root alone, as the units hand them to their processes
(LoadCredential); the database by policyd under its own user. A run after one that failed makes only
what is missing; policyd refuses if its state is there already.
"""

import os
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bastion.config import load
from bastion.errors import MisuseError
from bastion.setup import Answers, fingerprint, make_host_keys, not_set_up, write_new

MASTER_KEY_BYTES: Final = 32  # what policyd takes
HOST_KEY_NAMES: Final = ("ssh_host_ed25519_key", "ssh_host_rsa_key")


def complete(folder: Path, answers: Answers) -> Iterator[str]:
    """Make what is missing, saying what was made; MisuseError when it cannot be."""
    config = folder.absolute() / "bastion.toml"
    settings = load(config)
    if not settings.state.is_dir():
        raise MisuseError(
            f"`{settings.state}` is missing",
            "make it as the package does: systemd-sysusers && systemd-tmpfiles --create",
        )
    try:
        yield from _host_keys(settings.host_keys)
        kind, _, name = settings.policy.master_key.partition(":")
        credential = config.parent / name if kind == "credential" else None
        if credential is not None and not credential.exists():
            write_new(credential, secrets.token_bytes(MASTER_KEY_BYTES), 0o600)
            yield f"made master key `{credential}`: keep a copy elsewhere, without it every secret is lost"
        yield from _policy_init(config, settings.state, credential, answers)
    except OSError as error:
        cause = f"`{error.filename or folder}`: {(error.strerror or str(error)).lower()}"
        raise MisuseError(cause, f"as root: sudo bastion init --existing {folder}") from error
    yield ""
    yield "next:"
    yield f"  bastion check-config {config}"
    yield "  systemctl enable --now bastion.target"
    yield "  bastion target add web1 --address web1.example.org --label env=test --pin scan"
    yield "  usermod -aG bastion-record,bastion-audit NAME    # who may view recordings"


def _host_keys(paths: list[Path]) -> Iterator[str]:
    missing = [path for path in paths if not path.exists()]
    if not missing:
        return
    if missing != paths or {path.name for path in paths} != set(HOST_KEY_NAMES) or len({p.parent for p in paths}) > 1:
        raise MisuseError(f"host key `{missing[0]}` is missing", f"ssh-keygen -t ed25519 -N '' -f {missing[0]}")
    for path in make_host_keys(missing[0].parent):
        yield f"made `{path}`  {fingerprint(path)}"


def _policy_init(config: Path, state: Path, credential: Path | None, answers: Answers) -> Iterator[str]:
    """policyd makes its database as the user that owns its folder, so that it can use it afterwards."""
    owner, root = state.stat(), os.geteuid() == 0
    words = [sys.executable, "-m", "policy", "init", "--config", str(config)]
    if answers.admin:
        words += ["--admin", answers.admin, "--admin-key", "-"]
    with _credentials(credential, owner) as folder:
        done = subprocess.run(
            words, input="\n".join(answers.admin_keys), capture_output=True, text=True, check=False, cwd="/",
            env={**os.environ, **({"CREDENTIALS_DIRECTORY": str(folder)} if folder else {})},
            user=owner.st_uid if root else None, group=owner.st_gid if root else None,
            extra_groups=[] if root else None, umask=0o077,
        )  # fmt: skip
    if done.returncode:
        raise not_set_up(done)
    yield from (line for line in done.stdout.splitlines() if line)


@contextmanager
def _credentials(key: Path | None, owner: os.stat_result) -> Iterator[Path | None]:
    """A copy of the master key as systemd would hand it over: in memory, for policyd's user, for this moment."""
    if key is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="bastion-init-", dir="/run" if os.geteuid() == 0 else None))  # 0700
    try:
        copy = folder / key.name
        write_new(copy, key.read_bytes(), stat.S_IRUSR)
        if os.geteuid() == 0:
            for path in (copy, folder):
                os.chown(path, owner.st_uid, owner.st_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
