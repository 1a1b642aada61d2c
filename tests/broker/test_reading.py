"""Applications read what is shared with them, and nothing else."""

import base64
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from policy import messages as m
from tests.broker.place import Place, Talk

SECRET = "/v1/secrets/deploy@web1"
VALUE = "password of deploy"


def test_a_shared_password_is_read_and_leased(place: Place) -> None:
    place.application("reads", "deploy@web1")
    with place.local() as talk:
        answer = talk.get(SECRET, "Bastion-Application: reads")
        assert (answer.status, answer.told["value"]) == (200, VALUE)
        assert answer.headers["cache-control"] == "no-store"
        assert {**answer.told, "value": "", "lease": ""} == {
            "name": "deploy@web1", "kind": "password", "value": "", "version": 1, "lease": "", "expires_in": 3600,
            "renewable_for": 24 * 3600,
        }  # fmt: skip
        told = talk.get("/v1/self", "Bastion-Application: reads").told
        assert told == {"application": "reads", "rate": 1000}
    event = place.policyd.audit("secret-read")[0]
    assert (event["who"], event["what"]) == ("application reads", "deploy@web1")
    assert answer.told["lease"] in event["detail"]
    assert f"uid {os.getuid()} pid {os.getpid()}" == event["source"]


def test_what_is_not_shared_looks_like_what_is_not_there(place: Place) -> None:
    place.application("asks", "deploy@web1")
    answers = []
    with place.local() as talk:
        for name in ("root@web1", "root@nowhere", "host-ca", "seed"):
            answer = talk.get(f"/v1/secrets/{name}", "Bastion-Application: asks")
            assert answer.told.pop("ref")
            answers.append((answer.status, answer.told["error"], answer.told["hint"]))
    assert answers == [(403, "no access to this secret", answers[0][2])] * 4
    whys = {event["what"]: event["why"] for event in place.policyd.audit("secret-refused")}
    assert (whys["root@web1"], whys["root@nowhere"]) == ("not shared with it", "no such secret")


@pytest.mark.parametrize("rights", ["view", "share", "view share"])
def test_only_the_right_to_use_counts(place: Place, rights: str) -> None:
    name = f"only-{rights.replace(' ', '-')}"
    place.application(name)
    place.share(name, "deploy@web1", rights)
    with place.local() as talk:
        assert talk.get(SECRET, f"Bastion-Application: {name}").status == 403


def test_a_share_that_is_over_gives_nothing(place: Place) -> None:
    place.application("late", "deploy@web1")
    with place.local() as talk:
        assert talk.get(SECRET, "Bastion-Application: late").status == 200
        place.unshare("late")
        assert talk.get(SECRET, "Bastion-Application: late").status == 403


def test_a_lease_ends_with_the_share(place: Place) -> None:
    place.application("brief")
    place.share("brief", "deploy@web1", seconds=90)
    with place.local() as talk:
        told = talk.get(SECRET, "Bastion-Application: brief").told
        assert 80 <= told["expires_in"] <= 90
        assert told["renewable_for"] <= 90


def test_authorities_and_seeds_are_given_to_nobody(place: Place) -> None:
    names = [row[0] for row in place.sql("SELECT name FROM secret WHERE kind IN ('ca', 'seed', 'totp')")]
    assert names
    place.application("wide", *names)
    with place.local() as talk:
        for name in names:
            assert talk.get(f"/v1/secrets/{name}", "Bastion-Application: wide").status in (400, 403)
    assert "given to nobody" in place.policyd.audit("secret-refused")[0]["why"]


def test_leases_are_renewed_ended_and_superseded(place: Place) -> None:
    place.application("holds", "deploy@web1")
    place.application("other", "deploy@web1")
    holds = "Bastion-Application: holds"
    with place.local() as talk:
        lease = talk.get(SECRET, holds).told["lease"]
        renewed = talk.get(f"/v1/leases/{lease}/renew", holds, method="POST")
        assert (renewed.status, renewed.told["superseded"], renewed.told["expires_in"]) == (200, False, 3600)
        with place.local() as stranger:
            for method, path in (("POST", f"/v1/leases/{lease}/renew"), ("DELETE", f"/v1/leases/{lease}")):
                assert stranger.get(path, "Bastion-Application: other", method=method).status == 410
        assert talk.get(f"/v1/leases/{lease}", holds, method="DELETE").told["expires_in"] == 0
        assert talk.get(f"/v1/leases/{lease}/renew", holds, method="POST").status == 410
        assert talk.get(f"/v1/leases/{lease}", holds, method="DELETE").status == 410
        assert place.policyd.audit("lease-end")[0]["who"] == "application holds"
        # a newer version of the secret: the lease stands, and says so
        lease = talk.get(SECRET, holds).told["lease"]
        place.sql("UPDATE lease SET version = 0 WHERE id = ?", (lease,))
        assert talk.get(f"/v1/leases/{lease}/renew", holds, method="POST").told["superseded"] is True
        # past its end, and past its longest, nothing revives it
        place.sql("UPDATE lease SET expires = 1 WHERE id = ?", (lease,))
        assert talk.get(f"/v1/leases/{lease}/renew", holds, method="POST").status == 410
        lease = talk.get(SECRET, holds).told["lease"]
        place.sql("UPDATE lease SET longest = 1 WHERE id = ?", (lease,))
        assert talk.get(f"/v1/leases/{lease}/renew", holds, method="POST").status == 410
        # nor once the secret is not shared any more
        lease = talk.get(SECRET, holds).told["lease"]
        place.unshare("holds")
        assert talk.get(f"/v1/leases/{lease}/renew", holds, method="POST").status == 410


