"""`replay ls` and `replay show`."""

import json
import os
from pathlib import Path

from recorder.model import AccessNote, Exit, Kind, Start
from tests.replay.conftest import Replay
from tests.replay.recordings import SHELL, Made, Studio, exited, note, out, shell


def test_lists_newest_first_with_who_where_and_how_it_ended(replay: Replay, shelled: Made, mixed: Made) -> None:
    rows = json.loads(replay("ls", "--json").out)
    ids = [row["session"] for row in rows]
    assert ids == sorted(ids, reverse=True)
    found = {row["session"]: row for row in rows}
    assert found[shelled.session]["kinds"] == ["shell"]
    assert found[mixed.session]["kinds"] == ["exec", "sftp", "forward-local"]
    assert found[mixed.session] | {"size": 0, "file": ""} == {
        "session": mixed.session, "start": found[mixed.session]["start"], "seconds": 0.095, "person": "bob",
        "account": "root", "target": "db1", "source": "192.0.2.7", "kinds": ["exec", "sftp", "forward-local"],
        "denied": True, "state": "complete", "ended": "killed", "size": 0, "encrypted": False, "file": "",
    }  # fmt: skip
    assert found[mixed.session]["size"] == mixed.path.stat().st_size
    table = replay("ls").out
    assert "bob" in table
    assert "root@db1" in table
    assert mixed.session[:12] in table


def test_filters(replay: Replay, studio: Studio, shelled: Made, mixed: Made) -> None:
    def listed(*words: str) -> set[str]:
        return {row["session"] for row in json.loads(replay("ls", "--json", *words).out)}

    everything = listed()
    assert mixed.session in listed("--person", "bob") <= everything - {shelled.session}
    assert mixed.session in listed("--target", "db1")
    assert shelled.session not in listed("--target", "db1")
    assert listed("--account", "nobody") == set()
    assert listed("--denied") >= {mixed.session}
    assert shelled.session not in listed("--denied")
    starts = {row["session"]: row["start"] for row in json.loads(replay("ls", "--json").out)}
    assert mixed.session in listed("--since", starts[mixed.session])
    assert mixed.session not in listed("--until", starts[mixed.session])
    assert listed("--since", "2001-01-01", "--until", "2002-01-01") == set()


def test_a_time_that_is_none(replay: Replay) -> None:
    said = replay("ls", "--since", "soon", code=64)
    assert said.err == "replay: `soon` is no time\nreplay: write it as 2026-11-25, 2026-11-25T16:00 or 3d\n"


def test_names_in_lists_cannot_act_on_the_terminal(replay: Replay, studio: Studio) -> None:
    made = studio.record(SHELL, person="\x1b]0;owned\x07mallory", target="web\u202e1")
    for words in (("ls",), ("show", made.session)):
        text = replay(*words).out
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\\x1b]0;owned\\x07mallory" in text
    assert "\x1b" not in replay("ls", "--json").out


def test_a_bad_file_hides_no_other(replay: Replay, studio: Studio, shelled: Made) -> None:
    bad = shelled.path.with_name("f" * 32 + ".brec")
    bad.write_bytes(b"no recording")
    try:
        said = replay("ls", "--json")
        assert shelled.session in said.out
        assert "ffff" in said.err
    finally:
        bad.unlink()


def test_a_link_in_the_folder_is_not_followed(replay: Replay, shelled: Made) -> None:
    link = shelled.path.with_name("e" * 32 + ".brec")
    link.symlink_to("/etc/passwd")
    try:
        assert "eeee" not in replay("ls").out
        assert "no recording begins with `eeee`" in replay("show", "eeee", code=69).err
    finally:
        link.unlink()


