"""The repository checks its own shape: what import contracts cannot say because it names what is allowed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bastion", "recorder", "policy", "replay")
SEEN_FROM = {  # package -> what it may import of the others
    "bastion": {"recorder": {"model", "messages"}, "policy": {"model", "messages"}, "replay": set()},
    "replay": {
        "recorder": {"model", "codec", "chain", "reader", "store"},
        "policy": {"model", "messages"},
        "bastion": set(),
    },
    "recorder": {"bastion": set(), "policy": set(), "replay": set()},
    "policy": {"bastion": set(), "recorder": set(), "replay": set()},
}
LONGEST = 400
LONGER: dict[str, str] = {}  # module -> the reason why it may be longer


def modules(package: str) -> Iterator[Path]:
    return (path for path in sorted((ROOT / package).rglob("*.py")))


def imports(path: Path) -> Iterator[str]:
    """Dotted names this module imports, `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_see_only_what_they_may(package: str) -> None:
    for path in modules(package):
        for name in imports(path):
            top, _, rest = name.partition(".")
            if top in SEEN_FROM[package]:
                allowed = SEEN_FROM[package][top]
                assert rest.split(".")[0] in allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_one_event_loop_per_process(package: str) -> None:
    for path in modules(package):
        in_ssh = path.is_relative_to(ROOT / "bastion" / "ssh")
        forbidden = {"trio"} if in_ssh else {"asyncio", "asyncssh"}
        found = {name.split(".")[0] for name in imports(path)} & forbidden
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_only_policy_builds_a_grant() -> None:
    for package in ("bastion", "replay", "recorder"):
        for path in modules(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    assert called != "Grant", f"{path.relative_to(ROOT)}:{node.lineno} builds a Grant"


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_stay_small(package: str) -> None:
    for path in modules(package):
        name = str(path.relative_to(ROOT))
        lines = len(path.read_text().splitlines())
        assert lines <= LONGEST or name in LONGER, f"{name} has {lines} lines"