def test_disabled_and_removed_ends_at_once_on_a_connection_that_is_open(place: Place) -> None:
    place.application("gone", "deploy@web1")
    field = "Bastion-Application: gone"
    with place.local() as talk:
        lease = talk.get(SECRET, field).told["lease"]
        place.policyd.done(m.ApplicationSet(name="gone", disabled=True))
        answer = talk.get(SECRET, field)
        assert (answer.status, answer.headers.get("connection")) == (401, "close")
        assert talk.is_closed()
    place.policyd.done(m.ApplicationSet(name="gone", disabled=False))
    with place.local() as talk:
        assert talk.get(f"/v1/leases/{lease}/renew", field, method="POST").status == 410
        assert talk.get(SECRET, field).status == 200
    place.policyd.done(m.ApplicationRemove(name="gone"))
    # a name that comes again does not come with what was shared with it before
    place.application("gone")
    with place.local() as talk:
        assert talk.get(SECRET, field).status == 403


def test_the_uid_binds(place: Place) -> None:
    place.application("others", "deploy@web1", uid=os.getuid() + 1)
    with place.local() as talk:
        answer = talk.get(SECRET, "Bastion-Application: others")
        assert answer.status == 401
    assert place.policyd.audit("application-refused")[0]["why"] == "not bound so: another uid"


def test_named_secrets_and_folders(place: Place) -> None:
    """What lies in a shared folder is read, whatever its bytes; what lies beside it is not."""
    place.application("named")
    binary = bytes(range(256))
    for name, value in (("shop/key", binary), ("shop/deep/er", b"deep"), ("shop-2/key", b"beside")):
        place.policyd.done(m.SecretAdd(name=name, value=value, owner="alice"))
    place.share("named", "shop/")
    field = "Bastion-Application: named"
    with place.local() as talk:
        told = talk.get("/v1/secrets/shop/key", field).told
        assert (base64.b64decode(told["value_base64"]), "value" in told) == (binary, False)
        assert talk.get("/v1/secrets/shop/deep/er", field).told["value"] == "deep"
        assert [talk.get(f"/v1/secrets/{name}", field).status for name in ("shop-2/key", "shop", "shop/")] == [403] * 3
        # a newer version is what is read, and the lease of the older one says so
        place.policyd.done(m.SecretSet(name="shop/deep/er", value=b"changed"))
        with place.local() as other:
            assert other.get("/v1/secrets/shop/deep/er", field).told["value"] == "changed"
        lease = told["lease"]
        assert talk.get(f"/v1/leases/{lease}/renew", field, method="POST").told["superseded"] is False
        place.policyd.done(m.SecretSet(name="shop/key", value=b"new"))
        assert talk.get(f"/v1/leases/{lease}/renew", field, method="POST").told["superseded"] is True


def test_what_an_owner_shares_and_takes_back(place: Place) -> None:
    place.application("lent")
    with place.policyd.login("alice") as alice, place.local() as talk:
        assert isinstance(alice.ask(m.SecretAdd(name="own/word", value=b"word")), m.Done)
        share = alice.ask(m.SecretShare(scope="own/word", subject="application:lent", rights=["use"]))
        assert isinstance(share, m.Done), share.cause
        field = "Bastion-Application: lent"
        assert talk.get("/v1/secrets/own/word", field).told["value"] == "word"
        ident = place.sql("SELECT id FROM share WHERE subject = 'lent'")[0][0]
        assert isinstance(alice.ask(m.SecretUnshare(share=ident)), m.Done)
        assert talk.get("/v1/secrets/own/word", field).status == 403


def test_a_row_that_was_put_back_is_not_given_out(place: Place) -> None:
    """The attack: an older, weaker password restored in the database, to be handed to every application."""
    place.policyd.done(m.SecretAdd(name="rolled/back", value=b"old", owner="alice"))
    place.application("reader", "rolled/back")
    field = "Bastion-Application: reader"
    ident, sealed = place.sql(
        "SELECT secret, sealed FROM secret_version WHERE secret = (SELECT id FROM secret WHERE name = 'rolled/back')"
    )[0]
    with place.local() as talk:
        assert talk.get("/v1/secrets/rolled/back", field).status == 200
        place.sql("UPDATE secret_version SET sealed = ? WHERE secret = ?", (sealed[:-1] + b"x", ident))
        answer = talk.get("/v1/secrets/rolled/back", field)
        assert (answer.status, answer.told["error"]) == (500, "the secret cannot be read")
        assert place.policyd.audit("vault-altered")[0]["what"] == "rolled/back"
        place.sql("UPDATE secret_version SET sealed = ? WHERE secret = ?", (sealed, ident))
        assert talk.get("/v1/secrets/rolled/back", field).status == 200


