"""Views of recordings: noted under the name the kernel knows before they are answered, or refused."""

import fcntl
import grp
import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from policy import messages as m
from policy.model import ViewVerb
from policy.trail.views import MAX_RECORDINGS, MAX_VIEWS
from tests.policy.policyd import Gone, Policyd
from tests.support.net import wait_until

ME = pwd.getpwuid(os.geteuid()).pw_name
ONE = "0192" + "a" * 28
SOMEBODY = "games"  # an OS user of every Debian that may be a person's name, too

as_somebody_else = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/bin/python3").exists(), reason="only root can be somebody else"
)

CLIENT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect("policyd-audit.sock")
sock.send(bytes.fromhex(sys.argv[1]))
print(sock.recv(65536).hex())
"""


def play(*recordings: str, **more: str) -> m.Viewing:
    return m.Viewing(verb=ViewVerb.PLAY, recordings=list(recordings or (ONE,)), **more)


def asked_as(policyd: Policyd, uid: int, body: m.Request) -> Any:
    """What a process of another user, in policyd's own group, is answered; None if policyd hangs up."""
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", CLIENT, m.encode(1, body).hex()],
        cwd=policyd.home / "run", user=uid, group=os.getegid(), extra_groups=[],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    data = bytes.fromhex(done.stdout)
    return m.decode_reply(data)[1] if data else None


def shown(policyd: Policyd, row: int) -> dict[str, str]:
    return dict(policyd.done(m.AuditShow(ident=str(row))).rows)


# --- who, what, when -----------------------------------------------------------------------------------


def test_a_view_is_in_the_trail_when_it_is_answered(policyd):
    peer, grant = policyd.session("alice")
    with policyd.auditor() as auditor:
        noted = auditor.ask(play(grant.session, range="from 1:30", reason="ticket 4711"))
        assert noted.who == f"uid {ME}"
        event = shown(policyd, noted.event)
        wanted = {
            "event": "view", "who": f"uid {ME}", "what": "root@web1", "why": "ticket 4711", "session": grant.session,
            "verb": "play", "range": "from 1:30", "person": "alice",
        }  # fmt: skip
        assert event.items() >= wanted.items()
        over = auditor.ask(m.Viewed(event=noted.event, until_ms=90_500))
    assert (
        shown(policyd, over.event).items() >= {"event": "viewed", "view": str(noted.event), "until": "0:01:30"}.items()
    )
    peer.close()


def test_an_export_is_kept_with_the_digest_of_what_was_written(policyd):
    with policyd.auditor() as auditor:
        noted = auditor.ask(m.Viewing(verb=ViewVerb.EXPORT, recordings=[ONE], format="jsonl"))
        over = auditor.ask(m.Viewed(event=noted.event, length=12, sha256=b"\xab" * 32))
    event = shown(policyd, noted.event)
    assert (event["event"], event["what"], event["format"]) == ("export", f"recording {ONE}", "jsonl")
    event = shown(policyd, over.event)
    assert (event["bytes"], event["sha256"], event["session"]) == ("12", "ab" * 32, ONE)


def test_a_search_names_every_recording_it_opened(policyd):
    ids = [f"{number:032x}" for number in range(700)]
    with policyd.auditor() as auditor:
        rows = [
            auditor.ask(m.Viewing(verb=ViewVerb.SEARCH, recordings=some)).event
            for some in (ids[:MAX_RECORDINGS], ids[MAX_RECORDINGS:])
        ]
    events = [shown(policyd, row) for row in rows]
    assert [event["what"] for event in events] == ["500 recordings", "200 recordings"]
    named = [one for event in events for name in sorted(event) if name.startswith("recordings-")
             for one in event[name].split()]  # fmt: skip
    assert named == ids


def test_who_was_killed_has_not_said_how_far_he_came(policyd):
    """kill -9 of a player closes its socket and says nothing."""
    with policyd.auditor() as auditor:
        cut = auditor.ask(play()).event
        whole = auditor.ask(play()).event
        show = auditor.ask(m.Viewing(verb=ViewVerb.SHOW, recordings=[ONE])).event
        auditor.ask(m.Viewed(event=whole, until_ms=5))

    def ends() -> dict[str, str]:
        events = [shown(policyd, int(row["seq"])) for row in policyd.audit("viewed")]
        return {event["view"]: event.get("why", "") for event in events}

    wait_until("the end of the view that was cut", lambda: str(cut) in ends())
    assert ends()[str(cut)] == "it did not say how it ended"
    assert ends()[str(whole)] == ""
    assert str(show) not in ends(), "what is shown at once has no end of its own"


