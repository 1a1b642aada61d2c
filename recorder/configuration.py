"""What recorderd takes from bastion.toml: the tables `[recorder]` and `[bastion]`; the others are not its business.

`state` and `run` and the auditors' keys count from the file's folder, the recordings from `state`.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from recorder import keys
from recorder.model import RecorderSettings

MAX_FILE: Final = 1024 * 1024
"""Bytes of bastion.toml or a key; /dev/zero is more."""
MAX_AUDITORS: Final = 32


class BadConfiguration(Exception):
    """The problems of a file, one a line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _Bastion(msgspec.Struct, frozen=True, kw_only=True):
    """The `[bastion]` table; keys of other processes are theirs to check."""

    state: str = "state"
    run: str = "run"
    node: str = "bastion"


class _File(msgspec.Struct, frozen=True, kw_only=True):
    bastion: _Bastion = _Bastion()
    recorder: RecorderSettings = RecorderSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    recorder: RecorderSettings
    directory: Path
    run: Path
    node: str
    auditors: list[X25519PublicKey]


def read_configuration(path: Path) -> Configuration:
    """BadConfiguration says what is wrong, everything at once."""
    try:
        file = msgspec.convert(tomllib.loads(_read(path).decode()), _File)
    except UnicodeDecodeError as error:
        raise BadConfiguration([f"{path}: byte {error.start} is not UTF-8"]) from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise BadConfiguration([f"{path}: {str(error).lower()}"]) from None
    settings, base = file.recorder, path.absolute().parent
    problems = [f"{path}: {problem}" for problem in _out_of_range(settings)]
    auditors = []
    for name in settings.auditors:
        try:
            auditors.append(keys.load_public(_read(base / name)))
        except ValueError as error:
            problems.append(f"{base / name}: {str(error).lower()}")
        except BadConfiguration as error:
            problems += error.problems
    if problems:
        raise BadConfiguration(problems)
    return Configuration(
        recorder=settings,
        directory=base / file.bastion.state / settings.directory,
        run=base / file.bastion.run,
        node=file.bastion.node,
        auditors=auditors,
    )


def _out_of_range(settings: RecorderSettings) -> list[str]:
    ranges = {
        "sync_ms": (0, 10_000),
        "reserve_mib": (0, 1 << 20),
        "low_water_mib": (0, 1 << 30),
        "segment_seconds": (1, 86_400),
        "segment_kib": (16, 4096),  # a record holds 16 MiB, and a segment may be filled twice over
    }
    problems = [
        f"recorder.{name}: got {getattr(settings, name)}, want {low} to {high}"
        for name, (low, high) in ranges.items()
        if not low <= getattr(settings, name) <= high
    ]
    if len(settings.auditors) > MAX_AUDITORS:
        problems.append(f"recorder.auditors: got {len(settings.auditors)}, want at most {MAX_AUDITORS}")
    return problems


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise BadConfiguration([f"{path}: {(error.strerror or 'cannot be read').lower()}"]) from None
    if len(data) > MAX_FILE:
        raise BadConfiguration([f"{path}: longer than {MAX_FILE} bytes"])
    return data
