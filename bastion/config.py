"""bastion.toml -> frozen settings, or every problem in it at once, each with its line.

One table per process; an unknown table or key is an error, because a misspelt limit is a limit that is not there.
Paths: `[bastion] state` and `run` count from the folder of bastion.toml, and so do `[policy] rules`,
`trusted_user_cas` and `revoked_keys`, `[recorder] auditors` and the files of `[broker]`; everything else that names a
file counts from `state`.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from bastion.errors import BastionError
from bastion.settings import BrokerSettings, CourierSettings, RunnerSettings, SshSettings
from bastion.toml_lines import KeyPath, key_lines, line_of
from policy.model import PolicySettings
from recorder.model import RecorderSettings

MAX_FILE: Final = 1024 * 1024
"""Bytes read of bastion.toml. A thousand listen addresses fit; /dev/zero does not."""


class BastionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[bastion]` table: what all processes share."""

    state: str = "state"  # database, keys and recordings; relative to bastion.toml
    run: str = "run"  # sockets; relative to bastion.toml
    node: str = "bastion"  # this machine's name in recordings and logs


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole bastion.toml. `state` and `run` are absolute."""

    path: Path
    bastion: BastionSettings
    ssh: SshSettings
    policy: PolicySettings
    recorder: RecorderSettings
    courier: CourierSettings = field(default_factory=CourierSettings)
    runner: RunnerSettings = field(default_factory=RunnerSettings)
    broker: BrokerSettings = field(default_factory=BrokerSettings)

    @property
    def state(self) -> Path:
        return self.path.parent / self.bastion.state

    @property
    def run(self) -> Path:
        return self.path.parent / self.bastion.run

    @property
    def rules(self) -> Path:
        return self.path.parent / self.policy.rules

    @property
    def host_keys(self) -> list[Path]:
        return [self.state / name for name in self.ssh.host_keys]

    @property
    def recordings(self) -> Path:
        return self.state / self.recorder.directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong: prints as `file:line: key: problem (got X, want Y; did you mean Z)`."""

    file: str
    line: int
    key: str
    text: str
    got: str = ""
    want: str = ""
    meant: str = ""

    def __str__(self) -> str:
        sides = ", ".join(f"{word} {side}" for word, side in (("got", self.got), ("want", self.want)) if side)
        detail = "; ".join(part for part in (sides, f"did you mean {self.meant}" if self.meant else "") if part)
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}: {key}{self.text}" + (f" ({detail})" if detail else "")


