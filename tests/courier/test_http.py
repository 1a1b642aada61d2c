"""The courier's HTTP against servers that behave and misbehave: whatever they do, there is one answer, in time."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from bastion.courier import http
from bastion.courier.places import may_call, networks
from bastion.courier.reach import Reach
from policy.messages import Called, HttpCall
from tests.support.net import free_port
from tests.support.outside import Asked, Behave, Ca, Outside, answer, raw
from tests.support.tcp import served


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    return Ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def server(ca: Ca) -> Iterator[Outside]:
    with Outside(context=ca.context("127.0.0.1", "localhost")).served() as server:
        yield server


def call(url: str, ca: Ca | None = None, reach: Reach | None = None, **more: Any) -> Called:
    more.setdefault("pick", ["/a"])
    request = HttpCall(task=7, method=more.pop("method", "GET"), url=url, trust=ca.pem if ca else "", **more)
    return trio.run(http.call, request, reach or Reach())


def test_values_by_pointer(server: Outside, ca: Ca) -> None:
    server.behave = answer({"a": {"b/c": [1, {"d~": None}]}, "": True, "é": "x"}, Retry_After="7")
    found = call(
        server.url + "/x?y=1", ca, pick=["/a/b~1c/0", "/a/b~1c/1/d~0", "/", "/é", "/a/b~1c/01", "/a/b~1c/-", "/none/x"],
        headers={"Authorization": "Bearer t"},
    )  # fmt: skip
    assert found == Called(
        task=7, status=200, values=["1", "null", "true", '"x"', "", "", ""], headers={"retry-after": "7"}
    )
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.headers["authorization"]) == ("GET", "/x?y=1", "Bearer t")
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["host"] == f"127.0.0.1:{server.port}"


def test_a_body_is_posted(server: Outside, ca: Ca) -> None:
    assert call(server.url, ca, method="POST", body=b'{"text": "x"}', pick=[]) == Called(task=7, status=200)
    assert (server.asked[0].method, server.asked[0].body) == ("POST", b'{"text": "x"}')


@pytest.mark.parametrize("status", [201, 301, 302, 307, 400, 401, 403, 404, 410, 429, 500, 503])
def test_a_status_is_told_and_no_redirect_followed(server: Outside, ca: Ca, status: int) -> None:
    server.behave = answer({"a": 1}, status, Location=server.url + "/elsewhere")
    found = call(server.url, ca)
    assert (found.status, found.error) == (status, "")
    assert found.values == (["1"] if status == 201 else [])
    assert len(server.asked) == 1


# --- misbehaviour -------------------------------------------------------------------------------------


def silent(_: Asked, connection: socket.socket) -> None:
    connection.recv(1)  # until the client gives up


def dripping(_: Asked, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)


def dripping_headers(_: Asked, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X: y\r\n")
        time.sleep(0.02)


def endless(_: Asked, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"[" * 65536 + b"\r\n")


def endless_headers(_: Asked, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-%d: " % id(connection) + b"y" * 60000 + b"\r\n")


def garbage(_: Asked, connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def hanging_up(_: Asked, connection: socket.socket) -> None:
    connection.close()


def half(_: Asked, connection: socket.socket) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a": 1}')


MISBEHAVIOUR: dict[str, tuple[Behave, str]] = {
    "nothing at all": (silent, "gave no whole answer within 0.5 s"),
    "a byte now and then": (dripping, "gave no whole answer within 0.5 s"),
    "a header now and then": (dripping_headers, "gave no whole answer within 0.5 s"),
    "without end": (endless, "sent more than 1024 KiB"),
    "headers without end": (endless_headers, "gave no proper HTTP answer"),
    "no HTTP": (garbage, "gave no proper HTTP answer"),
    "hanging up": (hanging_up, "gave no proper HTTP answer"),
    "half an answer": (half, "gave no proper HTTP answer"),
    "too much": (answer({"a": "x" * (1 << 20)}), "sent more than 1024 KiB"),
    "a value too long": (answer({"a": "x" * 5000}), "the value at `/a` of its answer is longer than 4 KiB"),
    "HTML": (raw(200, b"<html>log in</html>", Content_Type="text/html"), "its answer is no JSON"),
    "nothing inside": (raw(200, b""), "its answer is no JSON"),
    "another encoding": (raw(200, '{"a": "ü"}'.encode("latin-1")), "its answer is no JSON"),
    "NaN": (raw(200, b'{"a": NaN}'), "its answer is no JSON"),
    "a number without end": (raw(200, b'{"a": ' + b"9" * 5000 + b"}"), "its answer is no JSON"),
    "deep": (raw(200, b'{"a":' * 65 + b"1" + b"}" * 65), "its answer is nested more than 64 deep"),
    "very deep": (raw(200, b"[" * 500_000), "its answer is nested more than 64 deep"),
    "compressed": (raw(200, b"\x1f\x8b" + b"x" * 50, Content_Encoding="gzip"), "in an encoding that was not asked for"),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_misbehaviour_is_an_error_in_time(server: Outside, ca: Ca, name: str) -> None:
    behave, error = MISBEHAVIOUR[name]
    server.behave = behave
    slow = "0.5 s" in error
    began = time.monotonic()
    found = call(server.url, ca, seconds=0.5 if slow else 20.0)
    assert error in found.error, found
    assert (found.status, found.values) == (0, [])
    assert time.monotonic() - began < 15


def test_many_values_fit_or_are_refused(server: Outside, ca: Ca) -> None:
    server.behave = answer({"a": ["x" * 3000] * 30})
    assert "longer than 48 KiB" in call(server.url, ca, pick=[f"/a/{index}" for index in range(30)]).error
    assert "more than 256 values" in call(server.url, ca, pick=["/a"] * 257).error


# --- TLS ----------------------------------------------------------------------------------------------


def test_a_certificate_of_another_ca_is_refused(server: Outside, tmp_path: Path) -> None:
    other = Ca(tmp_path)
    assert "certificate that is not accepted" in call(server.url, other).error
    assert "certificate that is not accepted" in call(server.url).error  # nor do the system's CAs know it
    assert server.asked == []


def test_a_certificate_for_another_name_is_refused(ca: Ca) -> None:
    with Outside(context=ca.context("elsewhere.example.org")).served() as server:
        assert "certificate that is not accepted" in call(server.url, ca).error
        assert server.asked == []


def test_a_certificate_that_is_over_is_refused(ca: Ca) -> None:
    with Outside(context=ca.context("127.0.0.1", life=timedelta(days=-1))).served() as server:
        assert "certificate has expired" in call(server.url, ca).error


def test_old_tls_is_refused(ca: Ca) -> None:
    context = ca.context("127.0.0.1")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with Outside(context=context).served() as server:
        assert "speaks no TLS that is accepted" in call(server.url, ca).error
        assert server.asked == []


def test_no_tls_where_tls_is_wanted(ca: Ca) -> None:
    with served(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as (host, port):
        assert "speaks no TLS" in call(f"https://{host}:{port}/", ca).error


def test_trust_that_is_none(server: Outside) -> None:
    request = HttpCall(task=7, method="GET", url=server.url, trust="no PEM")
    assert "holds no certificate" in trio.run(http.call, request, Reach()).error


# --- where calls go -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.0.1", "0.0.0.0", "0.1.2.3", "100.100.100.200", "168.63.129.16", "192.0.0.192",
        "224.0.0.1", "255.255.255.255", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "fd20:ce::254", "::", "ff02::1",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::",
    ],
)  # fmt: skip
def test_what_is_not_called(address: str) -> None:
    assert not may_call(address)
    assert may_call(address, networks(["0.0.0.0/0", "::/0"]))


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "192.0.2.7", "::1", "fd00::1", "2001:db8::1"])
def test_what_is_called(address: str) -> None:
    assert may_call(address)


@pytest.mark.parametrize("host", ["169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "2852039166"])
def test_metadata_is_not_called_by_any_spelling(host: str) -> None:
    assert "which this bastion does not call" in call(f"http://{host}/latest/meta-data/").error


def test_a_name_server_cannot_lead_there(server: Outside, ca: Ca, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a good and a bad address reaches the good one; one with bad ones alone reaches nothing.

    The name is looked up once, so a second answer (DNS rebinding) is never asked for.
    """
    answers, looked_up = {"mixed.test": ["169.254.169.254", "127.0.0.1"], "bad.test": ["169.254.169.254"]}, []
    real = trio.socket.getaddrinfo

    async def lookup(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        if host not in answers:
            return await real(host, port, *more, **options)
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers[host]]

    monkeypatch.setattr(trio.socket, "getaddrinfo", lookup)
    with Outside(behave=answer({"a": 1})).served() as plain:
        assert call(f"http://mixed.test:{plain.port}/").values == ["1"]
    assert "`bad.test` is at 169.254.169.254, which this bastion does not call" in call("http://bad.test/").error
    assert looked_up == ["mixed.test", "bad.test"]