def test_show_tells_the_whole_story(replay: Replay, mixed: Made) -> None:
    text = replay("show", mixed.session).out
    for part in (
        "bob as root@db1", "killed by carol", "exit status 3", "/tmp/\\x1b]0;x\\x07.txt", "permission denied",
        "/tmp/a -> /tmp/\\xff\\xfe", "forward-local db1:5432: closed, 10 B sent, 2.0 KiB received",
        "denied forward-remote (rule default): no rule", "2cf24dba5fb0a30e",
    ):  # fmt: skip
        assert part in text
    assert "\x1b" not in text


def test_show_json_has_every_fact(replay: Replay, mixed: Made) -> None:
    facts = json.loads(replay("show", mixed.session, "--json").out)
    assert facts["person"] == "bob"
    assert facts["channels"][0]["exit"]["status"] == 3
    assert facts["channels"][0]["output"] == 4
    assert [one["op"] for one in facts["sftp"]] == ["write", "rename"]
    assert facts["sftp"][0]["sha256"].startswith("2cf24dba")
    assert facts["end"]["by"] == "carol"
    assert facts["forwards"][1]["received"] == 2048


def test_show_counts_what_was_typed_without_echo(replay: Replay, shelled: Made) -> None:
    channel = json.loads(replay("show", shelled.session, "--json").out)["channels"][0]
    assert (channel["typed"], channel["typed_unseen"]) == (6, 6)


def test_signals_and_channels_without_end(replay: Replay, studio: Studio) -> None:
    events = [
        shell(), note(Kind.EXIT, 0, 5, Exit(signal="KILL", core=True, message=b"\x1b[2J")), shell(1, 6),
        note(Kind.ACCESS, 0, 7, AccessNote(what="granted", rule="admins", by="dave", reason="on call")),
        note(Kind.START, 2, 8, Start(kind="exec", command=b"true")), exited(9, channel=2),
    ]  # fmt: skip
    text = replay("show", studio.record(events).session).out
    assert "ended by signal KILL (core dumped): \\x1b[2J" in text
    assert "not closed" in text
    assert "granted by dave (rule admins): on call" in text


def test_a_live_recording_is_listed_shown_and_played_up_to_now(replay: Replay, studio: Studio) -> None:
    made = studio.begin(person="zoe")
    try:
        made.add([shell(), out(5, b"so far\r\n")])
        (row,) = json.loads(replay("ls", "--person", "zoe", "--json").out)
        assert row["state"] == "open"
        assert "live or cut off" in replay("ls", "--person", "zoe").out
        assert "still live" in replay("show", made.session).out
        assert "so far" in replay("play", made.session).out
        assert "open" in replay("verify", made.session, code=2).out
        made.add([out(9, b"and more\r\n")])
        assert "and more" in replay("play", made.session).out
    finally:
        made.end()
    assert "session ended: closed" in replay("play", made.session).out


def test_by_file_name_without_configuration(replay: Replay, shelled: Made) -> None:
    assert shelled.session in replay("show", shelled.path, config=None).out


def test_where_recordings_are_not(replay: Replay, studio: Studio, tmp_path: Path) -> None:
    assert "there is no folder of recordings at" in replay("ls", "--directory", tmp_path / "no", code=78).err
    config = tmp_path / "bastion.toml"
    config.write_text("[bastion\n")
    assert "bastion check-config -c" in replay("ls", config=config, code=78).err
    config.write_text("[recorder]\ndirectory = 7\n")
    assert "[recorder] directory in bastion.toml is no text" in replay("ls", config=config, code=78).err
    config.write_text(f'[bastion]\nstate = "{os.path.relpath(studio.directory.parent, tmp_path)}"\n')
    assert replay("ls", config=config).out


def test_errors_are_two_lines_with_the_next_command(replay: Replay) -> None:
    assert replay("show", "0", code=69).err.count("\n") == 2
    assert replay("show", "../../no/such/passwd", code=69).err.startswith("replay: there is no file")
    assert replay("show", "/etc/passwd", code=69).err.startswith("replay: `/etc/passwd`")
    assert replay("nonsense", config=None, code=64).err == (
        "replay: no such command `nonsense`\nreplay: see replay --help\n"
    )
