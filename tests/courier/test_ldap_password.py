"""Passwords in a directory: a real slapd over TLS, and peers that break off, lie, or want it in the clear."""

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from bastion.courier import ldap, ldap_modify, ldap_password
from bastion.courier.ber import BadAnswer, first_message
from bastion.courier.reach import Reach
from policy.ldap.passwords import judged, verified
from policy.messages import Called, LdapCall, LdapPassword, Worked
from policy.outside.couriers import NO_ANSWER, NO_COURIER, TOO_BUSY
from tests.support.net import LOOPBACK, free_port
from tests.support.outside import Ca
from tests.support.slapd import PEOPLE, ROOT, ROOT_PASSWORD, SLAPD, Slapd
from tests.support.tcp import served

needs_slapd = pytest.mark.skipif(not Path(SLAPD).exists(), reason="needs OpenLDAP's slapd")

OLD, NEW = b"first-Password-0815", b"Second-Password-4711"
ALICE = f"uid=alice,{PEOPLE}"
AD_LIKE = """\
attributetype ( 1.2.840.113556.1.4.90 NAME 'unicodePwd' EQUALITY octetStringMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.99999.2 NAME 'adLike' SUP top AUXILIARY MAY ( unicodePwd ) )
"""
RULES = """\
access to attrs=userPassword by self write by anonymous auth by * none
access to attrs=unicodePwd by self write by * read
access to * by * read
"""


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    server = Slapd(tmp_path_factory.mktemp("slapd") / "home", options=AD_LIKE, rules=RULES).start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def alice(slapd: Slapd) -> Iterator[Slapd]:
    slapd.add("alice", password=OLD.decode(), more="objectClass: adLike")
    slapd.set("alice", "add: unicodePwd", "unicodePwd:: " + _base64(ldap_modify.quoted(OLD)))
    yield slapd
    slapd.remove("alice")


def _base64(data: bytes) -> str:
    return subprocess.run(["base64", "-w0"], input=data, capture_output=True, check=True).stdout.decode()


def change(url: str, ca: Ca | None, **more: Any) -> Called:
    given: dict[str, Any] = {
        "bind": ROOT, "password": ROOT_PASSWORD.encode(), "entry": ALICE, "way": "extended", "new": NEW,
    } | more  # fmt: skip
    return trio.run(ldap_password.call, LdapPassword(task=3, url=url, trust=ca.pem if ca else "", **given), Reach())


def opens(slapd: Slapd, password: bytes) -> str:
    call = LdapCall(task=1, url=slapd.url, bind=ALICE, password=password, trust=slapd.ca.pem)
    return verified(trio.run(ldap.call, call, Reach())).outcome


def unicode_of(slapd: Slapd) -> bytes:
    call = LdapCall(
        task=1, url=slapd.url, bind=ROOT, password=ROOT_PASSWORD.encode(), base=PEOPLE, filter="(uid=alice)",
        attributes=["unicodePwd"], trust=slapd.ca.pem,
    )  # fmt: skip
    ((_, values),) = trio.run(ldap.call, call, Reach()).entries
    return values["unicodePwd"][0]


# --- RFC 3062 -------------------------------------------------------------------------------------------


@needs_slapd
@pytest.mark.parametrize("way", ["url", "starttls_url"])
def test_a_privileged_bind_resets_it(alice: Slapd, way: str) -> None:
    answer = change(getattr(alice, way), alice.ca)
    assert (answer.task, answer.status, answer.error, answer.values[0]) == (3, 0, "", "told")
    assert judged(answer).outcome == "done"
    assert (opens(alice, NEW), opens(alice, OLD)) == ("done", "refused")


@needs_slapd
def test_its_owner_changes_it(alice: Slapd) -> None:
    answer = change(alice.url, alice.ca, bind=ALICE, password=OLD, old=OLD)
    assert judged(answer).outcome == "done"
    assert (opens(alice, NEW), opens(alice, OLD)) == ("done", "refused")


@needs_slapd
@pytest.mark.parametrize("way", ["extended", "unicode"])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"password": b"wrong"}, False),
        ({"entry": f"uid=nobody,{PEOPLE}"}, True),
        ({"entry": "no name"}, True),
        ({"bind": ALICE, "password": OLD, "old": b"not the old one"}, True),
    ],
)
def test_what_the_directory_refuses(alice: Slapd, way: str, wrong: dict[str, Any], told: bool) -> None:
    answer = change(alice.url, alice.ca, way=way, **wrong)
    assert answer.status
    assert (answer.values[:1] == ["told"]) is told
    assert judged(answer).outcome == "refused"
    assert (opens(alice, OLD), opens(alice, NEW)) == ("done", "refused")


# --- unicodePwd -----------------------------------------------------------------------------------------


@needs_slapd
def test_the_attribute_of_active_directory(alice: Slapd) -> None:
    assert judged(change(alice.url, alice.ca, way="unicode")).outcome == "done"
    assert unicode_of(alice) == '"Second-Password-4711"'.encode("utf-16-le")
    third = change(alice.url, alice.ca, way="unicode", bind=ALICE, password=OLD, old=NEW, new="dritt€ß".encode())
    assert judged(third).outcome == "done"
    assert unicode_of(alice) == '"dritt€ß"'.encode("utf-16-le")