# --- refusals ---------------------------------------------------------------------------------------------


def test_who_is_not_on_the_list_is_refused(make_policyd):
    policyd = make_policyd('viewers = ["somebody-else"]')
    refused = policyd.auditor().ask(play())
    assert isinstance(refused, m.Refused)
    assert (refused.code, refused.cause) == (77, f"`{ME}` may not view recordings")
    assert "viewers in bastion.toml" in refused.hint
    (event,) = policyd.audit("view-refused")
    assert (event["who"], event["what"], event["ref"]) == (f"uid {ME}", f"recording {ONE}", refused.ref)
    assert not policyd.audit("export")


def test_who_is_on_the_list_is_not(make_policyd):
    assert isinstance(make_policyd(f'viewers = ["{ME}"]').auditor().ask(play()), m.Noted)


@as_somebody_else
def test_the_name_is_the_kernels_and_that_of_the_person(make_policyd):
    policyd = make_policyd()
    uid = pwd.getpwnam(SOMEBODY).pw_uid
    assert asked_as(policyd, uid, play()).who == f"uid {SOMEBODY}", "policy knows no such person"
    policyd.person(SOMEBODY)
    assert asked_as(policyd, uid, play()).who == SOMEBODY
    assert asked_as(policyd, 54321, play()).who == "uid 54321", "no user of this machine"


@as_somebody_else
def test_who_is_disabled_or_gone_views_nothing(make_policyd):
    """The attack: the person has left, the OS account was forgotten."""
    policyd = make_policyd()
    uid = pwd.getpwnam(SOMEBODY).pw_uid
    policyd.person(SOMEBODY)
    policyd.done(m.PersonSet(name=SOMEBODY, disabled=True))
    assert isinstance(asked_as(policyd, uid, play()), m.Refused)
    policyd.done(m.PersonSet(name=SOMEBODY, disabled=False))
    assert isinstance(asked_as(policyd, uid, play()), m.Noted)
    policyd.done(m.PersonOffboard(name=SOMEBODY))
    assert isinstance(asked_as(policyd, uid, play()), m.Refused)
    assert {row["who"] for row in policyd.audit("view-refused")} == {f"uid {SOMEBODY}"}


@as_somebody_else
def test_nobody_may_be_anybody(policyd):
    """The attack: from a container, every user is uid 65534 to us, and the trail would name nobody."""
    refused = asked_as(policyd, 65534, play())
    assert isinstance(refused, m.Refused)
    assert "containers" in refused.hint


@as_somebody_else
def test_another_group_does_not_get_in(policyd):
    path = policyd.home / "run" / "policyd-audit.sock"
    mode = path.stat().st_mode
    path.chmod(0o666)
    (policyd.home / "run").chmod(0o755)
    try:
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-c", CLIENT, m.encode(1, play()).hex()], cwd=policyd.home / "run",
            user=pwd.getpwnam(SOMEBODY).pw_uid, group=grp.getgrnam("nogroup").gr_gid, extra_groups=[],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    finally:
        path.chmod(mode)
        (policyd.home / "run").chmod(0o750)
    assert done.stdout.strip() == "", done.stdout


