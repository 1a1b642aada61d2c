"""Nothing of a recording is shown before policyd has noted who looks: real replay processes, a real policyd."""

import hashlib
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policy import messages as m
from tests.policy.policyd import Policyd
from tests.recorder.daemon import running
from tests.replay.conftest import Replay, noting
from tests.replay.recordings import SHELL, Made, Studio, exited, out, shell
from tests.replay.watcher import Watcher
from tests.support.net import wait_until
from tests.support.site import stopped

ME = f"uid {pwd.getpwuid(os.geteuid()).pw_name}"
UNTOLD = "replay: this copy belongs to no bastion here: nobody is told that it is read\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Studio, Policyd]]:
    """A bastion that these tests may hurt: each leaves its policyd running."""
    with running(tmp_path_factory.mktemp("views")) as daemon, noting(daemon.folder) as policyd:
        yield Studio(daemon), policyd


@pytest.fixture(scope="module")
def made(place: tuple[Studio, Policyd]) -> Made:
    return place[0].record(SHELL)


def events(policyd: Policyd, session: str) -> list[dict[str, str]]:
    """What the trail has about a recording, oldest first."""
    rows = policyd.done(m.AuditExport(what=session)).rows
    found = [json.loads(body) for _, body, _ in rows]
    return [event | event.get("detail", {}) for event in found if event["event"] in ("view", "export", "viewed")]


