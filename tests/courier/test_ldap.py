"""The courier's LDAP: against a real slapd, and against peers that misbehave. Over TLS or not at all."""

import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from bastion.courier import ldap
from bastion.courier.ber import MAX_MESSAGE, BadAnswer, first_message
from bastion.courier.reach import Reach
from policy.messages import MAX_MESSAGE as MAX_TOLD
from policy.messages import Called, LdapCall, encode
from tests.support.net import LOOPBACK, free_port
from tests.support.outside import Ca
from tests.support.slapd import BASE, GROUPS, PEOPLE, SERVICE, SERVICE_PASSWORD, SLAPD, Slapd, person
from tests.support.tcp import served

needs_slapd = pytest.mark.skipif(not Path(SLAPD).exists(), reason="needs OpenLDAP's slapd")

INVALID_CREDENTIALS, SIZE_LIMIT, NO_SUCH_OBJECT = 49, 4, 32


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    server = Slapd(tmp_path_factory.mktemp("slapd") / "home")
    server.start()
    try:
        server.add("alice", password="secret of alice", keys=("ssh-ed25519 AAAA one", "ssh-ed25519 AAAB two"))
        server.add("bob")
        yield server
    finally:
        server.stop()


def asked(url: str, ca: Ca | None, **more: Any) -> LdapCall:
    given: dict[str, Any] = {"bind": SERVICE, "password": SERVICE_PASSWORD.encode()} | more
    return LdapCall(task=3, url=url, trust=ca.pem if ca else "", **given)


def call(url: str, ca: Ca | None, **more: Any) -> Called:
    return trio.run(ldap.call, asked(url, ca, **more), Reach())


PERSONS = {"base": PEOPLE, "filter": "(objectClass=inetOrgPerson)", "attributes": ["uid", "sshpublickey", "nothing"]}


@needs_slapd
@pytest.mark.parametrize("way", ["url", "starttls_url"])
def test_a_search_over_tls(slapd: Slapd, way: str) -> None:
    found = call(getattr(slapd, way), slapd.ca, **PERSONS)
    assert (found.task, found.status, found.error, found.next) == (3, 0, "", b"")
    assert dict(found.entries) == {
        f"uid=alice,{PEOPLE}": {"uid": [b"alice"], "sshpublickey": [b"ssh-ed25519 AAAA one", b"ssh-ed25519 AAAB two"]},
        f"uid=bob,{PEOPLE}": {"uid": [b"bob"]},
    }


@needs_slapd
def test_a_password_is_checked_by_a_bind(slapd: Slapd) -> None:
    alice = f"uid=alice,{PEOPLE}"
    assert call(slapd.url, slapd.ca, bind=alice, password=b"secret of alice") == Called(task=3)
    assert call(slapd.url, slapd.ca, bind=alice, password=b"guess") == Called(task=3, status=INVALID_CREDENTIALS)
    assert call(slapd.url, slapd.ca, bind=f"uid=x,{PEOPLE}", password=b"guess").status == INVALID_CREDENTIALS
    assert "UTF-8" in call(slapd.url, slapd.ca, bind=alice, password=b"\xff").error


@pytest.mark.parametrize("given", [{"password": b""}, {"bind": ""}])
def test_a_bind_without_a_password_is_never_sent(given: dict[str, Any]) -> None:
    """RFC 4513 section 5.1.2: servers answer it with success."""
    came: list[socket.socket] = []
    with served(came.append) as (host, port):
        assert "without a name and a password" in call(f"ldaps://{host}:{port}", None, **given).error
    assert came == []


@needs_slapd
@pytest.mark.parametrize("way", ["url", "starttls_url"])
def test_the_certificate_is_checked(slapd: Slapd, way: str, tmp_path: Path) -> None:
    for trusted in (Ca(tmp_path), None):
        assert "certificate that is not accepted" in call(getattr(slapd, way), trusted).error
    other = getattr(slapd, way).replace(LOOPBACK, "localhost")  # its certificate is for the address
    assert "certificate that is not accepted" in call(other, slapd.ca).error


