"""The bench itself: its arithmetic, and one round of its cheapest benchmark. No figure is asserted."""

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

from recorder.model import Kind
from recorder.reader import open_recording, verify
from tests.bench import __main__ as bench
from tests.bench import corpus, recording
from tests.bench.figures import Figure, Goal, Samples, Shot, fire_all, quantile
from tests.bench.report import cells, markdown
from tests.recorder.studio import NODE_PUBLIC
from tests.support.sshd import SSHD


def test_each_round_fires_every_shot_once() -> None:
    fired: list[str] = []
    shots = [Shot(name, lambda name=name: fired.append(name) or {"x": 1.0}) for name in "abc"]
    samples = Samples()
    assert list(fire_all(shots, 4, random.Random(1), samples)) == fired
    assert [sorted(fired[at : at + 3]) for at in range(0, 12, 3)] == [["a", "b", "c"]] * 4
    assert samples.of("b", "x") == [1.0] * 4


def test_a_ratio_is_taken_within_each_round() -> None:
    samples = Samples()
    for ours, theirs in ((100.0, 50.0), (10.0, 5.0), (1.0, 1.0)):  # the machine got slower from round to round
        samples.add("ours", {"MB/s": ours})
        samples.add("theirs", {"MB/s": theirs})
    assert samples.ratio("MB/s", "ours", "theirs") == 2.0
    assert samples.added("MB/s", "ours", "theirs") == 5.0
    assert samples.median("ours", "MB/s") == 10.0
    with pytest.raises(KeyError, match="no `ms` of `ours`"):
        samples.of("ours", "ms")


def test_quantiles_are_measured_values() -> None:
    assert quantile(range(100), 0.5) == 50
    assert quantile(range(100), 0.99) == 99
    assert quantile([7.0], 0.99) == 7.0


def test_a_missed_goal_is_marked() -> None:
    kept = Figure(what="speed", measured={"bastion": 1234.0}, unit="MB/s", value=1.2, goal=Goal(">=", 1.1))
    missed = Figure(what="wait | p50", value=2.0, value_unit="ms", goal=Goal("<=", 1.5))
    assert cells(kept) == ["speed", "", "", "1,234", "", "MB/s", "1.20 ×", "≥ 1.10 ×"]
    facts = dict.fromkeys(("machine", "openssh", "python", "date", "rounds", "minutes"), "x")
    lines = markdown([kept, missed], facts, "make bench").splitlines()
    assert lines[-2] == "| speed |  |  | 1,234 |  | MB/s | **1.20 ×** | ≥ 1.10 × |"
    assert lines[-1] == "| wait \\| p50 |  |  |  |  |  | **2.00 ms** ✗ | ≤ 1.50 ms |"


def test_a_played_session_is_recorded_and_weighed(tmp_path: Path) -> None:
    moments = corpus.admin(random.Random(1), 2)
    shelf = recording.Shelf(tmp_path)
    path = shelf.record(moments)
    assert verify(path, NODE_PUBLIC).status == "ok"
    shown = b"".join(
        event.data for event in open_recording(path, recording.AUDITORS).events() if event.kind == Kind.OUTPUT
    )
    assert shown == b"".join(moment.data for moment in moments if moment.kind == Kind.OUTPUT)
    assert recording.asciicast(moments) > 100
    assert [figure.what for figure in recording.seeks([path])] == ["seeking, p99"]


@pytest.mark.e2e
@pytest.mark.skipif(not (shutil.which("ssh") and Path(SSHD).exists()), reason="needs ssh and sshd")
def test_one_round_of_the_cheapest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = tmp_path / "bench.json"
    words = ["--quick", "--rounds", "1", "--only", "refused", "--json", str(result), "--markdown", str(tmp_path / "md")]
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    assert bench.main() == 0
    found = json.loads(result.read_text())
    assert [figure["what"] for figure in found["figures"]] == ["CPU of the gateway for a failed login"]
    assert found["figures"][0]["value"] > 0
    assert "| CPU of the gateway for a failed login" in (tmp_path / "md").read_text()