def test_a_change_is_one_request_so_that_it_is_all_or_nothing() -> None:
    """[MS-ADTS] 3.1.1.3.1.5: delete the old value and add the new one, in one modify."""
    entry, old, new = "cn=a", '"o"'.encode("utf-16-le"), '"n"'.encode("utf-16-le")
    operations = b"".join(
        ldap_modify.value(
            0x30,
            b"\x0a\x01" + bytes([operation]),
            ldap_modify.value(0x30, b"\x04\x0aunicodePwd", ldap_modify.value(0x31, ldap_modify.value(4, what))),
        )
        for operation, what in ((1, old), (0, new))
    )
    body = ldap_modify.value(0x66, b"\x04\x04cn=a", ldap_modify.value(0x30, operations))
    assert ldap_modify.unicode_password(entry, b"o", b"n") == ldap_modify.value(0x30, b"\x02\x02\x03\xe8", body)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536])
def test_lengths(size: int) -> None:
    data = ldap_modify.value(0x30, ldap_modify.value(4, bytes(size)))
    assert first_message(data) == len(data)


# --- what never leaves ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"password": b""}, {"bind": ""}, {"new": b""}, {"entry": ""}, {"new": b"\xff"}, {"new": b"two\nlines"},
        {"old": b"\x00"}, {"new": b"x" * 257}, {"way": "else"},
    ],
)  # fmt: skip
def test_what_is_not_even_tried(given: dict[str, Any]) -> None:
    came: list[socket.socket] = []
    with served(came.append) as (host, port):
        answer = change(f"ldaps://{host}:{port}", None, **given)
    assert answer.error
    assert judged(answer).outcome == "unreachable"
    assert came == []


@needs_slapd
def test_nothing_goes_in_the_clear_or_to_somebody_else(alice: Slapd, tmp_path: Path) -> None:
    for url, ca in ((alice.url, Ca(tmp_path)), (alice.starttls_url, Ca(tmp_path)), (alice.url, None)):
        answer = change(url, ca)
        assert "certificate that is not accepted" in answer.error
        assert judged(answer).outcome == "unreachable"
    heard: list[bytes] = []

    def plain(sock: socket.socket) -> None:
        heard.append(sock.recv(4096))
        sock.sendall(b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x02\x04\x00\x04\x00")  # no STARTTLS here
        heard.append(sock.recv(4096))

    with served(plain) as (host, port):
        assert "nothing is sent in the clear" in change(f"ldap://{host}:{port}", None).error
    assert NEW not in b"".join(heard)
    assert ROOT_PASSWORD.encode() not in b"".join(heard)


def test_where_nobody_is() -> None:
    answer = change(f"ldaps://{LOOPBACK}:{free_port()}", None)
    assert judged(answer) == Worked(task=0, outcome="unreachable", detail="cannot be reached: connection refused")


# --- peers that misbehave -------------------------------------------------------------------------------

BOUND = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00"


def answer_of(code: int, text: bytes = b"", tag: int = 0x78, message: int = ldap_modify.MESSAGE) -> bytes:
    body = ldap_modify.value(tag, b"\x0a\x01" + bytes([code]), b"\x04\x00", ldap_modify.value(4, text))
    return ldap_modify.value(0x30, ldap_modify.value(2, message.to_bytes(2)), body)


def against(tmp_path: Path, reply: bytes | None) -> Called:
    """A directory that binds, takes the change, and says `reply`; None: nothing at all."""
    ca = Ca(tmp_path)
    context = ca.context(LOOPBACK)

    def talk(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(4096)
            tls.sendall(BOUND)
            tls.recv(4096)
            if reply is not None:
                tls.sendall(reply)
                return
            with suppress(OSError, ssl.SSLError):
                tls.recv(4096)  # until it is given up

    with served(talk) as (_, port):
        return change(f"ldaps://{LOOPBACK}:{port}", ca, seconds=2.0 if reply is None else 20.0)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (answer_of(0), "done"),
        (answer_of(0, tag=0x67), "done"),
        (answer_of(19, b"too short"), "refused"),
        (answer_of(52, b"later"), "unknown"),  # unavailable
        (b"", "unknown"),  # it breaks off
        (None, "unknown"),  # it says nothing
        (answer_of(0, tag=0x61), "unknown"),  # another answer
        (answer_of(0, message=7), "unknown"),
        (b"\x30\x03\x02\x01\x01", "unknown"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "unknown"),
    ],
)
def test_once_it_was_told_nobody_knows(reply: bytes | None, outcome: str, tmp_path: Path) -> None:
    answer = against(tmp_path, reply)
    assert answer.values[0] == "told"
    assert judged(answer).outcome == outcome


def test_a_directory_that_says_the_password_back(tmp_path: Path) -> None:
    answer = against(tmp_path, answer_of(19, b"the password Second-Password-4711 is\x1b[2J bad"))
    assert answer.values == ["told", "the password [secret] is\x1b[2J bad"]
    assert judged(answer).detail == "it breaks a rule of the directory for passwords: the password [secret] is[2J bad"


@pytest.mark.parametrize("error", [NO_ANSWER, NO_COURIER])
def test_a_courier_that_says_nothing_may_have_told_it(error: str) -> None:
    assert judged(Called(task=0, error=error)).outcome == "unknown"
    assert judged(Called(task=0, error=TOO_BUSY)).outcome == "unreachable"
    assert verified(Called(task=0, error=error)).outcome == "unreachable"


def test_what_a_bind_proves() -> None:
    assert verified(Called(task=1)).outcome == "done"
    assert verified(Called(task=1, status=49)).outcome == "refused"
    for status in (8, 51, 52, 53, 80):
        assert verified(Called(task=1, status=status)).outcome == "unreachable"


@pytest.mark.parametrize("cut", range(1, 20))
def test_an_answer_cut_short_is_none(cut: int) -> None:
    whole = answer_of(0)
    with pytest.raises(BadAnswer):
        ldap_modify.result(whole[:-cut])