class ConfigError(BastionError):
    """bastion.toml does not hold; `problems` has all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}", f"see all of it: bastion check-config {problems[0].file}")
        self.problems = problems


TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "bastion": BastionSettings,
    "ssh": SshSettings,
    "policy": PolicySettings,
    "recorder": RecorderSettings,
    "courier": CourierSettings,
    "runner": RunnerSettings,
    "broker": BrokerSettings,
}
_SECRET_KEYS: Final = {"database"}  # its URL may carry a password: the value never appears in a message


def load(path: Path) -> Settings:
    """The settings in a file; ConfigError with every problem that the text alone shows."""
    settings, problems, _ = parse(path)
    if settings is None:
        raise ConfigError(problems)
    return settings


def check(path: Path) -> list[Problem]:
    """Everything wrong with a file and with the files, keys and addresses it names."""
    from bastion.config_checks import surroundings  # it loads the keys, which ordinary commands need not do

    settings, problems, lines = parse(path)
    if settings is None:
        return problems
    found = (
        Problem(file=str(path), line=line_of(lines, tuple(trouble.key.split("."))), key=trouble.key,
                text=trouble.text, got=trouble.got, want=trouble.want)
        for trouble in surroundings(settings)
    )  # fmt: skip
    return sorted(found, key=lambda problem: problem.line)


def parse(path: Path) -> tuple[Settings | None, list[Problem], dict[KeyPath, int]]:
    """Settings or problems, never both, and the line of each key."""
    text, problem = _text(path)
    if problem is not None:
        return None, [problem], {}
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        return None, [Problem(file=str(path), line=1, key="", text="is nested too deeply")], {}
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"\(at line (\d+)", str(error))
        words = re.sub(r" \(at .*\)$", "", str(error))
        number = int(line[1]) if line else text.count("\n") + 1
        return None, [Problem(file=str(path), line=number, key="", text=_lower(words))], {}
    lines = key_lines(text)
    problems = list(_unknown(tables, TABLES, (), path, lines))
    values: dict[str, Any] = {}
    for name, struct in TABLES.items():
        table = tables.get(name, {})
        if isinstance(table, dict):
            problems += _unknown(table, struct.__struct_fields__, (name,), path, lines)
            values[name], wrong = _convert(name, table, struct, path, lines)
            problems += wrong
        else:
            problems.append(Problem(file=str(path), line=line_of(lines, (name,)), key=name, text="must be a table",
                                    got=_shown(name, table), want=f"[{name}]"))  # fmt: skip
    if problems:
        return None, sorted(problems, key=lambda problem: problem.line), lines
    return Settings(path=path.absolute(), **values), [], lines


def _text(path: Path) -> tuple[str, Problem | None]:
    def wrong(text: str) -> tuple[str, Problem]:
        return "", Problem(file=str(path), line=1, key="", text=text)

    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        return wrong(f"cannot be read: {_lower(error.strerror or str(error))}")
    if len(data) > MAX_FILE:
        return wrong(f"is larger than {MAX_FILE // 1024} KiB")
    try:
        return data.decode(), None
    except UnicodeDecodeError as error:
        return wrong(f"is not UTF-8 at byte {error.start}")


def _unknown(
    table: dict[str, Any], known: Iterable[str], prefix: KeyPath, path: Path, lines: dict[KeyPath, int]
) -> Iterator[Problem]:
    known = list(known)
    for name in table:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            elsewhere = [other for other, struct in TABLES.items() if name in struct.__struct_fields__]
            meant = f"`{close[0]}`" if close else f"`{name}` in [{elsewhere[0]}]" if prefix and elsewhere else ""
            yield Problem(
                file=str(path), line=line_of(lines, (*prefix, name)), key=".".join(map(str, (*prefix, name))),
                text="unknown key" if prefix else "unknown table",
                want="" if meant else "one of " + ", ".join(known), meant=meant,
            )  # fmt: skip


def _convert(
    name: str, table: dict[str, Any], struct: type[msgspec.Struct], path: Path, lines: dict[KeyPath, int]
) -> tuple[msgspec.Struct | None, list[Problem]]:
    """Each key on its own, so that one wrong value does not hide the next."""
    good: dict[str, Any] = {}
    problems = []
    for entry in msgspec.structs.fields(struct):
        if entry.name in table:
            try:
                good[entry.name] = msgspec.convert(table[entry.name], entry.type)
            except msgspec.ValidationError as error:
                want = re.match(r"Expected (.+?)(?:, got .+?)?(?: - at .+)?$", str(error))
                problems.append(
                    Problem(
                        file=str(path), line=line_of(lines, (name, entry.name)), key=f"{name}.{entry.name}",
                        text="wrong value", got=_shown(entry.name, table[entry.name]),
                        want=_choices(entry.type) or (want[1] if want else _lower(str(error))),
                    )
                )  # fmt: skip
    return (None if problems else struct(**good)), problems


def _choices(kind: Any) -> str:
    """`compat or modern` for a Literal; its values are in its `__args__`."""
    values = getattr(kind, "__args__", ())
    return " or ".join(f"`{value}`" for value in values) if values and all(isinstance(v, str) for v in values) else ""


def _shown(key: str, value: object) -> str:
    if key in _SECRET_KEYS:
        return type(value).__name__
    text = repr(value)
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
