"""A few hundred inputs at each parser, always the same ones; `make fuzz` tries more."""

import pytest

from tests.fuzz.engine import mutate, pieces, run, script
from tests.fuzz.registry import CORPUS, Target, load

TARGETS = load()
COUNT = 300
SEED = 1


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_only_declared_errors(target: Target) -> None:
    finding = run(target, COUNT, SEED)
    assert finding is None, f"{finding.error}\n{finding.data.hex()}"


def test_the_corpus_belongs_to_targets() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= set(TARGETS)


def test_a_run_follows_from_its_seed() -> None:
    from random import Random

    samples = [b"sample", b"other"]
    first, second = Random("1"), Random("1")
    assert [mutate(first, samples) for _ in range(50)] == [mutate(second, samples) for _ in range(50)]


def test_a_bug_is_found() -> None:
    def buggy(data: bytes) -> None:
        if len(data) > 4:
            data.decode()

    target = Target(name="buggy", parse=buggy, errors=(ValueError,), samples=(b"hello",), slow=1)
    assert run(target, 300, SEED) is None  # UnicodeDecodeError is a ValueError
    target = Target(name="buggy", parse=buggy, errors=(), samples=(b"hello",), slow=1)
    finding = run(target, 300, SEED)
    assert finding is not None
    assert finding.error.startswith("UnicodeDecodeError")


def test_scripts() -> None:
    steps = [(1, b"one"), (2, b"")]
    assert pieces(script(*steps)) == steps
    assert pieces(script(*steps)[:-4]) == [(1, b"on")]
