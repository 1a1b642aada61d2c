"""Where the recordings, the configuration and the keys are: the only module that looks for files."""

import os
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recorder.model import RecorderSettings
from replay.errors import MisuseError, PlaceError

CONFIGS: Final = ("bastion.toml", "/etc/bastion/bastion.toml")
STATE: Final = "state"  # the default of [bastion] state
RUN: Final = "run"  # the default of [bastion] run
NODE_KEY: Final = "node.key"
"""recorderd's private key: where it lies, a bastion records. A copy of its recordings has the public one at most."""

MAX_CONFIG: Final = 1024 * 1024
MAX_KEY: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A bastion on this machine: its configuration, recordings, and the folder of its sockets."""

    config: Path
    recordings: Path
    run: Path


def directory(config: Path | None, given: Path | None) -> Path:
    """The folder of recordings: `--directory`, else what bastion.toml says; PlaceError if there is none."""
    path = given or _configured(config)
    if not path.is_dir():
        hint = "name it: --directory DIR, or -c bastion.toml"
        raise PlaceError(f"there is no folder of recordings at `{path}`", hint)
    if not os.access(path, os.R_OK | os.X_OK):
        raise PlaceError(f"`{path}` may not be read by this user", f"run as its group: ls -ld {path}")
    return path


def _configured(config: Path | None) -> Path:
    if config is None:
        found = [Path(name) for name in CONFIGS if os.path.exists(name)]
        if not found:
            raise MisuseError("no bastion.toml here", "name one with -c FILE, or the recordings with --directory DIR")
        config = found[0]
    return _home(config).recordings


def home_of(file: Path, config: Path | None) -> Home | None:
    """The bastion of this machine that a recording belongs to; None: it is a copy. PlaceError if that is not clear.

    Links are followed first: a link into the folder of recordings is no copy. A folder that a bastion records in is
    none either, whatever -c names, because otherwise `--directory` would be the way to look without being seen.
    """
    file = file.resolve()
    for candidate in _candidates(config):
        home = _home(candidate)
        if file.is_relative_to(home.recordings.resolve()):
            return home
    for folder in list(file.parents)[:2]:  # FOLDER/2026-11-25/ID.brec, or beside the key
        if (folder / NODE_KEY).exists():
            usual = folder.parent.parent / CONFIGS[0]
            if usual.exists() and (home := _home(usual)).recordings.resolve() == folder:
                return home
            raise PlaceError(
                f"a bastion records in `{folder}`, and where it notes who looks is not known",
                "name its configuration: -c bastion.toml",
            )
    return None


def _candidates(config: Path | None) -> Iterator[Path]:
    if config is not None:
        yield config
    yield from (Path(name) for name in CONFIGS if os.path.exists(name))


def _home(config: Path) -> Home:
    try:
        table = tomllib.loads(read(config, MAX_CONFIG).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlaceError(f"`{config}`: {error}", f"bastion check-config -c {config}") from None
    state = _entry(table, "bastion", "state", STATE)
    recordings = _entry(table, "recorder", "directory", RecorderSettings().directory)
    run = _entry(table, "bastion", "run", RUN)
    config = config.absolute()
    return Home(config=config, recordings=config.parent / state / recordings, run=config.parent / run)


def _entry(table: dict[str, Any], group: str, name: str, default: str) -> str:
    within = table.get(group, {})
    value = within.get(name, default) if isinstance(within, dict) else None
    if not isinstance(value, str):
        raise PlaceError(f"[{group}] {name} in bastion.toml is no text", "bastion check-config")
    return value


def read(path: Path, limit: int) -> bytes:
    """A small file; MisuseError if it cannot be read or is larger than `limit` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise MisuseError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from None
    if len(data) > limit:
        raise MisuseError(f"`{path}` is larger than {limit // 1024} KiB")
    return data


def private_key(path: Path, passphrase: Callable[[], str]) -> Any:
    """An auditor's X25519 private key (PEM); `passphrase` is asked once if the file has one."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read(path, MAX_KEY)
    try:
        try:
            key = load_pem_private_key(data, None)
        except TypeError:  # encrypted
            key = load_pem_private_key(data, passphrase().encode())
    except ValueError:
        raise MisuseError(
            f"`{path}` is no private key, or the passphrase is wrong", "an auditor's key is made by: replay keygen FILE"
        ) from None
    if not isinstance(key, X25519PrivateKey):
        raise MisuseError(f"`{path}` is not an X25519 key", "an auditor's key is made by: replay keygen FILE")
    return key
