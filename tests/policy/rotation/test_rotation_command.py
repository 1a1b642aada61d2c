"""`bastion vault rotate` as a person types it: what it asks for, what it shows meanwhile, what it says at the end."""

import json
import os
import re
import subprocess
import sys
import threading

from policy import messages as m
from tests.policy.policyd import Policyd
from tests.policy.rotating import ROTATION, Worker, rows
from tests.support import warm
from tests.support.net import wait_until
from tests.support.terminal import Terminal

OLD = {b"password of root"}


def command(policyd: Policyd, *words: str) -> list[str]:
    return [sys.executable, "-m", "bastion", *words, "-c", str(policyd.config)]


def say(policyd: Policyd, *words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    done = warm.run(command(policyd, *words))
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def test_all_that_change_are_changed(policyd, worker, targets) -> None:
    done = say(policyd, "vault", "rotate", "--all", "--reason", "yearly")
    assert done.stdout.split("\n")[0].split() == ["account", "target", "state", "problem"]
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [
        ["deploy", "web1", "committed"], ["root", "web1", "committed"],
    ]  # fmt: skip
    assert re.fullmatch(r"bastion: 2 of 2 in [0-9.]+ s: 2 committed\n", done.stderr)
    assert targets.opens["root@web1"] != OLD
    assert {row["why"] for row in rows(policyd, all=True)} == {"yearly"}


def test_by_label_and_for_a_program(policyd, worker, targets) -> None:
    done = say(policyd, "vault", "rotate", "--label", "env=test", "--json")
    found = json.loads(done.stdout)
    assert [(row["account"], row["state"], row["entry"]) for row in found] == [
        ("deploy", "committed", "passwords"), ("root", "committed", "passwords"),
    ]  # fmt: skip
    assert {"rotation", "began", "ended", "asked by"} <= set(found[0])
    refused = say(policyd, "vault", "rotate", "--label", "env=prod", code=64).stderr
    assert "there is nothing to change" in refused
    assert "bastion vault rotate --all --dry-run" in refused
    assert "is no label" in say(policyd, "vault", "rotate", "--label", "prod", code=64).stderr


def test_a_dry_run_changes_nothing(policyd, worker, targets) -> None:
    shown = json.loads(say(policyd, "vault", "rotate", "--all", "--dry-run", "--json").stdout)
    assert [(row["account"], row["driver"], row["changed by"]) for row in shown] == [
        ("deploy", "ssh", "deploy"), ("root", "ssh", "root"),
    ]  # fmt: skip
    assert "deploy" in say(policyd, "vault", "rotate", "deploy@web1", "--dry-run").stdout
    assert not worker.orders
    assert not rows(policyd, all=True)
    assert targets.opens["root@web1"] == OLD


def test_what_cannot_be_changed_is_said_and_the_others_are(policyd, worker) -> None:
    (policyd.home / "policy.toml").write_text(policyd.rules + ROTATION + 'via = "root"\n')
    policyd.done(m.AccountRemove(account="root", target="web1"))
    policyd.target("web2", "root", "deploy")
    policyd.done(m.Reload())
    worker.targets.opens |= {f"{name}@web2": {f"password of {name}".encode()} for name in ("root", "deploy")}
    done = say(policyd, "vault", "rotate", "--all")
    assert "deploy@web1 is left out: there is no account `root@web1` that could change it" in done.stderr
    assert "2 of 2" in done.stderr


def test_which_accounts_has_to_be_said(policyd, worker) -> None:
    for words in ((), ("--all", "root@web1"), ("--all", "--label", "env=test")):
        assert "give accounts, or --label, or --all" in say(policyd, "vault", "rotate", *words, code=64).stderr
    assert "no account `nobody@web1`" in say(policyd, "vault", "rotate", "nobody@web1", code=64).stderr
    assert "[[rotation]]" in say(policyd, "vault", "rotate", "postgres@db1", code=78).stderr


def test_some_are_not_changed(policyd, worker, targets) -> None:
    targets.does = False
    done = say(policyd, "vault", "rotate", "root@web1", code=75)
    assert "rolled-back" in done.stdout
    assert "1 of them are not changed" in done.stderr
    hint = done.stderr.splitlines()[-1].partition("see: bastion ")[2]
    waits = say(policyd, *hint.split(), "--json").stdout
    assert [(row["account"], row["state"], row["tries"]) for row in json.loads(waits)] == [("root", "wanted", "1")]


def test_what_is_in_doubt_is_named(policyd, worker, targets) -> None:
    targets.logins = "unknown"
    said = say(policyd, "account", "rotate", "root@web1", code=75).stderr
    assert "what opens root@web1 is in doubt, both are kept" in said


def test_nobody_has_to_stay(policyd, worker, targets) -> None:
    done = say(policyd, "vault", "rotate", "root@web1", "--no-wait", "--json")
    (row,) = json.loads(done.stdout)
    assert (row["account"], row["state"]) == ("root", "wanted")
    wait_until("its end", lambda: not rows(policyd))
    assert targets.opens["root@web1"] != OLD


def test_a_person_at_a_terminal_sees_how_far_it_is(policyd, targets) -> None:
    may_go = threading.Semaphore(0)
    targets.hold = threading.Event()
    targets.hold.wait = lambda _: may_go.acquire(timeout=20)  # one order at a time
    worker = Worker(policyd, targets)
    with Terminal(*command(policyd, "vault", "rotate", "--all"), env=dict(os.environ) | {"TERM": "xterm"}) as person:
        person.until(b"[                              ] 0/2  none yet\x1b[K")
        may_go.release()
        person.until(b"\r[###############               ] 1/2  1 committed\x1b[K")
        may_go.release()
        person.until(b"\r\x1b[Kbastion: 2 of 2 in ")
        person.until(b"2 committed\r\n")
        person.until(b"deploy")
        person.until(b"root")
    worker.close()
