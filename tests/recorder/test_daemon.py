"""The real daemon: what it promises to a gateway."""

from pathlib import Path

from recorder.model import Event, Kind
from recorder.reader import open_recording, verify, verify_content
from tests.recorder.daemon import PRIVATE, running


def test_what_was_acknowledged_is_in_the_recording(tmp_path: Path) -> None:
    typed = [Event(Kind.INPUT, 1, 10, b"l"), Event(Kind.OUTPUT, 1, 12, b"l"), Event(Kind.INPUT, 1, 12, b"s")]
    with running(tmp_path) as daemon, daemon.client() as client:
        path = daemon.recordings / client.open()
        for event in typed:
            client.append(event)
            client.acked()
        assert verify(path, None).status == "open"
        assert list(open_recording(path).events()) == typed
        client.end("killed")
        recording = open_recording(path)
        *events, last = recording.events()
        assert events == typed
        assert (last.kind, recording.complete) == (Kind.ACCESS, True)
        assert recording.private == PRIVATE
        assert verify(path, daemon_key(daemon)).status == "ok"
        assert verify_content(recording) == []


def daemon_key(daemon: object) -> bytes:
    with daemon.client() as client:  # type: ignore[attr-defined]
        return client.health().node_key
