"""Runs mutants in forked children. The parent has imported pytest and the libraries, and no module of ours."""

import contextlib
import gc
import importlib
import itertools
import json
import os
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from tests.mutation import forking
from tests.mutation.mutant import ASSERTION, ROOT, Mutant, install
from tests.support import bytecode, net

PATIENCE: Final = 180.0
"""Seconds for one child. The slowest named test takes some five, on a machine of its own."""
ROOM: Final = 512 << 20
"""Bytes that must be free in memory for the children's folders; each takes some MB while it runs."""
WAITING: Final = 0.4
"""The share of its time that a test waits for what a mutant may keep from happening."""
PACKAGES: Final = ("bastion", "policy", "recorder", "replay")
LIBRARIES: Final = (
    "pytest", "_pytest.assertion.rewrite", "_pytest.python", "_pytest.pytester", "pytest_timeout", "pytest_trio.plugin",
    "hypothesis.strategies", "_hypothesis_pytestplugin", "asyncssh", "trio.testing", "msgspec.json", "msgpack",
    "structlog", "sqlalchemy.dialects.sqlite", "alembic.command", "pyotp", "segno", "zstandard", "argon2", "asyncio",
    "cryptography.hazmat.primitives.serialization", "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.hpke", "click", "httpcore2", "truststore", "sqlite3", "tarfile", "paramiko",
)  # fmt: skip
"""Imported once, before the children are forked; a library that is not there is the tests' own affair."""


PLUGINS: Final = ("pytest_timeout", "pytest_trio.plugin", "_hypothesis_pytestplugin")


class End(StrEnum):
    NOTICED = "noticed"
    SURVIVED = "survived"  # the named tests passed
    WRONG = "wrong"  # the entry, or how the test failed, is not what the list says


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    mutant: Mutant
    end: End
    why: str = ""
    seconds: float = 0.0
    broken: bool = False  # its test fails without it

    def plain(self) -> dict[str, object]:
        return {**asdict(self.mutant), "end": self.end.value, "why": self.why, "seconds": round(self.seconds, 2)}


@dataclass(slots=True)
class Report:
    """What one child tells: of each failed test its id, the phase, and the error; whether the mutant was imported."""

    failures: list[tuple[str, str, str, str]] = field(default_factory=list)  # id, phase, kind of error, its first line
    passed: int = 0
    skipped: int = 0
    used: bool = False
    trouble: str = ""


def preload() -> None:
    """What every child needs and no mutant touches."""
    bytecode.keep()
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    ours = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    net.share = WAITING
    gc.collect()
    gc.freeze()  # a child that collects garbage would copy every page
    assert not ours, f"a module of ours was imported before it could be mutated: {ours[0]}"


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A folder for everything the children write, in memory if there is room: a test waits for the disk otherwise."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > ROOM
    with tempfile.TemporaryDirectory(prefix="m-", dir=shared if roomy else None) as name:
        os.environ["BASTION_TEST_FILLED"] = str(Path(name) / "filled")
        yield Path(name)


def check_tests(mutants: Sequence[Mutant], jobs: int, folder: Path, root: Path = ROOT) -> dict[str, str]:
    """Run what the mutants name without any mutation: the files with a test that does not pass, and why.

    What fails beside another is run once more alone: whether it always passes is the business of the tests themselves.
    """
    files: dict[str, set[str]] = {}
    for mutant in mutants:
        for test in mutant.tests:
            files.setdefault(test.partition("::")[0], set()).add(test)
    longest = sorted(files.items(), key=lambda one: -len(one[1]))  # first, so that none is waited for alone
    work = [(name, _in_order(root / name, tests), None) for name, tests in longest]
    failed = _failing(work, jobs, folder, root)
    again = {test.partition("::")[0] for test in failed}
    return _failing([one for one in work if one[0] in again], 1, folder, root) if failed and jobs > 1 else failed


def _failing(work: Sequence[tuple[str, list[str], None]], jobs: int, folder: Path, root: Path) -> dict[str, str]:
    failed: dict[str, str] = {}
    for name, report, _ in _in_children(work, jobs, root, folder, patience=5 * PATIENCE):
        trouble = report.trouble or ("a named test is skipped here" if report.skipped else "")
        for test, phase, kind, line in report.failures:
            failed[test.partition("[")[0]] = f"fails without a mutation, in {phase}: {kind}: {line}"
        if trouble and not report.failures:
            failed[name] = trouble
    return failed


def _in_order(path: Path, tests: set[str]) -> list[str]:
    """As they stand in the file: some share a fixture and count on who came before."""
    text = path.read_text()
    return sorted(tests, key=lambda test: (text.find(f"def {test.rpartition('::')[2].partition('[')[0]}("), test))


def run(mutants: Sequence[Mutant], jobs: int, folder: Path, root: Path = ROOT) -> Iterator[Result]:
    """One result per mutant, as they come."""
    work = [(mutant, list(mutant.tests), mutant) for mutant in mutants]
    for mutant, report, seconds in _in_children(work, jobs, root, folder, patience=PATIENCE):
        end, why = judge(mutant, report)
        yield Result(mutant=mutant, end=end, why=why, seconds=seconds)


