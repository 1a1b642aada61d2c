"""Secrets and checkouts with the real ssh, and with `bastion` on the machine: what people see, what nothing keeps."""

import base64
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from policy import messages as m
from tests.support.person import Person
from tests.support.site import RULES, Site

pytestmark = pytest.mark.e2e

CANARY = "canary-5f3a-of-this-file"
OUT = f"""{RULES}
[[rule]]
name    = "passwords"
who     = {{ roles = ["engineer"] }}
where   = {{ targets = ["web2"] }}
as      = ["*"]
allow   = ["checkout"]
require = {{ reason = true }}
limits  = {{ session = "1h" }}

[checkout]
unrotated = true
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("vault"), {"ssh": ["startups_per_source = 100"]}, rules=OUT)
    try:
        made.start()
        public = made.key("stranger").with_suffix(".pub").read_text().strip()
        made.ask(m.PersonAdd(name="lena", roles=["engineer"], keys=[public]))
        made.ask(m.PersonSet(name="sam", add_roles=["security"]))
        made.ask(m.TargetAdd(name="web2", address="127.0.0.1:9", labels={"env": "test"}, host_keys=[public]))
        made.ask(m.AccountAdd(account="root", target="web2", password=f"password-{CANARY}"))
        yield made
    finally:
        made.stop()


def ssh(site: Site, person: str, *words: str, code: int = 0, **more: Any) -> "subprocess.CompletedProcess[bytes]":
    key = {"lena": "stranger"}.get(person, person)
    done = site.ssh("bastion", *words, options=("-l", person, "-i", str(site.key(key))), **more)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def said(site: Site, person: str, *words: str, code: int = 0, **more: Any) -> str:
    done = ssh(site, person, *words, code=code, **more)
    return (done.stdout or done.stderr).decode()


def rows(site: Site, person: str, *words: str) -> list[dict[str, Any]]:
    return list(json.loads(said(site, person, *words, "--json")))


def test_kept_by_a_pipe_and_seen_by_a_pipe(site: Site) -> None:
    assert "alice's" in said(site, "alice", "vault", "add", "pipe/one", "--note", "of", "the", "printer", input=b"v1\n")
    done = ssh(site, "alice", "vault", "view", "pipe/one", "--reason", "look")
    assert done.stdout == b"v1", "every byte, and nothing else"
    assert b"version 1" in done.stderr
    said(site, "alice", "vault", "set", "pipe/one", "--binary", input=b"\x00\xff\n")
    assert ssh(site, "alice", "vault", "view", "pipe/one", "--reason", "look").stdout == b"\x00\xff\n"
    shown = json.loads(said(site, "alice", "vault", "view", "pipe/one", "--reason", "look", "--json"))
    assert (shown["value_base64"], shown["version"]) == ("AP8K", "2")
    assert "not text" in said(site, "alice", "vault", "set", "pipe/one", input=b"\xff", code=64)
    assert "no secret came" in said(site, "alice", "vault", "add", "pipe/two", input=b"", code=64)
    (row,) = rows(site, "alice", "vault", "ls", "pipe/")
    assert (row["name"], row["note"], row["rights"]) == ("pipe/one", "of the printer", "use view share")
    assert "are gone" in said(site, "alice", "vault", "rm", "pipe/one")


def test_typed_unseen_and_shown_on_a_terminal(site: Site) -> None:
    with Person(*site.command("ssh", "-tt"), "bastion", "vault add typed/one --reason x") as person:
        person.until("value of typed/one: ")
        person.type(f"{CANARY}-typed\n")
        assert CANARY not in person.until("is kept")
    with Person(*site.command("ssh", "-tt"), "bastion", "vault view typed/one --reason x") as person:
        person.until(f"{CANARY}-typed")
        person.until("version 1")


def test_a_terminal_obeys_no_secret(site: Site) -> None:
    evil = b"\x1b]52;c;aGVsbG8=\x07"
    said(site, "alice", "vault", "add", "evil/one", input=evil)
    with Person(*site.command("ssh", "-tt"), "bastion", "vault view evil/one --reason x") as person:
        assert "\x1b]52" not in person.until(f"in base64: {base64.b64encode(evil).decode()}")


def test_lent_viewed_and_taken_back(site: Site) -> None:
    said(site, "alice", "vault", "add", "lent/one", input=b"x")
    share = json.loads(said(site, "alice", "vault", "share", "lent/", "lena", "--rights", "view", "--for", "1h",
                            "--reason", "night", "shift", "--json"))["share"]  # fmt: skip
    assert ssh(site, "lena", "vault", "view", "lent/one", "--reason", "x").stdout == b"x"
    assert [row["share"] for row in rows(site, "lena", "vault", "shares")] == [share]
    assert "no more" in said(site, "alice", "vault", "unshare", share)
    assert "no secret `lent/one` for you" in said(site, "lena", "vault", "view", "lent/one", "--reason", "x", code=77)
    assert "use: ssh bastion vault view" in said(site, "lena", "vault", "view", "lent/one", code=64)
    assert "is lena's" in said(site, "alice", "vault", "chown", "lent/one", "lena")


def test_checked_out_and_in(site: Site) -> None:
    done = ssh(site, "alice", "vault", "checkout", "root@web2", "--for", "30m", "--reason", "disk", "full")
    assert done.stdout == f"password-{CANARY}".encode()
    assert b"shown this once" in done.stderr
    (row,) = rows(site, "alice", "vault", "checkouts")
    assert (row["person"], row["reason"], row["state"]) == ("alice", "disk full", "out")
    refused = said(site, "lena", "vault", "checkout", "root@web2", "--reason", "x", code=75)
    assert "checked out by `alice`" in refused
    assert "does not exist" in said(site, "sam", "vault", "checkout", "root@web2", "--reason", "x", code=77)
    assert "came back" in said(site, "sam", "vault", "checkin", "root@web2", "--force", "--reason", "x")
    assert rows(site, "alice", "vault", "checkouts") == []
    assert rows(site, "alice", "vault", "checkouts", "--all")[0]["by"] == "sam"


# --- on the machine -----------------------------------------------------------------------------------------------


def test_an_operator_keeps_for_people(site: Site) -> None:
    done = site.bastion("vault", "add", "op/one", "--owner", "alice", given="from a file\n")
    assert "alice's" in done.stdout
    assert ssh(site, "alice", "vault", "view", "op/one", "--reason", "x").stdout == b"from a file"
    site.bastion("vault", "set", "op/one", given="newer\n")
    names = [row["name"] for row in json.loads(site.bastion("vault", "ls", "--all", "--json").stdout)]
    assert "op/one" in names
    done = site.bastion("vault", "view", "op/one", "--reason", "x", check=False)
    assert done.returncode != 0
    assert "newer" not in done.stdout + done.stderr
    done = site.bastion("vault", "checkout", "root@web2", "--reason", "x", check=False)
    assert (done.returncode, done.stdout) == (77, "")
    assert "by a person" in done.stderr
    assert json.loads(site.bastion("vault", "checkouts", "--json").stdout) == []
    assert "is lena's" in site.bastion("vault", "chown", "op/one", "lena", "--reason", "moved").stdout


def test_an_operator_types_it_twice(site: Site) -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "bastion", "vault", "add", "op/typed", "--owner", "alice", "-c", str(site.config)]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        seen = b""
        for _ in range(2):
            while not seen.endswith(b": "):
                seen += os.read(ours, 4096)
            os.write(ours, f"{CANARY}-op\n".encode())
            seen = seen[:-2]
        assert process.wait(30) == 0
    os.close(ours)
    assert ssh(site, "alice", "vault", "view", "op/typed", "--reason", "x").stdout == f"{CANARY}-op".encode()


def test_no_value_is_kept_in_the_clear(site: Site) -> None:
    """Not in a recording, the log, the database, its journal or the trail. The last: all of the above is there."""
    site.stop_bastion()
    assert [path for path in site.home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()] == []
    site.start_bastion()
