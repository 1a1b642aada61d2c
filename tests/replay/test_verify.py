"""`replay verify`: ok, altered, truncated, open, missing, each with its exit code; offline, without a key to read."""

import json
import shutil
from pathlib import Path

import pytest

from tests.recorder.daemon import running
from tests.replay.conftest import Replay
from tests.replay.recordings import MIXED, SHELL, Made, Studio


@pytest.fixture
def own(tmp_path: Path) -> Studio:
    """Three recordings on a node of their own; its daemon has ended."""
    with running(tmp_path) as daemon:
        studio = Studio(daemon)
        for _ in range(3):
            studio.record(SHELL)
    return studio


def files(studio: Studio) -> list[Path]:
    return sorted(studio.directory.rglob("*.brec"))


def test_whole_recordings_are_ok(replay: Replay, own: Studio) -> None:
    said = replay("verify", "--all", config=own.config)
    assert said.out == "3 recordings: 3 ok\n"
    assert said.err == ""
    one = files(own)[0]
    assert f"{one.stem}: ok (" in replay("verify", one.stem[:16], config=own.config).out


@pytest.mark.parametrize("where", [0.05, 0.3, 0.5, 0.9, 0.999])
def test_one_flipped_bit_is_found(replay: Replay, shelled: Made, tmp_path: Path, where: float) -> None:
    data = bytearray(shelled.path.read_bytes())
    data[int(len(data) * where)] ^= 1
    copy = tmp_path / "copy.brec"
    copy.write_bytes(data)
    assert "copy: altered at byte" in replay("verify", copy, code=1).out


def test_a_cut_is_told_from_an_alteration(replay: Replay, shelled: Made, tmp_path: Path) -> None:
    data = shelled.path.read_bytes()
    copy = tmp_path / "copy.brec"
    copy.write_bytes(data[: len(data) * 2 // 3])
    assert "copy: truncated at byte" in replay("verify", copy, code=2).out


def test_something_appended_is_found(replay: Replay, shelled: Made, tmp_path: Path) -> None:
    copy = tmp_path / "copy.brec"
    copy.write_bytes(shelled.path.read_bytes() + b"x")
    replay("verify", copy, code=1)


def test_a_missing_recording_is_named(replay: Replay, own: Studio) -> None:
    gone = files(own)[1]
    gone.unlink()
    said = replay("verify", "--all", config=own.config, code=3)
    assert f"{gone.stem}: missing" in said.out
    assert said.out.endswith("3 recordings: 1 missing, 2 ok\n")


def test_the_gravest_finding_is_the_exit_code(replay: Replay, own: Studio) -> None:
    one, two, _ = files(own)
    one.unlink()
    two.write_bytes(two.read_bytes()[:-1] + b"\xff")
    found = json.loads(replay("verify", "--all", "--json", config=own.config, code=1).out)
    assert sorted(row["status"] for row in found) == ["altered", "missing", "ok"]


def test_a_lost_list_does_not_hide_what_is_missing(replay: Replay, own: Studio) -> None:
    (own.directory / "node.log").unlink()
    assert "node.log: missing" in replay("verify", "--all", config=own.config, code=3).out


def test_an_altered_list_is_found(replay: Replay, own: Studio) -> None:
    log = own.directory / "node.log"
    data = bytearray(log.read_bytes())
    data[len(data) // 3] ^= 1
    log.write_bytes(data)
    assert "node.log: altered" in replay("verify", "--all", config=own.config, code=1).out


def test_recordings_of_another_node_are_refused(replay: Replay, own: Studio, shelled: Made, tmp_path: Path) -> None:
    key = tmp_path / "kept.pub"
    shutil.copy(own.directory / "node.pub", key)
    said = replay("verify", shelled.path, "--node-key", key, config=None, code=1)
    assert "signed by another node" in said.out
    assert "own key was not checked" not in said.err


def test_without_the_node_key_it_says_so(replay: Replay, shelled: Made) -> None:
    assert "the node's key was not checked" in replay("verify", shelled.path, config=None).err


def test_since(replay: Replay, own: Studio) -> None:
    assert replay("verify", "--since", "2001-01-01", config=own.config).out == "3 recordings: 3 ok\n"
    assert replay("verify", "--since", "0m", config=own.config).out == "0 recordings: none\n"


def test_misuse(replay: Replay, shelled: Made) -> None:
    assert "name one recording, or --all" in replay("verify", code=64).err
    assert "name one recording, or --all" in replay("verify", shelled.session, "--all", code=64).err
    assert "not a node's public key" in replay("verify", "--all", "--node-key", shelled.path, code=64).err


def test_with_the_key_the_content_is_compared(replay: Replay, tmp_path: Path) -> None:
    replay("keygen", tmp_path / "auditor")
    with running(tmp_path, auditors=[str(tmp_path / "auditor.pub")]) as daemon:
        studio = Studio(daemon)
        made = studio.record(MIXED)
        (row,) = json.loads(
            replay("verify", made.session, "--key", tmp_path / "auditor", "--json", config=studio.config).out
        )
        assert (row["status"], row["content"]) == ("ok", True)
        (row,) = json.loads(replay("verify", made.session, "--json", config=studio.config).out)
        assert (row["status"], row["content"]) == ("ok", False)


@pytest.mark.parametrize("words", [["show"], ["play"], ["export", "--format", "text"], ["export", "--format", "jsonl"]])
def test_nobody_takes_a_damaged_recording_for_the_whole_story(
    replay: Replay, mixed: Made, tmp_path: Path, words: list[str]
) -> None:
    data = bytearray(mixed.path.read_bytes())
    data[len(data) // 2] ^= 1
    copy = tmp_path / "copy.brec"
    copy.write_bytes(data)
    assert "replay: it is damaged: replay verify" in replay(*words, copy).err
