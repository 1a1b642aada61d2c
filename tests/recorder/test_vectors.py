"""Each vector of FORMAT.md shows what it must show."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from recorder.model import KeyClass
from recorder.reader import RecordingError, open_recording, verify_content
from recorder.verdict import verify
from tests.recorder.studio import NODE_PUBLIC

FOLDER = Path(__file__).parents[1] / "vectors"
VECTORS: list[dict[str, Any]] = json.loads((FOLDER / "vectors.json").read_text())
AUDITOR = X25519PrivateKey.from_private_bytes(b"auditor." * 4)


def test_there_are_enough() -> None:
    assert sum(1 for vector in VECTORS if vector["problem"] or vector["reading"]) >= 15
    assert {path.stem for path in FOLDER.glob("*.brec")} == {vector["name"] for vector in VECTORS}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    file = FOLDER / f"{vector['name']}.brec"
    verdict = verify(file, NODE_PUBLIC)
    assert verdict.status == vector["status"], verdict
    if vector["problem"] is None:
        assert verdict.problems == []
    else:
        assert vector["problem"] in verdict.problems[0]
    if vector["events"] is None:
        with pytest.raises(RecordingError, match=vector["reading"]):
            open_recording(file)
        return
    recording = open_recording(file, [AUDITOR])
    found = [[event.kind, event.channel, event.ms, event.data.hex()] for event in recording.events()]
    assert found == vector["events"]
    if vector["reading"] is None:
        assert recording.problems == [] or verdict.status == "altered"
    else:
        assert vector["reading"] in " ".join(recording.problems)
    if verdict.status == "ok" and vector["reading"] is None:
        assert verify_content(recording) == []


def test_without_the_key_only_what_is_public() -> None:
    recording = open_recording(FOLDER / "auditor.brec")
    assert (recording.public, recording.private) == ({"protocol": "ssh"}, None)
    assert list(recording.events()) == []
    assert recording.skipped_classes == frozenset(KeyClass)
