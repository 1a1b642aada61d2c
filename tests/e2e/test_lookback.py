"""What security staff get to see, by the commands they type, of sessions that went through every way in."""

import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recorder.chain import Type
from tests.recorder.test_damage import records_of
from tests.support.evidence import Evidence
from tests.support.person import Person
from tests.support.site import THROUGH, Site, stopped
from tests.support.sshd import SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]


@pytest.fixture(params=THROUGH)
def entry(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def session_of(evidence: Evidence) -> str:
    assert evidence.tape()
    (path,) = evidence.new()
    return path.stem


def shown(site: Site, session: str) -> dict[str, Any]:
    return dict(json.loads(site.replay("show", session, "--json").stdout))


def test_a_command(site: Site, entry: str, evidence: Evidence) -> None:
    site.ssh(entry, "echo out; echo err >&2; exit 7")
    session = session_of(evidence)
    row = next(row for row in json.loads(site.replay("ls", "--json").stdout) if row["session"] == session)
    assert (row["person"], row["account"], row["target"]) == ("alice", site.target.account, "web1")
    said = shown(site, session)
    assert said["complete"] is True
    assert said["problems"] == []
    (channel,) = said["channels"]
    assert (channel["kind"], channel["command"]) == ("exec", "echo out; echo err >&2; exit 7")
    assert channel["exit"]["status"] == 7
    assert "out" in site.replay("play", session, "--speed", "16").stdout
    assert site.replay("verify", session).returncode == 0


def test_a_terminal_session_and_its_exports(site: Site, entry: str, evidence: Evidence, tmp_path: Path) -> None:
    with Person(*site.command("ssh", "-t"), entry, columns=100, rows=30) as person:
        person.type("echo ma''rker; exit\r")
        person.until("marker")
        person.wait()
    session = session_of(evidence)
    assert "marker" in site.replay("play", session, "--speed", "16").stdout
    for form in ("asciicast", "text", "jsonl"):
        site.replay("export", session, "--format", form, "--output", str(tmp_path / form))
        assert "marker" in (tmp_path / form).read_text()
    header = json.loads((tmp_path / "asciicast").read_text().splitlines()[0])
    assert header["version"] in (2, 3)
    assert header.get("width", header.get("term", {}).get("cols")) == 100


def test_who_looks_is_on_record_beside_the_session(site: Site, entry: str, evidence: Evidence) -> None:
    site.ssh(entry, "echo seen")
    session = session_of(evidence)
    site.replay("play", session, "--reason", "a routine check")
    rows = json.loads(site.bastion("audit", "list", "--json", "--what", session).stdout)
    view = next(row for row in rows if row["event"] == "view")
    place = f"{site.target.account}@web1"
    assert (view["what"], view["why"]) == (place, "a routine check")
    assert "person=alice" in view["detail"]
    assert [row["event"] for row in rows].index("view") < [row["event"] for row in rows].index("viewed")
    policyd = site.pid("policy")
    with stopped(policyd):
        words = [sys.executable, "-m", "replay", "show", session, "-c", str(site.config)]
        looking = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert looking.stdout is not None
        assert not select.select([looking.stdout], [], [], 2.0)[0], "it shows something that nobody noted"
    assert b"alice" in looking.communicate(timeout=60)[0]


def test_files(site: Site, entry: str, evidence: Evidence, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(os.urandom(100_000))
    subprocess.run([*site.command("scp", "-q"), str(tmp_path / "mine"), f"{entry}:{tmp_path}/there"], check=True)
    session = session_of(evidence)
    said = json.dumps(shown(site, session)["sftp"])
    assert f"{tmp_path}/there" in said
    hashed = subprocess.run(["sha256sum", str(tmp_path / "mine")], capture_output=True, text=True, check=True)
    assert hashed.stdout.split()[0] in said
    assert f"{tmp_path}/there" in site.replay("show", session).stdout


def test_everything_verifies_and_a_flipped_byte_does_not(
    site: Site, entry: str, evidence: Evidence, tmp_path: Path
) -> None:
    site.ssh(entry, "seq 1000")
    assert evidence.tape()
    (path,) = evidence.new()
    data = bytearray(path.read_bytes())
    body = next(record.body for record in records_of(path)[1] if record.kind == Type.SEGMENT)
    data[data.index(body) + len(body) // 2] ^= 1  # not of a length, which would look like a cut
    (tmp_path / path.name).write_bytes(data)
    assert site.replay("verify", str(tmp_path / path.name), check=False).returncode == 1
    (tmp_path / path.name).write_bytes(path.read_bytes()[:-30])
    assert site.replay("verify", str(tmp_path / path.name), check=False).returncode == 2
    assert site.replay("verify", str(path)).returncode == 0


def test_hostile_text_reaches_nobodys_terminal(site: Site, entry: str, evidence: Evidence) -> None:
    """R8: a command, its output and an environment full of escape sequences, through lists, logs and replay."""
    evil = "\x1b]0;owned\x07\x1b[6n\x1bP+q544e\x1b\\\x9b6n"
    site.ssh(entry, f"printf '%s' '{evil}'", options=("-o", "SetEnv=LC_EVIL=\x1b]52;c;b3duZWQ=\x07"))
    session = session_of(evidence)
    texts = [
        site.replay("ls").stdout, site.replay("show", session).stdout, site.replay("play", session).stdout,
        site.replay("export", session, "--format", "text").stdout, site.bastion("sessions", "list").stdout,
        site.bastion("audit", "list").stdout, site.log.read_text(),
    ]  # fmt: skip
    for text in texts:
        assert not {"\x07", "\x9b", "\x90"} & set(text)
        assert "\x1b]" not in text
        assert "\x1b[6n" not in text
        assert "\x1bP" not in text


def test_a_live_session_is_listed_killed_and_told_why(site: Site, entry: str, evidence: Evidence) -> None:
    with Person(*site.command("ssh", "-tt"), entry, "echo al''ive; sleep 600") as person:
        person.until("alive")
        mine = {path.stem for path in evidence.new()}
        (live,) = [row for row in site.sessions() if row["session"] in mine]
        assert (live["person"], live["account"], live["target"]) == ("alice", site.target.account, "web1")
        site.bastion("sessions", "kill", live["session"], "--reason", "a test of killing")
        person.until("a test of killing")
        assert person.wait() not in (0, None)
    site.alone()
    tape = evidence.tape()
    assert tape
    assert [note.reason for note in tape.ended] == ["killed"]
    end = shown(site, evidence.new()[0].stem)["end"]
    assert "a test of killing" in json.dumps(end)
    assert any(row["event"] == "sessions-kill" or "kill" in row["event"] for row in site.audit())
    assert site.bastion("audit", "verify").returncode == 0
