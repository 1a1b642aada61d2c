"""Operators' scripts, really run: what they are told, what their end means, and what they cannot do to us."""

import json
import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from bastion.runner import execution, scripts
from bastion.runner.execution import Whom
from policy.messages import RunScript, Worked
from tests.support.folders import public_folder
from tests.support.net import wait_until

NOBODY = pwd.getpwnam("nobody")
WHOM = Whom(owner=os.getuid(), uid=NOBODY.pw_uid, gid=NOBODY.pw_gid) if os.geteuid() == 0 else Whom(owner=os.getuid())
OLD, NEW = "first-Password-0815", "Second-Password-4711"


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as folder:
        yield folder


def script(folder: Path, text: str, mode: int = 0o755) -> Path:
    path = folder / "script"
    path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}")
    path.chmod(mode)
    return path


def order(**more: object) -> RunScript:
    given: dict[str, object] = {
        "task": 7, "script": "oracle", "action": "change", "account": "scott", "target": "db1", "address": "192.0.2.1",
        "port": 1521, "old": OLD.encode(), "new": NEW.encode(), "seconds": 20.0,
    } | more  # fmt: skip
    return RunScript(**given)  # type: ignore[arg-type]


def run(path: Path, whom: Whom = WHOM, **more: object) -> Worked:
    return trio.run(execution.run, order(**more), str(path), whom)


def test_it_is_told_everything_on_standard_input_and_nothing_else(folder: Path) -> None:
    told = folder / "told"
    told.mkdir(mode=0o777)
    told.chmod(0o777)
    path = script(
        folder,
        "#!/usr/bin/python3\nimport json, os, sys\n"
        f"json.dump([sys.argv[1:], json.load(sys.stdin), dict(os.environ), os.getcwd(), os.getuid(), os.getgroups(),"
        f" sorted(os.listdir('/proc/self/fd'))], open({str(told / 'it')!r}, 'w'))\n",
    )
    os.environ["SECRET_OF_OURS"] = "x"
    groups = os.getgroups()
    if WHOM.uid is not None:
        os.setgroups([4711])
    try:
        assert run(path) == Worked(task=7, outcome="done")
    finally:
        del os.environ["SECRET_OF_OURS"]
        if WHOM.uid is not None:
            os.setgroups(groups)
    argv, said, environment, cwd, uid, groups, handles = json.loads((told / "it").read_text())
    assert argv == ["change"]
    assert said == {
        "action": "change", "account": "scott", "target": "db1", "address": "192.0.2.1", "port": 1521,
        "old": OLD, "new": NEW,
    }  # fmt: skip
    environment.pop("LC_CTYPE", None)  # Python's own doing
    assert environment == dict(scripts.ENVIRONMENT)
    assert cwd == "/"
    assert uid == (WHOM.uid if WHOM.uid is not None else os.getuid())
    if WHOM.uid is not None:
        assert groups == []
    assert len(handles) <= 6, "nothing that is open here is open there"


@pytest.mark.parametrize(
    ("text", "outcome", "detail"),
    [
        ("exit 0", "done", ""),
        ("echo 'set it' >&2", "done", "set it"),
        ("echo no; echo first >&2; echo 'too short' >&2; exit 1", "refused", "too short"),
        ("exit 1", "refused", "the script ended with status 1"),
        ("exit 2", "unknown", "the script ended with status 2"),
        ("exit 77", "unknown", "the script ended with status 77"),
        ("kill -9 $$", "unknown", "the script was ended by signal 9"),
        ("exec /nowhere/at/all", "unknown", "not found"),
        ("cat >&2; exit 1", "refused", '"old": "[secret]", "new": "[secret]"}'),
        ("printf 'bad \\033[2J \\377 end' >&2; exit 1", "refused", "bad \\x1b[2J \N{REPLACEMENT CHARACTER} end"),
    ],
)
def test_what_its_end_means(text: str, outcome: str, detail: str, folder: Path) -> None:
    answer = run(script(folder, text))
    assert answer.outcome == outcome
    assert answer.detail.lower().endswith(detail.lower())
    assert NEW not in answer.detail


def test_it_need_not_read_what_it_is_told(folder: Path) -> None:
    assert run(script(folder, "exit 0"), new=b"x" * 200_000).outcome == "done"


