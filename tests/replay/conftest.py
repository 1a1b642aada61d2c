"""One recorderd and one policyd for all tests of the auditor's tool; what was recorded, made once."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from replay.cli import main
from tests.policy.policyd import Policyd
from tests.recorder.daemon import running
from tests.replay.recordings import MIXED, SHELL, Made, Studio


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with running(tmp_path_factory.mktemp("studio")) as daemon, noting(daemon.folder):
        yield Studio(daemon)


@contextmanager
def noting(folder: Path) -> Iterator[Policyd]:
    """A policyd beside the recorderd of `folder`, which keeps who looks."""
    (folder / "policy.toml").write_text("")
    policyd = Policyd(folder).initialise().start()
    try:
        yield policyd
    finally:
        policyd.stop()


@pytest.fixture(scope="session")
def shelled(studio: Studio) -> Made:
    """A shell session of alice."""
    return studio.record(SHELL)


@pytest.fixture(scope="session")
def mixed(studio: Studio) -> Made:
    """An exec, sftp, a forward and a denial, of bob, killed by carol."""
    return studio.record(MIXED, "killed", "carol", person="bob", target="db1")


@dataclass(frozen=True)
class Said:
    """What a command wrote."""

    out: str
    err: str
    code: int


Replay = Callable[..., Said]


@pytest.fixture
def replay(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Replay:
    """Run `replay` on what the studio has recorded, into pipes; in this process, because Python starts slowly."""
    monkeypatch.setenv("BASTION_DEBUG", "1")  # an internal error is a traceback and fails the test
    monkeypatch.setenv("TZ", "UTC")

    def run(*words: str | Path, config: Path | None = studio.config, given: str = "", code: int = 0) -> Said:
        place = ["-c", str(config)] if config and words and words[0] not in ("keygen", "--help") else []
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape", write_through=True) for _ in range(2))
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            main([*map(str, words), *place])
        said = Said(
            *(stream.buffer.getvalue().decode("utf-8", "surrogateescape") for stream in (out, err)), end.value.code
        )
        assert said.code == code, said.err + said.out
        return said

    return run