@needs_slapd
def test_what_a_search_cannot_do(slapd: Slapd) -> None:
    assert call(slapd.url, slapd.ca, **PERSONS | {"base": f"ou=x,{BASE}"}).status == NO_SUCH_OBJECT
    assert call(slapd.url, slapd.ca, **PERSONS, password=b"wrong").status == INVALID_CREDENTIALS
    for filter_ in ("(uid=", "uid)", "", "(&(uid=a)", "(!" * 5000 + "(uid=a)" + ")" * 5000):
        found = call(slapd.url, slapd.ca, **PERSONS | {"filter": filter_})
        assert (found.entries, found.error) == ([], "was given a filter that is none"), filter_[:20]


def test_where_nobody_is() -> None:
    assert call(f"ldaps://{LOOPBACK}:{free_port()}", None).error == "cannot be reached: connection refused"
    assert "does not call" in call("ldaps://169.254.169.254", None).error
    for url in ("http://127.0.0.1", "ldaps://", "ldapi:///x", "ldaps://127.0.0.1:0", "ldaps://127.0.0.1:x", "x"):
        assert call(url, None).error == "has no address like ldaps://HOST"


# --- pages ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    """A directory of 450 persons, all in one group."""
    server = Slapd(tmp_path_factory.mktemp("large") / "home").start()
    server.stop()
    server.load("\n".join(person(f"p{number}", keys=("ssh-ed25519 " + "A" * 300,)) for number in range(450)))
    server.start()
    try:
        server.group("all", *(f"p{number}" for number in range(450)))
        yield server
    finally:
        server.stop()


def all_of(url: str, ca: Ca, **more: Any) -> list[Called]:
    """Calls until nothing is left, as policyd makes them."""

    async def ask() -> list[Called]:
        answers = [await ldap.call(asked(url, ca, **more), Reach())]
        while answers[-1].next:
            answers.append(await ldap.call(asked(url, ca, **more, after=answers[-1].next), Reach()))
        return answers

    return trio.run(ask)


@needs_slapd
def test_pages(large: Slapd) -> None:
    answers = all_of(large.url, large.ca, **PERSONS)
    assert [answer.error for answer in answers] == [""] * len(answers)
    assert len(answers) > 3
    assert all(len(encode(1, answer)) <= MAX_TOLD for answer in answers)
    names = [dn for answer in answers for dn, _ in answer.entries]
    assert len(names) == len(set(names)) == 450
    assert ldap._kept == {}


@needs_slapd
def test_a_server_that_gives_smaller_pages(tmp_path: Path) -> None:
    server = Slapd(tmp_path / "home", page="7").start()
    try:
        server.add(*(f"p{number}" for number in range(20)))
        entries = [entry for answer in all_of(server.url, server.ca, **PERSONS) for entry in answer.entries]
        assert len(entries) == 20
    finally:
        server.stop()


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch, ca: Ca) -> None:
    monkeypatch.setitem(sys.modules, "sansldap", None)
    assert "without the extra `ldap`" in against(Peer(ca.context(LOOPBACK)), ca).error


@needs_slapd
def test_an_entry_larger_than_a_message_comes_in_parts(large: Slapd) -> None:
    answers = all_of(large.url, large.ca, base=GROUPS, filter="(cn=all)", attributes=["member"])
    entries = [entry for answer in answers for entry in answer.entries]
    assert {dn for dn, _ in entries} == {f"cn=all,{GROUPS}"}
    assert sum(len(values["member"]) for _, values in entries) == 450


@needs_slapd
def test_a_page_is_for_who_began_the_search(large: Slapd) -> None:
    async def ask(**more: Any) -> Called:
        first = await ldap.call(asked(large.url, large.ca, **PERSONS), Reach())
        assert first.next
        return await ldap.call(asked(large.url, large.ca, **PERSONS | {"after": first.next} | more), Reach())

    assert trio.run(lambda: ask()).error == ""
    for other in ({"password": b"wrong"}, {"base": BASE}, {"after": b"x" * 16}, {"filter": "(uid=*)"}):
        assert trio.run(lambda other=other: ask(**other)).error == "was asked for a page that is no longer there"