def test_configured_networks_are_called() -> None:
    found = call("http://127.255.0.1:9/", reach=Reach(networks(["127.0.0.0/8"])))
    assert found.error == "cannot be reached: connection refused"


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(Outside().served())
        server = stack.enter_context(Outside(behave=answer({"a": 1})).served())
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert call(server.url).values == ["1"]
        assert proxy.connections == 0


def test_nobody_there() -> None:
    assert call(f"http://127.0.0.1:{free_port()}/").error == "cannot be reached: connection refused"
    assert "was not found" in call("http://no-such-host.invalid/").error


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("file:///etc/passwd", {}), ("ftp://127.0.0.1/", {}), ("http://127.0.0.1/ HTTP/1.1\r\nX: y", {}),
        ("http://127.0.0.1/\n", {}), ("//127.0.0.1/", {}), ("", {}), ("http://127.0.0.1/é", {}), ("https://", {}),
        ("http://127.0.0.1:99999/", {}), ("http://[::1/", {}),
        ("http://127.0.0.1/", {"method": "DELETE"}), ("http://127.0.0.1/", {"method": "GET / HTTP/1.1\r\nX:"}),
        ("http://127.0.0.1/", {"headers": {"X": "a\r\nY: b"}}), ("http://127.0.0.1/", {"headers": {"X y": "a"}}),
    ],
)  # fmt: skip
def test_what_is_no_request_is_not_sent(url: str, more: dict[str, Any]) -> None:
    with Outside().served() as server:
        error = call(url.replace("127.0.0.1/", f"127.0.0.1:{server.port}/"), **more).error
        assert ("cannot be sent" if "headers" in more else "has no address") in error
        assert server.asked == []
