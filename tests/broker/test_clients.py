"""What programs use: the Python client, `bastion broker get`, curl; and the examples of BROKER.md."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bastion.broker import client as module
from bastion.broker.client import Broker, BrokerError
from policy import messages as m
from tests.broker.place import Place
from tests.support.net import LOOPBACK

VALUE = "password of deploy"
PAGE = (Path(module.__file__).parent / "BROKER.md").read_text()


@pytest.fixture(scope="module", autouse=True)
def shop(place: Place) -> None:
    place.application("shop", "deploy@web1")


def test_the_examples_of_the_page_are_what_happens(place: Place) -> None:
    pairs = re.findall(r"^```request\n(.*?)```\n\n```answer\n(\d+)\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(pairs) == PAGE.count("```request") == 7
    lease = ""
    for request, status, body in pairs:
        first, *fields = request.replace("LEASE", lease).splitlines()
        method, path = first.split()
        with place.local() as talk:
            answer = talk.get(path, *fields, method=method)
        assert answer.status == int(status), request
        wanted, told = json.loads(body), answer.told
        lease = lease or told["lease"]
        assert told.keys() == wanted.keys(), request
        assert {key: told[key] for key, value in wanted.items() if value != "..."} == {
            key: value for key, value in wanted.items() if value != "..."
        }


def test_the_python_client(place: Place) -> None:
    with Broker(str(place.socket), application="shop") as broker:
        secret = broker.get("deploy@web1")
        assert (secret.value, secret.data, secret.kind) == (VALUE, VALUE.encode(), "password")
        assert VALUE not in repr(secret)
        assert broker.whoami()["application"] == "shop"
        assert broker.renew(secret.lease)["superseded"] is False
        broker.end(secret.lease)
        with pytest.raises(BrokerError, match="no such lease") as error:
            broker.renew(secret.lease)
        assert (error.value.status, len(error.value.ref)) == (410, 8)
        place.stop()
        place.start()
        assert broker.get("deploy@web1").value == VALUE  # on a new connection
    with Broker(str(place.socket), application="nobody", patience=0) as broker:
        with pytest.raises(BrokerError) as error:
            broker.get("deploy@web1")
        assert error.value.status == 401
    with Broker(str(place.socket) + "x", patience=0) as broker, pytest.raises(BrokerError, match="does not answer"):
        broker.get("deploy@web1")


def test_the_python_client_over_https(place: Place, tmp_path: Path) -> None:
    place.application("remote", "deploy@web1", certificate=place.fingerprint("shop"))
    file = tmp_path / "token"
    file.write_text(place.token("remote") + "\n")
    options: dict[str, Any] = {"url": f"https://localhost:{place.port}", "token_file": str(file), "patience": 0}
    pki = place.pki
    with Broker(ca=str(pki / "ca.crt"), certificate=str(pki / "shop.crt"), key=str(pki / "shop.key"), **options) as one:
        assert one.get("deploy@web1").value == VALUE
        old = file.read_text()
        file.write_text("app-" + "x" * 52)  # read again for each request
        with pytest.raises(BrokerError):
            one.get("deploy@web1")
        file.write_text(old)
        assert one.get("deploy@web1").value == VALUE
    with Broker(ca=str(pki / "other.crt"), **options) as one, pytest.raises(BrokerError, match="CERTIFICATE_VERIFY"):
        one.get("deploy@web1")  # the token does not go to somebody else
    with pytest.raises(ValueError, match="no https"):
        Broker(url=f"http://localhost:{place.port}")


def test_the_python_client_needs_nothing_of_ours(place: Place, tmp_path: Path) -> None:
    shutil.copy(module.__file__, tmp_path / "broker_client.py")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from broker_client import Broker;"
        "print(Broker(sys.argv[2], application='shop').get('deploy@web1').value)"
    )
    python = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    words = [python, "-I", "-c", code, str(tmp_path), str(place.socket)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == VALUE + "\n", done.stderr


def test_a_busy_bastion_is_waited_for(place: Place) -> None:
    place.application("eager", "deploy@web1", rate=2)
    with Broker(str(place.socket), application="eager", patience=20) as broker:
        assert [broker.get("deploy@web1").value for _ in range(8)] == [VALUE] * 8
    with Broker(str(place.socket), application="eager", patience=0) as broker:
        with pytest.raises(BrokerError) as error:
            list(map(broker.get, ["deploy@web1"] * 1000))  # to the first that is too soon
        assert error.value.status == 429


def bastion(*words: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([sys.executable, "-m", "bastion", *words], capture_output=True, check=False, timeout=60)


def test_bastion_broker_get(place: Place, tmp_path: Path) -> None:
    here = ("broker", "get", "--socket", str(place.socket), "--application")
    done = bastion(*here, "shop", "deploy@web1")
    assert (done.returncode, done.stdout, done.stderr) == (0, VALUE.encode(), b"")
    told = json.loads(bastion(*here, "shop", "deploy@web1", "--json").stdout)
    assert (told["value"], told["version"], len(told["lease"])) == (VALUE, 1, 32)
    done = bastion(*here, "shop", "root@web1")
    assert (done.returncode, done.stdout) == (77, b"")
    assert done.stderr.startswith(b"bastion: no access to this secret")
    done = bastion("broker", "get", "--socket", str(tmp_path / "none"), "--patience", "0", "x")
    assert done.returncode == 69
    assert b"does not answer" in done.stderr
    place.application("cli", "deploy@web1", addresses=[LOOPBACK])
    (tmp_path / "token").write_text(place.token("cli"))
    done = bastion("broker", "get", "--url", f"https://localhost:{place.port}", "--ca", str(place.pki / "ca.crt"),
                   "--token-file", str(tmp_path / "token"), "deploy@web1")  # fmt: skip
    assert (done.stdout, done.stderr) == (VALUE.encode(), b"")


def test_bastion_application(place: Place) -> None:
    """Each word, with --json."""
    ours = ("-c", str(place.policyd.config))

    def said(*words: str) -> Any:
        done = bastion("application", *words, "--json", *ours)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    said("add", "words", "--uid", str(os.getuid()), "--rate", "50/s", "--reason", "a", "test")
    assert any(row["application"] == "words" and row["rate"] == "50" for row in said("list"))
    said("set", "words", "--unit", "words.service", "--unbind", "uid", "--rate", "7")
    shown = {row["what"]: row["value"] for row in said("show", "words")}
    assert (shown["unit"], shown.get("uid"), shown["rate"]) == ("words.service", None, "7")
    said("disable", "words")
    assert [row["state"] for row in said("list") if row["application"] == "words"] == ["disabled"]
    said("enable", "words")
    said("set", "words", "--unbind", "unit", "--address", "10.0.0.0/8")
    token = said("token", "words", "--for", "10m")
    assert re.fullmatch(r"app-[a-z2-7]{52}", token["token"])
    assert said("revoke", "words", token["id"])["tokens"] == "1"
    assert said("leases", "words") == []
    said("remove", "words")
    done = bastion("application", "show", "words", *ours)
    assert (done.returncode, done.stderr.split(b"\n")[0]) == (64, b"bastion: no application `words`")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"name": "x"}, "at least one binding"),
        ({"name": "X", "uid": 1}, "not made of"),
        ({"name": "x", "uid": 1, "addresses": ["10.0.0.0/8"]}, "never hold together"),
        ({"name": "x", "addresses": ["10.0.0.1/8"]}, "want an address"),
        ({"name": "x", "addresses": ["::ffff:10.0.0.1"]}, "write the IPv4 one"),
        ({"name": "x", "addresses": [f"10.0.0.{n}" for n in range(17)]}, "at most 16"),
        ({"name": "x", "certificate": "00"}, "no SHA-256"),
        ({"name": "x", "unit": "shop"}, "want one like"),
        ({"name": "x", "unit": "a/../shop.service"}, "want one like"),
        ({"name": "x", "executable": "shop"}, "want a whole path"),
        ({"name": "x", "executable": "/usr/../shop"}, "want a whole path"),
        ({"name": "x", "uid": 2**32}, "want 0 to"),
        ({"name": "x", "uid": 1, "rate": 10**6}, "want 1 to"),
        ({"name": "x", "uid": 1, "owner": "zoe"}, "no person"),
        ({"name": "shop", "uid": 1}, "exists already"),
    ],
)
def test_what_is_no_application_is_refused(place: Place, words: dict[str, Any], problem: str) -> None:
    refused = place.policyd.command(m.ApplicationAdd(**words))
    assert isinstance(refused, m.Refused)
    assert problem in refused.cause


def test_owners_and_administrators(place: Place) -> None:
    """What binds an application is its owner's alone: who may say who it is reads what is shared with it."""
    place.application("alices", "deploy@web1", addresses=[LOOPBACK], owner="alice")
    with place.policyd.login("alice") as alice, place.policyd.login("ada") as ada, place.policyd.login("bob") as bob:
        assert isinstance(alice.ask(m.ApplicationToken(name="alices")), m.Done)
        for question in (
            m.ApplicationToken(name="alices"),
            m.ApplicationSet(name="alices", addresses=["10.0.0.0/8"]),
            m.ApplicationSet(name="alices", owner="ada"),
        ):
            assert isinstance(ada.ask(question), m.Refused), question
        for question in (
            m.ApplicationShow(name="alices"), m.ApplicationToken(name="alices"), m.ApplicationRemove(name="alices"),
            m.ApplicationRevoke(name="alices"), m.LeaseList(), m.LeaseList(name="alices"),
            m.ApplicationAdd(name="bobs", uid=1), m.ApplicationSet(name="nowhere", rate=3),
        ):  # fmt: skip
            refused = bob.ask(question)
            assert isinstance(refused, m.Refused), question
            assert refused.cause == "you may not do this" or "not shown to you" in refused.cause
        assert [row[0] for row in bob.ask(m.ApplicationList()).rows] == []
        assert [row[0] for row in alice.ask(m.ApplicationList()).rows] == ["alices"]
        # an administrator hands it on, to somebody else, and ends it
        assert isinstance(ada.ask(m.ApplicationSet(name="alices", owner="bob")), m.Done)
        assert isinstance(alice.ask(m.ApplicationToken(name="alices")), m.Refused)
        assert isinstance(ada.ask(m.ApplicationSet(name="alices", disabled=True)), m.Done)
        assert isinstance(ada.ask(m.ApplicationRemove(name="alices")), m.Done)


