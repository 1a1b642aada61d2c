"""What reaches the broker: bytes of HTTP, and what /proc says of a process that chose its own name."""

import contextlib
import json

import h11

from bastion.broker import api
from bastion.broker.crowd import host_of, plain
from bastion.broker.door import MAX_HEAD
from bastion.broker.traces import started_of, unit_of
from policy.messages import MAX_MESSAGE, Applicant, decode_request, encode
from tests.fuzz.registry import target

GET = b"GET /v1/secrets/deploy@web1 HTTP/1.1\r\nHost: bastion\r\nBastion-Application: shop\r\n"
POST = b"POST /v1/leases/" + b"0" * 32 + b"/renew HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer app-x\r\n"


@target(
    "broker-http",
    samples=(
        GET + b"\r\n",
        GET + b"Content-Length: 5\r\n\r\nhello",
        GET + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        POST + b"\r\n" + GET + b"\r\n",
        b"GET /v1/self HTTP/1.0\r\n\r\n",
        b"DELETE /v1/leases/%30 HTTP/1.1\r\nHost: b\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n\r\n",
    ),
)
def broker_http(raw: bytes) -> None:
    """Whatever comes is one of ours or has an answer; nothing that is asked for has a body."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    with contextlib.suppress(h11.RemoteProtocolError):
        http.receive_data(raw)
        event = http.next_event()
        if not isinstance(event, h11.Request):
            return
        try:
            asked = api.asked(event.method, event.target, event.headers)
        except api.Wrong as wrong:
            answered(wrong.answer)
            return
        assert isinstance(http.next_event(), h11.EndOfMessage)
        if not isinstance(asked.body, api.Self):
            data = encode(1, asked.body)
            assert len(data) <= MAX_MESSAGE
            assert decode_request(data) == (1, asked.body)
        said = Applicant(name=asked.application, token=asked.token)
        assert decode_request(encode(1, said)) == (1, said)


def answered(answer: api.Answer) -> None:
    assert 400 <= answer.status < 600
    assert json.loads(answer.body)["error"]


@target("broker-cgroup", samples=(b"0::/system.slice/shop.service\n", b"1:name=systemd:/a.slice/b.scope\n0::/\n"))
def broker_cgroup(raw: bytes) -> None:
    unit = unit_of(raw.decode(errors="replace"))
    assert "/" not in unit
    assert not unit or unit.endswith((".service", ".scope"))


@target("broker-stat", samples=(b"7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22",))
def broker_stat(raw: bytes) -> None:
    assert started_of(raw.decode(errors="replace")) >= -1


@target("broker-address", errors=(ValueError,), samples=(b"192.0.2.1", b"::ffff:192.0.2.1", b"fe80::1%eth0"))
def broker_address(raw: bytes) -> None:
    assert host_of(plain(raw.decode("latin-1")))
