"""The runner tells apart: noticed, survived, and entries or tests that are not what the list says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.mutant import ROOT, guards, select

GUARD = """
def may(age: int) -> bool:
    if age < 0:
        raise ValueError("born tomorrow")
    if age < 18:
        return False
    return True
"""
TESTS = """
import pytest
from toy.guard import may

def test_children():
    assert not may(17)

def test_adults():
    assert may(18)

def test_the_unborn():
    with pytest.raises(ValueError):
        may(-1)

def test_that_is_broken():
    assert may(5)
"""
LIST = """
from tests.mutation.mutant import guards

GUARDS = [
    *guards(
        "toy/guard.py", "toy/test_guard.py",
        ("if age < 18:", "if False:", "a child", "test_children"),
        ("if age < 0:", "if False:", "the unborn", "test_the_unborn"),
        ("if age < 18:", "if age < 5:", "a weak test", "test_adults"),
        ("if age < 18:", "if age < eighteen:", "another error", "test_children"),
        ("if age < 21:", "if False:", "no such text", "test_children"),
        ("return", "pass", "twice", "test_children"),
        ("if age < 18:", "if age < :", "no Python", "test_children"),
        ("if age < 18:", "if age < 17:", "no such test", "test_nothing"),
        ("if age < 18:", "if age < 16:", "a broken test", "test_that_is_broken"),
    )
]
"""
ENDS = {
    "a child": ("noticed", ""),
    "the unborn": ("noticed", "DID NOT RAISE"),
    "a weak test": ("survived", "the tests pass"),
    "another error": ("wrong", "failed by NameError"),
    "no such text": ("wrong", "stands 0 times"),
    "twice": ("wrong", "stands 2 times"),
    "no Python": ("wrong", "no Python"),
    "no such test": ("wrong", "no such test"),
    "a broken test": ("wrong", "fails without a mutation"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    home = tmp_path_factory.mktemp("toy")
    (home / "toy").mkdir()
    for name, text in (("__init__", ""), ("guard", GUARD), ("test_guard", TESTS), ("toy_list", LIST)):
        (home / "toy" / f"{name}.py").write_text(text)
    code = (
        f"import sys; sys.path[:0] = [{str(home)!r}, {str(ROOT)!r}]; sys.argv[0] = 'mutation'\n"
        "from tests.mutation.__main__ import main; sys.exit(main())"
    )
    words = ["--lists", "toy.toy_list", "--root", str(home), "--json", str(home / "out.json"), "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=home, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 1, done.stderr
    return {one["attack"]: one for one in json.loads((home / "out.json").read_text())}


@pytest.mark.parametrize("attack", ENDS)
def test_each_end_by_its_cause(results: dict[str, dict[str, str]], attack: str) -> None:
    end, why = ENDS[attack]
    assert results[attack]["end"] == end, results[attack]
    assert why in results[attack]["why"]


def test_mutants_are_chosen_by_words() -> None:
    made = guards("a/b.py", "t.py", ("x", "y", "one thing", "test_x"), ("z", "y", "other", "u.py::test_z"))
    assert [one.attack for one in select(made, "a.b one")] == ["one thing"]
    assert [one.tests for one in made] == [("t.py::test_x",), ("u.py::test_z",)]
    assert made[0].module == "a.b"


def test_every_entry_of_the_lists_is_one() -> None:
    """What a run would refuse before it begins, told in the unit tests: a text that has changed, a test renamed."""
    from tests.mutation.__main__ import all_guards

    problems = [f"{one.name}: {why}" for one in all_guards() if (why := one.problem())]
    assert problems == []
    assert Path(ROOT / "tests/mutation").is_dir()