def judge(mutant: Mutant, report: Report) -> tuple[End, str]:
    """A test has to fail where it tests, by an assertion or by the error that the entry expects."""
    if report.trouble:
        return End.WRONG, report.trouble
    if not report.failures:
        if not report.used:
            return End.SURVIVED, "nothing imports the module"
        return End.SURVIVED, "the tests pass" if report.passed else "the tests were skipped"
    _, phase, kind, line = report.failures[0]
    if phase != "call":
        return End.WRONG, f"failed in {phase}, not in the test: {kind}: {line}"
    wanted = mutant.escapes or ASSERTION
    if kind != wanted:
        return End.WRONG, f"failed by {kind}, want {wanted}: {line}"
    return End.NOTICED, line


# --- children ---------------------------------------------------------------------------------------


_NUMBERS: Final = itertools.count()


@dataclass(slots=True)
class _Child:
    key: Any
    pid: int
    folder: Path
    began: float
    answer: bytearray = field(default_factory=bytearray)


def _in_children(
    work: Sequence[tuple[Any, list[str], Mutant | None]], jobs: int, root: Path, folder: Path, *, patience: float
) -> Iterator[tuple[Any, Report, float]]:
    """(key, report, seconds) of each piece of work, at most `jobs` at a time."""
    waiting = list(reversed(work))
    running: dict[int, _Child] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    key, tests, mutant = waiting.pop()
                    handle, child = _start(folder, key, tests, mutant, root)
                    running[handle] = child
                    selector.register(handle, selectors.EVENT_READ)
                for ready, _ in selector.select(timeout=1.0):
                    child = running[ready.fd]
                    if data := os.read(ready.fd, 65536):
                        child.answer += data
                        continue
                    selector.unregister(ready.fd)
                    os.close(ready.fd)
                    del running[ready.fd]
                    os.waitpid(child.pid, 0)
                    yield child.key, _read_report(child), time.monotonic() - child.began
                    shutil.rmtree(child.folder, ignore_errors=True)
                for child in running.values():
                    if time.monotonic() - child.began > patience:
                        child.answer[:] = json.dumps({"trouble": f"hung for {patience:g} s"}).encode()
                        os.killpg(child.pid, signal.SIGKILL)
        finally:
            for child in running.values():
                os.killpg(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)


def _start(base: Path, key: Any, tests: list[str], mutant: Mutant | None, root: Path) -> tuple[int, _Child]:
    folder = base / str(next(_NUMBERS))  # short, since tests make sockets below it
    folder.mkdir()
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)  # what a test leaves behind dies with it
        os.close(reading)
        _child(folder, tests, mutant, root, lambda data: os.write(writing, data))
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    os.close(writing)
    return reading, _Child(key=key, pid=pid, folder=folder, began=time.monotonic())


def _child(folder: Path, tests: list[str], mutant: Mutant | None, root: Path, tell: Callable[[bytes], object]) -> None:
    """In the child; never returns."""
    report = Report()
    try:
        quiet = os.open(folder / "output", os.O_WRONLY | os.O_CREAT, 0o600)
        for handle in (1, 2):
            os.dup2(quiet, handle)
        mark = install(mutant, folder, root) if mutant is not None else None
        forking.install()
        _run_pytest(report, folder, tests, root, stop=mutant is not None)
        report.used = mark is not None and mark.exists()
    except BaseException as error:
        report.trouble = f"the tests did not run: {type(error).__name__}: {error}"
    finally:
        tell(json.dumps(asdict(report)).encode())
        os._exit(0)


def _run_pytest(report: Report, folder: Path, tests: list[str], root: Path, *, stop: bool) -> None:
    import pytest

    os.chdir(root)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # looking for them costs as much as most tests
    words = ["-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", "--tb=line", "-p", "no:cacheprovider"]
    words += [word for name in PLUGINS for word in ("-p", name)]
    words += [f"--basetemp={folder / 't'}", f"--rootdir={root}", *(["-x"] if stop else []), *tests]
    code = pytest.main(words, plugins=[_Recorder(report)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or (code and not report.failures):
        output = (folder / "output").read_text(errors="replace").strip()
        report.trouble = f"the tests did not run ({pytest.ExitCode(code).name.lower()}): {_telling(output)}"


class _Recorder:
    """A pytest plugin that keeps how tests ended, and looks for no smaller example than the first that fails."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def pytest_sessionstart(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile("first", settings.default, phases=[Phase.explicit, Phase.generate])
        settings.load_profile("first")

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        error = call.excinfo.value
        while isinstance(error, BaseExceptionGroup):  # as trio's nurseries wrap it
            error = error.exceptions[0]
        kind = ASSERTION if isinstance(error, AssertionError) else type(error).__name__
        if kind == "Failed" and "Timeout" not in str(error):  # pytest's own: DID NOT RAISE
            kind = ASSERTION
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        self.report.failures.append((node.nodeid, getattr(report, "when", "collection"), kind, line[:200]))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.report.passed += report.when == "call" and report.passed
        self.report.skipped += report.skipped


def _telling(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith(("E ", "ERROR"))]
    return (lines or output.splitlines()[-1:] or ["it said nothing"])[0][:200]


def _read_report(child: _Child) -> Report:
    try:
        return Report(**json.loads(child.answer))
    except (ValueError, TypeError):
        return Report(trouble="the child died without a word")