def test_one_that_hangs_is_ended_with_all_that_it_started(folder: Path) -> None:
    mark = f"{os.getpid()}{time.monotonic_ns()}"
    path = script(folder, f"sleep 60.{mark} & sleep 61.{mark}")
    began = time.monotonic()
    answer = run(path, seconds=1.0)
    assert (answer.outcome, answer.detail) == ("unknown", "the script did not end within 1 seconds")
    assert time.monotonic() - began < 15
    wait_until("nothing is left of it", lambda: mark not in processes())


def test_what_it_leaves_behind_is_ended_and_not_waited_for(folder: Path) -> None:
    mark = f"{os.getpid()}{time.monotonic_ns()}"
    answer = run(script(folder, f"sleep 60.{mark} &\nexit 0"))
    assert answer.outcome == "done"
    wait_until("nothing is left of it", lambda: mark not in processes())


def processes() -> str:
    return subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("stream", [1, 2])
def test_one_that_talks_without_end(stream: int, folder: Path) -> None:
    answer = run(script(folder, f"yes >&{stream}"))
    assert answer.outcome == "unknown"
    assert "said more than" in answer.detail


@pytest.mark.parametrize(
    ("mode", "words"),
    [(0o775, "may be written by others"), (0o757, "may be written by others"), (0o644, "may not be run"),
     (0o4755, "changes the user")],
)  # fmt: skip
def test_a_file_that_is_not_run(mode: int, words: str, folder: Path) -> None:
    answer = run(script(folder, "exit 0", mode))
    assert answer.outcome == "unreachable"
    assert words in answer.detail


def test_what_is_no_file_of_its_owner(folder: Path) -> None:
    path = script(folder, "exit 0")
    link, fifo = folder / "link", folder / "fifo"
    link.symlink_to(path)
    os.mkfifo(fifo, 0o755)
    for other in (link, fifo, folder, folder / "nothing", Path("script")):
        answer = run(other)
        assert answer.outcome == "unreachable", other


@pytest.mark.skipif(os.geteuid() != 0, reason="to give a file to somebody else needs root")
def test_a_script_of_somebody_else(folder: Path) -> None:
    path = script(folder, "exit 0")
    os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    assert "belongs to user" in run(path).detail, "also of the user that it would run as"
    os.chown(path, 0, 0)
    assert run(path).outcome == "done"
    os.chown(folder, NOBODY.pw_uid, 0)
    assert "others may write" in run(path).detail


def test_a_folder_that_others_may_write_to(folder: Path) -> None:
    path = script(folder, "exit 0")
    folder.chmod(0o777)
    assert "others may write to" in run(path).detail
    folder.chmod(0o1777)  # as /tmp: nobody but the owner can put another file there
    assert run(path).outcome == "done"


def test_the_file_that_was_looked_at_is_the_one_that_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: another file under the same path between the check and the run."""
    path = script(folder, "exit 0")
    real = scripts.open_script

    def swapped(name: str, owner: int) -> int:
        handle = real(name, owner)
        path.unlink()
        script(folder, "exit 1")
        return handle

    monkeypatch.setattr(scripts, "open_script", swapped)
    assert run(path).outcome == "done"


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
def test_nothing_runs_as_root(folder: Path) -> None:
    answer = run(script(folder, "exit 0"), Whom(owner=0))
    assert answer.outcome == "unreachable"
    assert "set `user`" in answer.detail


@pytest.mark.parametrize("wrong", [{"action": "drop"}, {"new": b"\xff"}])
def test_an_order_that_is_none(wrong: dict[str, object], folder: Path) -> None:
    assert run(script(folder, "exit 0"), **wrong).outcome == "unreachable"


def test_words_of_anybody_stay_words(folder: Path) -> None:
    told = folder / "told"
    told.mkdir()
    told.chmod(0o777)
    path = script(folder, f'cat > {told}/it; echo "$@" > {told}/argv')
    hostile = '"; touch /tmp/x; $(id) `id` \\ \n'
    assert run(path, account=hostile, target=hostile).outcome == "done"
    assert json.loads((told / "it").read_text())["account"] == hostile
    assert (told / "argv").read_text() == "change\n"