def started(studio: Studio, *words: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
    place = ["-c", str(studio.config)]
    return subprocess.Popen(
        [sys.executable, "-m", "replay", *map(str, words), *place],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def ended(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


def has_socket(pid: int) -> bool:
    """Whether a process has come to the point at which it talks to policyd."""
    for name in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(name).startswith("socket:"):
                return True
        except OSError:
            continue
    return False


# --- what is noted ---------------------------------------------------------------------------------------


def test_show_play_and_export_are_noted(place: tuple[Studio, Policyd], tmp_path: Path) -> None:
    studio, policyd = place
    made = studio.record(SHELL)
    cast = tmp_path / "cast"
    for words in (
        ["show", made.session, "--reason", "ticket 4711"],
        ["play", made.session[:20], "--from", "5", "--input"],
        ["export", made.path, "--format", "asciicast", "--channel", "0", "--output", cast],
    ):
        code, _, err = ended(started(studio, *words))
        assert code == 0, err
    shown, played, over, exported, written = events(policyd, made.session)
    assert {event["who"] for event in (shown, played, over, exported, written)} == {ME}
    assert (shown["event"], shown["verb"], shown["why"]) == ("view", "show", "ticket 4711")
    assert (played["verb"], played["range"]) == ("play", "from 5, input")
    assert (over["event"], over["view"], over["until"]) == ("viewed", str(played["seq"]), "0:00:10")
    assert (exported["event"], exported["format"], exported["range"]) == ("export", "asciicast", "channel 0")
    data = cast.read_bytes()
    assert (written["bytes"], written["sha256"]) == (str(len(data)), hashlib.sha256(data).hexdigest())


def test_an_export_into_a_pipe_is_what_was_noted(place: tuple[Studio, Policyd]) -> None:
    studio, policyd = place
    made = studio.record([shell(), out(1, "✓ \udcff".encode("utf-8", "surrogateescape")), exited(2)])
    process = started(studio, "export", made.session, "--format", "jsonl", env={**os.environ, "LC_ALL": "C"})
    data = process.communicate(timeout=60)[0]
    assert events(policyd, made.session)[-1]["sha256"] == hashlib.sha256(data).hexdigest()
    process = started(studio, "export", made.session, "--format", "text")
    data = process.communicate(timeout=60)[0]
    assert events(policyd, made.session)[-1]["sha256"] == hashlib.sha256(data).hexdigest()


def test_how_far_it_was_watched(place: tuple[Studio, Policyd]) -> None:
    studio, policyd = place
    made = studio.record(SHELL)
    with Watcher(made.session, "--speed", "0.1", config=studio.config) as auditor:
        auditor.sees("root@web1")
        auditor.press("g5\r")
        auditor.sees("0:05 / 0:10")
        auditor.press("q")
        assert auditor.ends() == 0
    view, over = events(policyd, made.session)
    assert view["verb"] == "play"
    assert over["until"] in ("0:00:05", "0:00:06")


def test_a_player_that_was_killed(place: tuple[Studio, Policyd]) -> None:
    studio, policyd = place
    made = studio.record(SHELL)
    with Watcher(made.session, "--speed", "0.1", config=studio.config) as auditor:
        auditor.sees("root@web1")
        auditor.process.send_signal(signal.SIGKILL)
    wait_until("the end in the trail", lambda: len(events(policyd, made.session)) == 2)
    assert events(policyd, made.session)[1]["why"] == "it did not say how it ended"


def test_ls_and_verify_show_nothing_and_note_nothing(place: tuple[Studio, Policyd], made: Made) -> None:
    studio, policyd = place
    before = len(events(policyd, made.session))
    for words in (["ls"], ["verify", made.session], ["verify", "--all"]):
        code, _, err = ended(started(studio, *words))
        assert code in (0, 2), err
    assert len(events(policyd, made.session)) == before


# --- and if it cannot be noted ----------------------------------------------------------------------------

WORDS = (["show"], ["show", "--json"], ["play"], ["export", "--format", "jsonl"], ["export", "--format", "asciicast"])


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_nothing_is_shown_while_policyd_stands_still(
    place: tuple[Studio, Policyd], made: Made, words: list[str]
) -> None:
    """The event is in the chain before output appears: while it cannot get there, not one byte does."""
    studio, policyd = place
    assert policyd.process is not None
    before = len(events(policyd, made.session))
    with stopped(policyd.process.pid):
        process = started(studio, *words, made.session)
        assert process.stdout is not None
        wait_until("replay to ask", lambda: has_socket(process.pid))
        assert not select.select([process.stdout], [], [], 0.7)[0], "it shows something"
        assert process.poll() is None
    code, said, err = ended(process)
    assert code == 0, err
    assert "uname" in said or "shell" in said
    assert len(events(policyd, made.session)) > before


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_without_policyd_nothing_is_shown(place: tuple[Studio, Policyd], made: Made, words: list[str]) -> None:
    studio, policyd = place
    policyd.stop()
    try:
        code, said, err = ended(started(studio, *words, made.session))
    finally:
        policyd.start()
    assert (code, said) == (69, "")
    where = f"{studio.daemon.folder}/run/policyd-audit.sock"
    assert err == (
        f"replay: views are noted by policyd, and it is not running at `{where}`\n"
        f"replay: start it with: bastion run -c {studio.config}\n"
    )


def test_an_export_without_its_digest_in_the_trail_has_no_name(
    place: tuple[Studio, Policyd], made: Made, tmp_path: Path
) -> None:
    """policyd dies between the first byte and the last."""
    studio, policyd = place
    part = tmp_path / ".export.part"
    os.mkfifo(part)  # opening it waits for us, after the view was noted
    process = started(studio, "export", made.session, "--format", "text", "--output", tmp_path / "export")
    with part.open("rb") as file:
        policyd.kill()
        try:
            assert b"root@web1" in file.read()
            code, _, err = ended(process)
        finally:
            policyd.start()
    assert code == 69
    assert "policyd" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_who_may_not_view_is_told_so(place: tuple[Studio, Policyd], made: Made) -> None:
    studio, policyd = place
    text = studio.config.read_text()
    studio.config.write_text(text + '[policy]\nviewers = ["somebody-else"]\n')
    policyd.restart()
    try:
        code, said, err = ended(started(studio, "play", made.session))
        (event,) = policyd.audit("view-refused")
    finally:
        studio.config.write_text(text)
        policyd.restart()
    assert (code, said) == (77, "")
    cause, hint = err.splitlines()
    assert "may not view recordings" in cause
    assert hint.endswith(f"[policy] viewers in bastion.toml  [{event['ref']}]")


def test_something_else_at_the_socket(replay: Replay, shelled: Made, studio: Studio, tmp_path: Path) -> None:
    """A peer that answers nonsense, or hangs up, is no leave to show anything."""
    import socket
    import threading

    (tmp_path / "bastion.toml").write_text(f'[bastion]\nstate = "{studio.daemon.folder}/state"\n')
    (tmp_path / "run").mkdir()
    for answer in (b"", b"\xc1", m.encode(1, m.Done(text="fine")), m.encode(1, m.Allowed())):
        path = tmp_path / "run/policyd-audit.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen()

            def serve(listener: socket.socket = listener, answer: bytes = answer) -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(65536)
                    if answer:
                        peer.send(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            said = replay("show", shelled.session, config=tmp_path / "bastion.toml", code=69)
            thread.join(10)
        assert said.out == ""
        assert "policyd" in said.err


# --- whose recordings ---------------------------------------------------------------------------------------


def test_a_copy_is_read_and_that_nobody_was_told_is_said_once(
    replay: Replay, place: tuple[Studio, Policyd], made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, policyd = place
    monkeypatch.chdir(tmp_path)
    shutil.copy(made.path, tmp_path / "copy.brec")
    before = len(events(policyd, made.session))
    for words in (["show"], ["play"], ["export", "--format", "text"]):
        said = replay(*words, tmp_path / "copy.brec", config=None)
        assert said.err == UNTOLD
        assert said.out
    assert len(events(policyd, made.session)) == before
    assert UNTOLD not in replay("verify", tmp_path / "copy.brec", config=None).err


def test_a_whole_archive_elsewhere_is_a_copy(
    replay: Replay, place: tuple[Studio, Policyd], made: Made, tmp_path: Path
) -> None:
    studio, _ = place
    shutil.copytree(studio.directory, tmp_path / "archive", ignore=shutil.ignore_patterns("node.key"))
    assert replay("show", made.session, "--directory", tmp_path / "archive", config=None).err == UNTOLD


def test_a_link_into_the_recordings_is_no_copy(
    replay: Replay, place: tuple[Studio, Policyd], made: Made, tmp_path: Path
) -> None:
    studio, policyd = place
    before = len(events(policyd, made.session))
    (tmp_path / "days").symlink_to(studio.directory)
    assert replay("show", tmp_path / "days" / made.path.parent.name / made.path.name, config=None).err == ""
    assert replay("show", made.session, "--directory", tmp_path / "days", config=None).err == ""
    assert len(events(policyd, made.session)) == before + 2


def test_naming_the_folder_is_no_way_around(
    replay: Replay, place: tuple[Studio, Policyd], made: Made, tmp_path: Path
) -> None:
    """`--directory` alone, or with another bastion's -c: recordings are noted where they belong."""
    studio, policyd = place
    before = len(events(policyd, made.session))
    (tmp_path / "bastion.toml").write_text("")
    for config in (None, tmp_path / "bastion.toml"):
        assert replay("show", made.session, "--directory", studio.directory, config=config).err == ""
    assert len(events(policyd, made.session)) == before + 2


def test_a_folder_that_records_and_has_no_configuration_is_not_shown(
    replay: Replay, place: tuple[Studio, Policyd], made: Made, tmp_path: Path
) -> None:
    studio, _ = place
    shutil.copytree(studio.directory, tmp_path / "state/recordings")
    said = replay("show", made.session, "--directory", tmp_path / "state/recordings", config=None, code=78)
    assert said.out == ""
    assert said.err.endswith("replay: name its configuration: -c bastion.toml\n")
    (tmp_path / "bastion.toml").write_text('[recorder]\ndirectory = "elsewhere"\n')
    replay("show", made.session, "--directory", tmp_path / "state/recordings", config=None, code=78)
