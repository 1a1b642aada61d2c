"""Where forwarded connections go: what is read of a body, what is refused, and what a target may open."""

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.requests import strings
from bastion.tunnels import (
    Listening,
    asked_for,
    chosen_port,
    from_agent,
    from_display,
    from_socket,
    listening,
    tcp,
    to_socket,
)
from policy.model import ChannelKind

REMOTE, SOCKET = ChannelKind.FORWARD_REMOTE, ChannelKind.FORWARD_SOCKET


def body(host: bytes = b"db", port: int = 5432, source: bytes = b"192.0.2.1", source_port: int = 40000) -> bytes:
    return strings(host) + pack(">I", port) + strings(source) + pack(">I", source_port)


def test_a_tunnel_is_read_and_passed_on_as_it_came() -> None:
    way = tcp(body())
    assert (way.where, way.origin, way.host, way.port) == (b"db:5432", b"192.0.2.1:40000", b"db", 5432)
    assert way.body == body()


@pytest.mark.parametrize(
    "rest",
    [
        b"", body()[:-1], body() + b"x", body(host=b""), body(host=b"x" * 256), body(host=b"a\0b"), body(port=0),
        body(port=65536), body(port=0xFFFFFFFF), body(source=b"x" * 256), b"\xff\xff\xff\xff" + body(),
    ],
)  # fmt: skip
def test_a_tunnel_that_is_none(rest: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        tcp(rest)


def test_what_is_reserved_carries_nothing() -> None:
    """Attack: 200 kB in a field that nobody records."""
    way = to_socket(strings(b"/run/db", b"secret") + pack(">I", 7))
    assert (way.where, way.body) == (b"/run/db", strings(b"/run/db", b"") + bytes(4))
    way = from_socket(strings(b"/run/db", b"secret"))
    assert (way.where, way.body) == (b"/run/db", strings(b"/run/db", b""))
    assert from_agent(b"").body == b""


@pytest.mark.parametrize(
    "read", [to_socket, from_socket, from_display, from_agent, lambda rest: listening(SOCKET, rest),
             lambda rest: listening(REMOTE, rest)]
)  # fmt: skip
@given(rest=st.binary(max_size=40))
def test_noise_is_read_or_refused(read: object, rest: bytes) -> None:
    try:
        read(rest)  # type: ignore[operator]
    except ValueError:
        pass


@pytest.mark.parametrize("path", [b"", b"/" + b"x" * 1024, b"/a\0b"])
def test_a_path_that_is_none(path: bytes) -> None:
    for whole in (strings(path, b"") + bytes(4), strings(path, b""), strings(path)):
        for read in (to_socket, from_socket, lambda rest: listening(SOCKET, rest)):
            with pytest.raises(ValueError, match=r"."):
                read(whole)


def test_where_a_target_is_to_listen() -> None:
    asked = listening(REMOTE, strings(b"") + pack(">I", 0))
    assert (asked.where, asked.body) == (b":0", strings(b"") + bytes(4))
    asked = listening(SOCKET, strings(b"/run/x"))
    assert (asked.where, asked.body) == (b"/run/x", strings(b"/run/x"))
    with pytest.raises(ValueError, match="port"):
        listening(REMOTE, strings(b"x") + pack(">I", 65536))


@pytest.mark.parametrize(
    ("said", "port"), [(pack(">I", 4000), 4000), (pack(">I", 4000) + b"x", 4000), (b"", None), (bytes(4), None),
                       (b"\0\0\1", None), (pack(">I", 65536), None)]
)  # fmt: skip
def test_the_port_that_a_target_chose(said: bytes, port: int | None) -> None:
    assert chosen_port(said) == port


@pytest.mark.parametrize(
    ("asked", "host", "port", "may"),
    [
        ((b"localhost", 80), b"localhost", 80, True), ((b"localhost", 80), b"localhost", 81, False),
        ((b"localhost", 80), b"::1", 80, True), ((b"127.0.0.1", 80), b"localhost", 80, True),
        ((b"localhost", 80), b"192.0.2.1", 80, False), ((b"", 80), b"192.0.2.1", 80, True),
        ((b"*", 80), b"::", 80, True), ((b"0.0.0.0", 80), b"0.0.0.0", 81, False),
        ((b"localhost", 0), b"localhost", 4711, True), ((b"localhost", 0), b"192.0.2.1", 4711, False),
    ],
)  # fmt: skip
def test_a_target_opens_what_was_asked_for(asked: tuple[bytes, int], host: bytes, port: int, may: bool) -> None:
    """RFC 4254 section 7.2."""
    ways = {Listening(REMOTE, *asked), Listening(SOCKET, b"/run/x")}
    assert asked_for(ways, REMOTE, tcp(body(host, port))) is may
    assert not asked_for([], REMOTE, tcp(body(host, port)))


def test_a_target_opens_the_socket_that_was_asked_for() -> None:
    ways = {Listening(SOCKET, b"/run/x"), Listening(REMOTE, b"", 0)}
    assert asked_for(ways, SOCKET, from_socket(strings(b"/run/x", b"")))
    assert not asked_for(ways, SOCKET, from_socket(strings(b"/run/y", b"")))