@needs_slapd
def test_searches_that_nobody_goes_on_with_are_forgotten(large: Slapd) -> None:
    async def ask() -> None:
        first = [await ldap.call(asked(large.url, large.ca, **PERSONS), Reach()) for _ in range(ldap.KEPT + 1)]
        assert len(ldap._kept) == ldap.KEPT
        gone = await ldap.call(asked(large.url, large.ca, **PERSONS, after=first[0].next), Reach())
        assert "no longer there" in gone.error

    trio.run(ask)


# --- those who misbehave ----------------------------------------------------------------------------

BOUND = bytes.fromhex("300c 020101 6107 0a0100 0400 0400")  # BindResponse of message 1: success
STARTED = bytes.fromhex("300c 020101 7807 0a0100 0400 0400")  # ExtendedResponse of message 1: success


class Peer:
    """An LDAP server that reads one request and says what it was told to, then waits until the client goes."""

    def __init__(self, context: ssl.SSLContext | None, *says: bytes, pause: float = 0.0) -> None:
        self.context, self.says, self.pause = context, says, pause
        self.heard = bytearray()
        self.over = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        if self.context is not None:
            connection = self.context.wrap_socket(connection, server_side=True)
        with connection:
            for word in self.says:
                self.heard += connection.recv(65536)
                for at in range(0, len(word), 1 if self.pause else len(word)):
                    connection.sendall(word[at : at + (1 if self.pause else len(word))])
                    if self.pause:
                        self.over.wait(self.pause)
            while data := connection.recv(65536):
                self.heard += data


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    return Ca(tmp_path_factory.mktemp("ca"))


def against(peer: Peer, ca: Ca, scheme: str = "ldaps", **more: Any) -> Called:
    with served(peer) as (host, port):
        try:
            return call(f"{scheme}://{host}:{port}", ca, **more)
        finally:
            peer.over.set()


def done(*, message: int = 2, code: int = 0) -> bytes:
    return bytes([0x30, 0x0C, 0x02, 0x01, message, 0x65, 0x07, 0x0A, 0x01, code, 0x04, 0x00, 0x04, 0x00])


def entry(name: bytes = b"uid=x", count: int = 1) -> bytes:
    """SearchResultEntry of message 2, without attributes."""
    body = b"\x04" + bytes([len(name)]) + name + b"\x30\x00"
    one = b"\x02\x01\x02\x64" + bytes([len(body)]) + body
    return (b"\x30" + bytes([len(one)]) + one) * count


