"""Where the recordings, the configuration and the keys are: the only module that looks for files."""

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from recorder.model import RecorderSettings
from replay.errors import MisuseError, PlaceError

CONFIGS: Final = ("bastion.toml", "/etc/bastion/bastion.toml")
STATE: Final = "state"  # the default of [bastion] state

MAX_CONFIG: Final = 1024 * 1024
MAX_KEY: Final = 64 * 1024


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
    try:
        table = tomllib.loads(read(config, MAX_CONFIG).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlaceError(f"`{config}`: {error}", f"bastion check-config -c {config}") from None
    state = _entry(table, "bastion", "state", STATE)
    recordings = _entry(table, "recorder", "directory", RecorderSettings().directory)
    return config.absolute().parent / state / recordings


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
