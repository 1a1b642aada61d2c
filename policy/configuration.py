"""What policyd takes from bastion.toml: the tables `[policy]` and `[bastion]`; the others belong to other processes.

`state`, `run` and `rules` count from the file's folder, the database and the master key from `state`.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from policy.keys.sshkeys import parse_authorized_key
from policy.keys.sshwire import BadKey
from policy.model import PolicySettings
from policy.rules.ruleset import BadRules, RuleSet, parse_rules

_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")

MAX_FILE: Final = 4 * 1024 * 1024
"""Bytes of a configuration file. 5,000 rules are 1 MB; /dev/zero is more."""


class BadConfiguration(Exception):
    """The problems of a file, one a line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _Bastion(msgspec.Struct, frozen=True, kw_only=True):
    """The `[bastion]` table; keys of other processes are theirs to check."""

    state: str = "state"
    run: str = "run"


class _File(msgspec.Struct, frozen=True, kw_only=True):
    bastion: _Bastion = _Bastion()
    policy: PolicySettings = PolicySettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    policy: PolicySettings
    path: Path
    state: Path
    run: Path

    @property
    def rules(self) -> Path:
        return self.path.parent / self.policy.rules

    @property
    def head(self) -> Path:
        """The head of the audit trail."""
        return self.state / "audit.head"


def read_configuration(path: Path) -> Configuration:
    """BadConfiguration says what is wrong."""
    text = read_text(path)
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise BadConfiguration([f"{path}: {str(error).lower()}"]) from None
    path = path.absolute()
    return Configuration(
        policy=file.policy, path=path, state=path.parent / file.bastion.state, run=path.parent / file.bastion.run
    )


def read_rules(path: Path) -> RuleSet:
    """The rules in force from now on; BadConfiguration with every problem."""
    try:
        return parse_rules(read_text(path), str(path))
    except BadRules as error:
        raise BadConfiguration([str(problem) for problem in error.problems]) from None


def read_all(config: Configuration) -> tuple[RuleSet, frozenset[bytes], frozenset[str]]:
    """Rules, blobs of trusted CAs, revoked fingerprints; BadConfiguration with every problem of the first bad file."""
    base, settings = config.path.parent, config.policy
    trusted = _lines(base / settings.trusted_user_cas) if settings.trusted_user_cas else []
    revoked = _lines(base / settings.revoked_keys) if settings.revoked_keys else []
    cas = set()
    for number, line in trusted:
        try:
            cas.add(parse_authorized_key(line).key.blob)
        except BadKey as error:
            raise BadConfiguration([f"{base / settings.trusted_user_cas}:{number}: {error}"]) from None
    for number, line in revoked:
        if not _FINGERPRINT.fullmatch(line):
            raise BadConfiguration([f"{base / settings.revoked_keys}:{number}: want SHA256:... as of `ssh-keygen -l`"])
    return read_rules(config.rules), frozenset(cas), frozenset(line for _, line in revoked)


def _lines(path: Path) -> list[tuple[int, str]]:
    lines = enumerate(read_text(path).splitlines(), 1)
    return [(number, line.strip()) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]


def read_text(path: Path) -> str:
    """A file of the administrator's; BadConfiguration if it is not there, too long, or no text."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise BadConfiguration([f"{path}: {(error.strerror or 'cannot be read').lower()}"]) from None
    if len(data) > MAX_FILE:
        raise BadConfiguration([f"{path}: longer than {MAX_FILE} bytes"])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadConfiguration([f"{path}: byte {error.start} is not UTF-8"]) from None
