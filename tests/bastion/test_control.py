"""The operator's side of the admin socket, against a peer that says exactly what a test wants."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bastion import control
from bastion.errors import BastionError, Denied, ExitCode, PeerError
from policy.messages import (
    MAX_MESSAGE,
    Admin,
    Allowed,
    Done,
    EndSession,
    PersonAdd,
    PersonList,
    Refused,
    Reply,
    Request,
    Rows,
    decode_request,
    encode,
)

Peer = Callable[[Callable[[socket.socket], None]], list[tuple[int, Request]]]


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    """Start a peer at the admin socket: it reads the greeting and the command, then does what it is told."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / control.ADMIN_SOCKET))
    listener.listen()
    threads = []

    def start(answer: Callable[[socket.socket], None]) -> list[tuple[int, Request]]:
        heard: list[tuple[int, Request]] = []

        def serve() -> None:
            sock, _ = listener.accept()
            with sock, suppress(ConnectionError):  # who has heard enough hangs up
                heard.extend(decode_request(sock.recv(MAX_MESSAGE)) for _ in range(2))
                answer(sock)

        threads.append(threading.Thread(target=serve))
        threads[0].start()
        return heard

    yield start
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    listener.close()


def says(*replies: tuple[int, Reply]) -> Callable[[socket.socket], None]:
    def answer(sock: socket.socket) -> None:
        for ident, reply in replies:
            sock.send(encode(ident, reply))

    return answer


def test_the_operator_is_named_before_the_command(tmp_path: Path, peer: Peer) -> None:
    heard = peer(says((2, Done(text="fine"))))
    answer = control.ask(tmp_path, PersonList(), "bastion person list")
    assert isinstance(answer, Done)
    assert answer.text == "fine"
    assert [ident for ident, _ in heard] == [1, 2]
    greeting, command = (body for _, body in heard)
    assert isinstance(greeting, Admin)
    assert greeting.command == "bastion person list"
    assert isinstance(command, PersonList)


def test_answers_to_the_greeting_and_pushes_are_passed_over(tmp_path: Path, peer: Peer) -> None:
    peer(
        says(
            (1, Done(text="hello")),
            (0, EndSession(session="", by="", reason="")),
            (2, Rows(columns=["a"], rows=[["1"]])),
        )
    )
    answer = control.ask(tmp_path, PersonList(), "")
    assert isinstance(answer, Rows)
    assert answer.rows == [["1"]]


@pytest.mark.parametrize("ident", [1, 2])
def test_a_refusal_keeps_cause_hint_id_and_exit_code(tmp_path: Path, peer: Peer, ident: int) -> None:
    peer(says((ident, Refused(code=64, cause="no such role `x`", hint="see the roles", ref="01J"))))
    with pytest.raises(Denied) as caught:
        control.ask(tmp_path, PersonList(), "")
    assert caught.value.code == ExitCode.USAGE
    assert caught.value.lines() == ["bastion: no such role `x`", "bastion: see the roles  [01J]"]


def test_an_unknown_exit_code_is_a_denial(tmp_path: Path, peer: Peer) -> None:
    peer(says((2, Refused(code=3, cause="no"))))
    with pytest.raises(Denied) as caught:
        control.ask(tmp_path, PersonList(), "")
    assert caught.value.code == ExitCode.DENIED


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda sock: None, "policyd closed the connection without an answer"),
        (lambda sock: sock.send(b"\xc1"), "policyd answered something else than a reply"),
        (says((2, Allowed())), "policyd answered with Allowed, not with a result"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_an_error_of_the_peer(
    tmp_path: Path, peer: Peer, answer: Callable[[socket.socket], None], said: str
) -> None:
    peer(answer)
    with pytest.raises(PeerError, match=said):
        control.ask(tmp_path, PersonList(), "")


def test_nobody_listening_is_said_with_the_command_that_helps(tmp_path: Path) -> None:
    with pytest.raises(PeerError) as caught:
        control.ask(tmp_path, PersonList(), "", start="bastion run -c b.toml")
    assert caught.value.lines() == [
        f"bastion: policyd is not running at `{tmp_path}/policyd-admin.sock`",
        "bastion: start it with: bastion run -c b.toml",
    ]


def test_a_socket_that_someone_left_behind_is_nobody_listening(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / control.ADMIN_SOCKET))
    assert not control.is_answering(tmp_path / control.ADMIN_SOCKET)
    with pytest.raises(PeerError, match="policyd is not running"):
        control.ask(tmp_path, PersonList(), "")


def test_a_silent_peer_is_given_up(tmp_path: Path, peer: Peer) -> None:
    done = threading.Event()
    peer(lambda sock: done.wait(30) and None)
    with pytest.raises(PeerError, match="did not answer within"):
        control.ask(tmp_path, PersonList(), "", patience=0.05)
    done.set()


def test_a_request_above_the_limit_is_not_sent(tmp_path: Path) -> None:
    with pytest.raises(BastionError, match="too large"):
        control.ask(tmp_path, PersonAdd(name="a", keys=["k" * MAX_MESSAGE]), "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_closed_door_says_sudo(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / control.ADMIN_SOCKET))
        os.chmod(tmp_path / control.ADMIN_SOCKET, 0)
        with pytest.raises(PeerError, match="you may not talk to policyd"):
            control.ask(tmp_path, PersonList(), "")