CHILD = """\
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
field = "Bastion-Application: " + sys.argv[2]
sock.sendall(f"GET /v1/secrets/deploy@web1 HTTP/1.1\\r\\nHost: b\\r\\n{field}\\r\\n\\r\\n".encode())
print(sock.recv(65536).split()[1].decode())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_another_user_is_not_it(place: Place) -> None:
    place.application("rooted", "deploy@web1", uid=0)
    place.application("nobody", "deploy@web1", uid=65534)
    for folder in (place.policyd.home, *place.policyd.home.parents):
        if folder.stat().st_mode & 0o005 != 0o005 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o005)
    (place.policyd.home / "run").chmod(0o755)
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", CHILD]
    found = [subprocess.run([*words, str(place.socket), name], capture_output=True, text=True, check=True).stdout
             for name in ("rooted", "nobody")]  # fmt: skip
    assert found == ["401\n", "200\n"]


def test_the_program_binds(place: Place, tmp_path: Path) -> None:
    python = str(Path(sys.executable).resolve())
    place.application("program", "deploy@web1", executable=python)
    place.application("elsewhere", "deploy@web1", executable="/usr/bin/true")
    words = [sys.executable, "-c", CHILD, str(place.socket)]
    found = [subprocess.run([*words, name], capture_output=True, text=True, check=True).stdout
             for name in ("program", "elsewhere")]  # fmt: skip
    assert found == ["200\n", "401\n"]
    assert place.policyd.audit("application-refused")[0]["why"] == "not bound so: another executable"


def test_the_unit_binds(place: Place) -> None:
    place.application("unit", "deploy@web1", unit="shop.service")
    with place.local() as talk:
        assert talk.get(SECRET, "Bastion-Application: unit").status == 401
    assert place.policyd.audit("application-refused")[0]["why"] == "not bound so: another unit"


HIERARCHY = next((path for path in map(Path, ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup")) if path.is_dir()), Path("/"))


@pytest.mark.skipif(not os.access(HIERARCHY / "cgroup.procs", os.W_OK), reason="needs to make control groups")
def test_a_program_in_its_unit_is_it(place: Place) -> None:
    """A real control group, as systemd makes one for a service; its neighbour and its child group's name are not it."""
    unit, other = f"bastion-test-{os.getpid()}.service", f"bastion-test-{os.getpid()}-2.service"
    place.application("united", "deploy@web1", unit=unit)
    code = f"import os\nopen(sys.argv[3] + '/cgroup.procs', 'w').write(str(os.getpid()))\n{CHILD.partition(chr(10))[2]}"
    found = {}
    for group in (HIERARCHY / unit, HIERARCHY / other, HIERARCHY / other / unit):
        group.mkdir()
    try:
        for group in (HIERARCHY / unit, HIERARCHY / other, HIERARCHY / other / unit):
            words = [sys.executable, "-c", f"import socket, sys\n{code}", str(place.socket), "united", str(group)]
            found[group] = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    finally:
        for group in (HIERARCHY / other / unit, HIERARCHY / other, HIERARCHY / unit):
            group.rmdir()
    assert list(found.values()) == ["200\n", "401\n", "401\n"]


def test_who_connected_must_still_be_there(place: Place) -> None:
    """A connection that was handed on is nobody's once its process has ended."""
    place.application("handed", "deploy@web1")
    ours, theirs = socket.socketpair()
    code = (
        "import socket, sys\nsock = socket.socket(socket.AF_UNIX)\nsock.connect(sys.argv[1])\n"
        "socket.send_fds(socket.socket(fileno=int(sys.argv[2])), [b'x'], [sock.fileno()])\nsys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(place.socket), str(theirs.fileno())], pass_fds=[theirs.fileno()],
        stdin=subprocess.PIPE,
    )  # fmt: skip
    with ours, theirs:
        _, handles, _, _ = socket.recv_fds(ours, 1, 1)
    with Talk(socket.socket(fileno=handles[0])) as talk:
        assert talk.get(SECRET, "Bastion-Application: handed").status == 200
        child.communicate()
        answer = talk.get(SECRET, "Bastion-Application: handed")
        # its uid alone is still what it was, and that is what binds it: it is introduced anew, without a process
        assert answer.status == 200
    assert place.policyd.audit("secret-read")[0]["source"] == f"uid {os.getuid()} pid 0"


def test_who_fits_several_says_which(place: Place) -> None:
    place.application("one", "deploy@web1")
    place.application("two", "deploy@web1")
    with place.local() as talk:
        assert talk.get(SECRET).status == 401
    assert "does not say which" in place.policyd.audit("application-refused")[0]["why"]
