"""What `bastion init` makes: configuration, rules, host keys, and by policyd's own hand database, CAs and vault key.

It never overwrites: a second run would orphan every credential that the first one's key protects. What it made is
removed again when it cannot finish, so that the next try does not meet half a bastion.
"""

import base64
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bastion.config import load
from bastion.errors import BastionError, MisuseError

RSA_BITS = 3072  # what BSI and NIST ask for beyond 2030; larger costs each login more


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What only the operator knows."""

    listen: list[str] = field(default_factory=lambda: ["0.0.0.0:2222"])
    admin: str = ""
    admin_keys: list[str] = field(default_factory=list)  # authorized_keys lines
    master: str = ""  # [policy] master_key; "" for a file beside the database


def make(folder: Path, answers: Answers) -> Iterator[str]:
    """Make a bastion in `folder`, saying what was made; MisuseError when something is in the way."""
    folder = folder.absolute()
    names = {"config": folder / "bastion.toml", "rules": folder / "policy.toml", "state": folder / "state"}
    for path in names.values():
        if path.exists():
            hint = f"choose another folder: bastion init {folder}-2"
            if path == names["config"] and not names["state"].exists():  # the package brings no more than this
                hint = f"make what it names: bastion init --existing {folder}"
            raise MisuseError(f"`{path}` is there already, nothing was changed", hint)
    with _undo(folder) as made:
        for path in (folder, names["state"]):
            made += _folder(path)
        made.append(names["config"])
        write_new(names["config"], _config_text(answers).encode(), 0o644)
        made.append(names["rules"])
        write_new(names["rules"], _template("policy.toml").encode(), 0o644)
        yield f"made `{names['config']}` and `{names['rules']}`"
        for path in make_host_keys(names["state"]):
            yield f"made `{path}`  {fingerprint(path)}"
        load(names["config"])  # the template and the options must make a file that holds
        yield from _policy_init(names["config"], answers)
    config = shlex.quote(str(names["config"]))
    yield ""
    yield "next:"
    yield f"  bastion run -c {config}"
    yield f"  bastion target add web1 -c {config} --address web1.example.org --label env=test --pin scan"


def make_host_keys(state: Path) -> list[Path]:
    """An ed25519 and an RSA key with their public halves, as `ssh-keygen` writes them."""
    keys: dict[str, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey] = {
        "ssh_host_ed25519_key": ed25519.Ed25519PrivateKey.generate(),
        "ssh_host_rsa_key": rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS),
    }
    for name, key in keys.items():
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        write_new(state / name, private.encode(), 0o600)
        write_new(state / f"{name}.pub", f"{public}\n".encode(), 0o644)
    return [state / name for name in keys]


def fingerprint(private: Path) -> str:
    """`SHA256:...` of the public half beside a private key, as `ssh-keygen -l` shows it."""
    blob = base64.b64decode(private.with_name(private.name + ".pub").read_text().split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _config_text(answers: Answers) -> str:
    text = _template("bastion.toml")
    changes = [('listen = ["0.0.0.0:2222"]', f"listen = {json.dumps(answers.listen)}")]
    if answers.master:
        changes.append(
            ('#master_key = "file:master.key"', f"master_key = {json.dumps(answers.master, ensure_ascii=False)}")
        )
    for default, wanted in changes:
        assert default in text
        text = text.replace(default, wanted, 1)
    return text


def _template(name: str) -> str:
    return files("bastion").joinpath("templates", name).read_text()


def _policy_init(config: Path, answers: Answers) -> Iterator[str]:
    """Database, vault key and CAs are policyd's: it makes them, we only show what it says."""
    words = [sys.executable, "-m", "policy", "init", "--config", str(config)]
    if answers.admin:
        words += ["--admin", answers.admin, "--admin-key", "-"]
    done = subprocess.run(words, input="\n".join(answers.admin_keys), capture_output=True, text=True, check=False)
    if done.returncode:
        raise not_set_up(done)
    yield from (line for line in done.stdout.splitlines() if line)


def not_set_up(done: "subprocess.CompletedProcess[str]") -> BastionError:
    """In policyd's own words: cause, and what to do."""
    said = [line.removeprefix("bastion: ") for line in done.stderr.splitlines() if line.startswith("bastion: ")]
    cause, *hints = said or [f"status {done.returncode}"]
    return BastionError(f"policyd could not be set up: {cause}", hints[0] if hints else "")


def _folder(path: Path) -> list[Path]:
    if path.is_dir():
        return []
    path.mkdir(mode=0o700, parents=True)
    return [path]


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Born with its mode: a key that is readable for one moment has been read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _undo(folder: Path) -> Iterator[list[Path]]:
    """The paths that are to disappear when the block fails; a folder goes with all that is in it."""
    made: list[Path] = []
    try:
        yield made
    except BaseException as error:
        for path in reversed(made):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise MisuseError(f"cannot write in `{folder}`: {(error.strerror or str(error)).lower()}") from error
        raise