MALFORMED: dict[str, m.Request | bytes] = {
    "no recordings": m.Viewing(verb=ViewVerb.SHOW, recordings=[]),
    "too many recordings": play(*[ONE] * (MAX_RECORDINGS + 1)),
    "an id that is none": play("../../etc/passwd"),
    "an id in capitals": play(ONE.upper()),
    "a long reason": play(reason="x" * 257),
    "a long range": play(range="x" * 257),
    "a long format": play(format="x" * 257),
    "a verb of its own": msgspec.msgpack.encode((1, {"type": "Viewing", "verb": "delete", "recordings": [ONE]})),
    "a name of its own": msgspec.msgpack.encode(
        (1, {"type": "Viewing", "verb": "show", "recordings": [ONE], "who": "sue"})
    ),
    "the end of a view that was not noted": m.Viewed(event=1),
    "an operator's greeting": m.Admin(command="x"),
    "a command": m.AuditList(),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_malformed_closes_that_socket_only(policyd, case):
    other = policyd.auditor()
    noted = other.ask(play())
    body = MALFORMED[case]
    for first in ((), (play(),)):  # as the first word, and later
        peer = policyd.auditor()
        for said in first:
            peer.ask(said)
        peer.send(body if isinstance(body, bytes) else m.encode(9, body))
        assert peer.is_closed(), case
    assert isinstance(other.ask(m.Viewed(event=noted.event)), m.Noted)
    other.close()


def test_a_view_ends_once_and_where_it_began(policyd):
    with policyd.auditor() as auditor, policyd.auditor() as other:
        noted = auditor.ask(play())
        other.ask(play())
        with pytest.raises(Gone):
            other.ask(m.Viewed(event=noted.event))
        auditor.ask(m.Viewed(event=noted.event))
        with pytest.raises(Gone):
            auditor.ask(m.Viewed(event=noted.event))


def test_a_digest_is_one_or_none(policyd):
    with policyd.auditor() as auditor:
        noted = auditor.ask(play())
        with pytest.raises(Gone):
            auditor.ask(m.Viewed(event=noted.event, sha256=b"short"))


def test_views_without_end_have_an_end(policyd):
    with policyd.auditor() as auditor:
        for _ in range(MAX_VIEWS):
            auditor.ask(m.Viewing(verb=ViewVerb.SHOW, recordings=[ONE]))
        with pytest.raises(Gone):
            auditor.ask(play())


def test_a_trail_that_cannot_be_written_means_no(make_policyd):
    import sqlite3

    policyd = make_policyd()
    auditor = policyd.auditor()
    assert isinstance(auditor.ask(play()), m.Noted)
    lock = sqlite3.connect(policyd.database, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")  # for longer than policyd waits
    try:
        refused = auditor.ask(play())
    except Gone:
        raise AssertionError(policyd.log()) from None
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    assert isinstance(refused, m.Refused), policyd.log()
    assert (refused.code, refused.cause) == (69, "the bastion cannot keep its audit trail")
    assert isinstance(auditor.ask(play()), m.Noted)


def test_views_outlive_kill_9(make_policyd):
    policyd = make_policyd()
    auditor = policyd.auditor()
    noted = auditor.ask(play())
    policyd.kill()
    policyd.start()
    assert shown(policyd, noted.event)["event"] == "view"
    assert policyd.done(m.AuditVerify()).text.startswith("the audit trail is whole")
    auditor.close()


def test_the_sockets_that_systemd_hands_over(make_policyd, tmp_path):
    """Each by its name, whatever the order: the auditors' is not taken for the operators'."""
    policyd = make_policyd()
    policyd.stop()
    run = policyd.home / "run"
    files = {"policyd-audit": "policyd-audit.sock", "policyd": "policyd.sock", "policyd-admin": "policyd-admin.sock"}
    listeners = []
    for file in files.values():
        (run / file).unlink(missing_ok=True)
        listeners.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        listeners[-1].bind(str(run / file))
        listeners[-1].listen()
    high = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 100) for one in listeners]

    def hand_over() -> None:  # 3 is where sd_listen_fds(3) says they begin
        for number, handle in enumerate(high, 3):
            os.dup2(handle, number)

    script = 'LISTEN_PID=$$ exec "$0" -m policy serve --config "$1"'
    with (policyd.home / "log").open("ab") as log:
        policyd.process = subprocess.Popen(
            ["sh", "-c", script, sys.executable, str(policyd.config)], stderr=log, preexec_fn=hand_over,
            env={**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": ":".join(files)}, pass_fds=(3, 4, 5),
        )  # fmt: skip
    for one in listeners:
        one.close()
    for handle in high:
        os.close(handle)
    with policyd.auditor() as auditor:
        assert isinstance(auditor.ask(play()), m.Noted), policyd.log()
    assert policyd.done(m.AuditVerify()).text.startswith("the audit trail is whole")
    with policyd.auditor() as auditor, pytest.raises(Gone):
        auditor.ask(m.Admin(command="x"))