GARBAGE = {
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "no sequence": b"\x02\x01\x01" + BOUND,
    "indefinite length": b"\x30\x80" + BOUND[2:] + b"\0\0",
    "a length of 126 bytes": b"\x30\xfe" + b"\xff" * 126,
    "a tag of many bytes": b"\x30\x83\x01\x00\x00\x1f" + b"\xff" * 0xFFFF,
    "a value longer than its message": b"\x30\x03\x02\x05\x01",
    "nested": b"".join(bytes([0x30, 0x82, *(4 * n).to_bytes(2, "big")]) for n in range(60, 0, -1)) + b"\x30\x02\x05\0",
    "another message": bytes([0x30, 0x0C, 0x02, 0x01, 0x07]) + BOUND[5:],
    "a request": bytes.fromhex("3005 020101 4200"),
    "an answer to a search": done(message=1),
    "no message": bytes.fromhex("3003 020101"),
    "no UTF-8": bytes.fromhex("300d 020101 6108 0a0100 0401ff 0400"),
    "disconnection": bytes.fromhex("3024 020100 781f 0a0134 0400 0400 8a16") + b"1.3.6.1.4.1.1466.20036",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_no_answer(what: str, ca: Ca) -> None:
    found = against(Peer(ca.context(LOOPBACK), GARBAGE[what]), ca, **PERSONS)
    assert "answer" in found.error, found
    assert (found.status, found.entries) == (0, [])


def test_the_larger_ones_are_cut_off(ca: Ca) -> None:
    context = ca.context(LOOPBACK)
    huge = Peer(context, BOUND, b"\x30\x84" + (MAX_MESSAGE + 1).to_bytes(4, "big"))
    assert "more than 4 MiB" in against(huge, ca, **PERSONS).error
    many = Peer(context, BOUND, entry(count=ldap.PAGE + 1) + done())
    assert "more than the 200 entries" in against(many, ca, **PERSONS).error
    named = b"uid=" + b"x" * 1100
    body = b"\x04\x82" + len(named).to_bytes(2, "big") + named + b"\x30\x00"
    one = b"\x02\x01\x02\x64\x82" + len(body).to_bytes(2, "big") + body
    long = Peer(context, BOUND, b"\x30\x82" + len(one).to_bytes(2, "big") + one + done())
    assert "more than 1024 characters" in against(long, ca, **PERSONS).error


def test_a_search_that_was_cut_off_brings_no_entries(ca: Ca) -> None:
    """Half of the persons taken for all of them would offboard the others."""
    for code in (SIZE_LIMIT, 3, 11, 80, 10):
        found = against(Peer(ca.context(LOOPBACK), BOUND, entry() + done(code=code)), ca, **PERSONS)
        assert (found.status, found.entries, found.next) == (code, [], b"")
    assert "broke the connection off" in against(Silent(ca.context(LOOPBACK), BOUND, entry()), ca, **PERSONS).error


class Silent(Peer):
    """Closes when it has said everything."""

    def __call__(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        assert self.context is not None
        with self.context.wrap_socket(connection, server_side=True) as encrypted:
            for word in self.says:
                encrypted.recv(65536)
                encrypted.sendall(word)


def test_the_slow_ones_end_in_time(ca: Ca) -> None:
    began = time.monotonic()
    for peer in (Peer(ca.context(LOOPBACK)), Peer(ca.context(LOOPBACK), BOUND * 100, pause=0.1), Peer(None)):
        assert against(peer, ca, seconds=0.5).error in ("gave no whole answer within 0.5 s", "")
    assert time.monotonic() - began < 15


def test_nothing_is_sent_in_the_clear(ca: Ca) -> None:
    """Who sits on the way refuses STARTTLS, or says that the bind went well."""
    refused = bytearray(STARTED)
    refused[9] = 2
    for says in (bytes(refused), BOUND, b"garbage"):
        peer = Peer(None, says)
        assert against(peer, ca, "ldap").error
        assert SERVICE_PASSWORD.encode() not in peer.heard
    assert "offers no STARTTLS" in against(Peer(None, BOUND), ca, "ldap").error
    # the answer to the bind, put behind that to STARTTLS, must not be taken for one that came encrypted
    assert "in the clear" in against(Peer(None, STARTED + BOUND), ca, "ldap").error


def test_referrals_are_not_followed(ca: Ca) -> None:
    """They would carry the password to whom the directory names."""
    came: list[socket.socket] = []
    with served(came.append) as (host, port):
        place = f"ldap://{host}:{port}/".encode()
        referral = b"\xa3" + bytes([len(place) + 2]) + b"\x04" + bytes([len(place)]) + place
        result = b"\x0a\x01\x0a\x04\x00\x04\x00" + referral
        op = b"\x02\x01\x01\x61" + bytes([len(result)]) + result
        bind = b"\x30" + bytes([len(op)]) + op
        assert against(Peer(ca.context(LOOPBACK), bind), ca).status == 10
        name = b"\x04" + bytes([len(place)]) + place
        op = b"\x02\x01\x02\x73" + bytes([len(name)]) + name
        elsewhere = b"\x30" + bytes([len(op)]) + op
        found = against(Peer(ca.context(LOOPBACK), BOUND, elsewhere + entry() + done()), ca, **PERSONS)
        assert (found.error, [dn for dn, _ in found.entries]) == ("", ["uid=x"])
    assert came == []


def test_messages_are_cut_and_checked() -> None:
    assert first_message(b"") == first_message(BOUND[:5]) == first_message(b"\x30\x83\x01") == 0
    assert first_message(BOUND + b"more") == len(BOUND)
    deep = b"\x05\x00"
    for _ in range(60):
        deep = b"\x30\x82" + len(deep).to_bytes(2, "big") + deep
    tagged = b"\x30\x04\x1f\x81\x01\x00"
    for bad in (deep, tagged, b"\x31\x00", b"\x30\x85" + b"\x01" * 5, b"\x30\x84\xff\xff\xff\xff", b"\x30\x02\x04\x01"):
        with pytest.raises(BadAnswer):
            first_message(bad)
