"""Parsers of what the outside answers: JSON in the courier, values and files of tickets in policyd."""

import hashlib
import hmac
import json
from datetime import UTC, datetime

from bastion.courier import ldap_modify, radius_wire
from bastion.courier.ber import BadAnswer, first_message
from bastion.courier.places import may_call
from bastion.courier.pointers import MAX_VALUE, MAX_VALUES, BadDocument, pick
from policy.messages import Called
from policy.tickets.judging import judge
from policy.tickets.model import Place, TicketProblem
from policy.tickets.reading import pointers, read, request
from policy.tickets.ticketfile import find
from tests.fuzz.registry import target
from tests.policy.tickets.test_tickets import FILE, JIRA, TICKETS, jira_issue, system

NOW = datetime(2026, 11, 25, 20, 0, tzinfo=UTC)
PLACE = Place(person="alice", account="root", target="web1", labels={})
IT = system(JIRA)
OF_A_FILE = system(FILE)
WANTED = pointers(IT)
ISSUE = json.dumps(jira_issue()).encode()


@target("json-picks", errors=(BadDocument,), samples=(ISSUE, b'{"a":[1,{"b":null}],"":"\\ud800"}', b"[" * 70))
def json_picks(raw: bytes) -> None:
    found = pick(raw, [*WANTED, "/a/0", "/a/1/b", "/", ""])
    assert len(found) == len(WANTED) + 4
    assert sum(map(len, found)) <= MAX_VALUES
    assert all(len(one) <= MAX_VALUE and one.isascii() for one in found)


@target("ticket-answers", errors=(TicketProblem,), samples=(b"\n".join(text.encode() for text in pick(ISSUE, WANTED)),))
def ticket_answers(raw: bytes) -> None:
    """Values as a courier would hand them over, one a line: what is not in order is never ok."""
    values = [line.decode("utf-8", "replace") for line in raw.split(b"\n")]
    values += [""] * (len(WANTED) - len(values))
    found = read(IT, "OPS-7", Called(task=1, status=200, values=values[: len(WANTED)]))
    fact = judge(IT, "OPS-7", PLACE, found, NOW)
    assert fact.detail.isprintable()
    assert not fact.ok or (found.status.lower() in IT.status and fact.closes is not None and fact.closes > NOW)


@target("ticket-numbers", errors=(TicketProblem,), samples=(b"OPS-7", b"OPS-7?x=1", b"../../x", "OPS-\u0667".encode()))
def ticket_numbers(raw: bytes) -> None:
    call = request(IT, raw.decode("utf-8", "replace"), PLACE)
    assert call.url.startswith("https://jira.example.org/rest/api/2/issue/")
    assert call.url.count("?") == 1
    assert call.url.isascii()
    assert call.url.isprintable()


@target("ticket-file", errors=(TicketProblem,), samples=(TICKETS.encode(),))
def ticket_file(raw: bytes) -> None:
    judge(OF_A_FILE, "C-1", PLACE, find(OF_A_FILE, "C-1", raw.decode("utf-8", "replace")), NOW)


@target(
    "places", errors=(ValueError,), samples=(b"127.0.0.1", b"::ffff:169.254.169.254", b"fe80::1%eth0", b"64:ff9b::1")
)
def places(raw: bytes) -> None:
    may_call(raw.decode("utf-8", "replace"))


_ASKED = bytes(range(16))
_REQUEST = bytes([radius_wire.REQUEST, 7, 0, 20]) + _ASKED


@target("radius-answer", errors=(radius_wire.BadPacket,), samples=(b"\x0b\x12\x05PIN\x18\x061234", b"\x02"))
def radius_answer(raw: bytes) -> None:
    """As it comes, and signed as by a server that knows the secret: its first byte is the code, the rest attributes."""
    answer = b""
    if raw[1:] and len(raw) < radius_wire.MAX_PACKET - 38:
        body = bytes([80, 18]) + bytes(16) + raw[1:]
        head = raw[:1] + b"\x07" + (20 + len(body)).to_bytes(2)
        body = body[:2] + hmac.digest(b"secret", head + _ASKED + body, "md5") + body[18:]
        answer = head + hashlib.md5(head + _ASKED + body + b"secret").digest() + body
    try:
        radius_wire.read_answer(raw, _REQUEST, b"secret")
    except radius_wire.BadPacket:
        pass
    else:
        raise AssertionError("an answer that nobody signed")
    found = radius_wire.read_answer(answer, _REQUEST, b"secret")
    assert len(found.state) <= radius_wire.MAX_VALUE


@target("ldap-changes", errors=(BadAnswer,), samples=(b"\x30\x0d\x02\x02\x03\xe8\x67\x07\x0a\x01\x00\x04\x00\x04\x00",))
def ldap_changes(raw: bytes) -> None:
    """What a directory answers to a change of a password."""
    if first_message(raw) == len(raw):
        code, text = ldap_modify.result(raw)
        assert 0 <= code < 2**32
        assert len(text) <= ldap_modify.MAX_TEXT
