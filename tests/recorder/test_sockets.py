"""The socket of recorderd: who may connect, and messages that are too long."""

import os
import socket
from pathlib import Path

import pytest

from recorder.messages import MAX_MESSAGE
from recorder.sockets import MODE, Oversized, Peer, SocketError, listen, take, welcome


def peer(uid: int = 4001, gid: int = 4002, groups: frozenset[int] = frozenset()) -> Peer:
    return Peer(pid=1, uid=uid, gid=gid, groups=groups)


def test_who_is_welcome() -> None:
    """The mode of the socket says the same; this holds if somebody changes it."""
    assert welcome(peer(uid=0), 4100)
    assert welcome(peer(uid=os.geteuid()), 4100)
    assert welcome(peer(gid=4100), 4100)
    assert welcome(peer(groups=frozenset({4100})), 4100)
    assert not welcome(peer(groups=frozenset({4099})), 4100)


def test_a_message_has_an_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_MESSAGE)
    with ours, theirs:
        theirs.send(b"x" * MAX_MESSAGE)
        assert len(take(ours) or b"") == MAX_MESSAGE
        theirs.send(b"x" * (MAX_MESSAGE + 1))
        with pytest.raises(Oversized):
            take(ours)


def test_a_socket_is_made_over_nothing_of_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep me")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        with pytest.raises(SocketError, match="not our socket"):
            listen(tmp_path / name, os.getegid())
    assert (tmp_path / "file").read_text() == "keep me"
    with listen(tmp_path / "live", os.getegid()):
        assert (tmp_path / "live").stat().st_mode & 0o777 == MODE
        with pytest.raises(SocketError, match="another recorderd is running"):
            listen(tmp_path / "live", os.getegid())