def test_applications_of_who_leaves(place: Place) -> None:
    """They go to the heir, or to nobody; the tokens that the one who left has made end."""
    place.policyd.person("lea", "engineer")
    place.policyd.person("ivo", "engineer")
    place.application("leas", "deploy@web1", addresses=[LOOPBACK], owner="lea")
    with place.policyd.login("lea") as lea:
        token = lea.ask(m.ApplicationToken(name="leas")).data["token"]
    kept = place.token("leas")
    place.policyd.done(m.PersonOffboard(name="lea", heir="ivo"))
    for _ in range(2):  # and after a start, too
        with place.remote() as talk:
            assert talk.get("/v1/secrets/deploy@web1", f"Authorization: Bearer {kept}").status == 200
            assert talk.get("/v1/secrets/deploy@web1", f"Authorization: Bearer {token}").status in (401, 429)
        shown = {row[0]: row[1] for row in place.policyd.done(m.ApplicationShow(name="leas")).rows}
        assert shown["owner"] == "ivo"
        place.policyd.restart()
    place.policyd.done(m.PersonOffboard(name="ivo"))
    shown = {row[0]: row[1] for row in place.policyd.done(m.ApplicationShow(name="leas")).rows}
    assert "owner" not in shown


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl(place: Place) -> None:
    place.application("curls", "deploy@web1", certificate=place.fingerprint("shop"))
    token, pki = place.token("curls"), place.pki
    local = ["curl", "-sS", "--unix-socket", str(place.socket), "-H", "Bastion-Application: shop"]
    remote = ["curl", "-sS", "--cacert", str(pki / "ca.crt"), "--cert", str(pki / "shop.crt"), "--key",
              str(pki / "shop.key"), "-H", f"Authorization: Bearer {token}"]  # fmt: skip
    for words in ([*local, "http://bastion"], [*remote, f"https://localhost:{place.port}"]):
        done = subprocess.run(
            [*words[:-1], f"{words[-1]}/v1/secrets/deploy@web1"], capture_output=True, text=True, check=True, timeout=60
        )
        assert json.loads(done.stdout)["value"] == VALUE
