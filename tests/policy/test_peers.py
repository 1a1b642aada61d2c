"""Who may connect, and what may stand where a socket is made."""

import os
import socket
import stat

import pytest
import trio

from policy.messages import MAX_MESSAGE
from policy.peers import MODE, Oversized, Peer, SocketError, listen, peer_of, receive, welcome


def peer(uid=4001, gid=4002, groups=frozenset()):
    return Peer(pid=1, uid=uid, gid=gid, groups=frozenset(groups))


def test_who_is_welcome():
    """The mode of the socket says the same; this holds if somebody changes it."""
    assert welcome(peer(uid=0), 4100)
    assert welcome(peer(uid=os.geteuid()), 4100)
    assert welcome(peer(gid=4100), 4100)
    assert welcome(peer(groups={4099, 4100}), 4100)
    assert not welcome(peer(), 4100)
    assert not welcome(peer(groups={4099}), 4100)


@pytest.mark.trio
async def test_the_kernel_says_who_it_is():
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    found = peer_of(ours)
    assert (found.pid, found.uid, found.gid) == (os.getpid(), os.geteuid(), os.getegid())
    assert found.groups >= set(os.getgroups()) - {os.getegid()}
    ours.close()
    theirs.close()


@pytest.mark.trio
async def test_a_socket_is_for_its_group_from_its_first_moment(tmp_path, monkeypatch):
    modes = []
    real = os.chmod

    def chmod(path, mode):
        modes.append(stat.S_IMODE(os.stat(path).st_mode))
        real(path, mode)

    monkeypatch.setattr(os, "chmod", chmod)
    listen(tmp_path / "s", os.getegid()).close()
    assert modes == [0o600], "before its group is set nobody else may connect"
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == MODE


@pytest.mark.trio
async def test_a_socket_is_made_over_nothing_of_somebody_elses(tmp_path):
    (tmp_path / "file").write_text("keep me")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    for name in ("file", "link", "folder"):
        with pytest.raises(SocketError, match="not our socket"):
            listen(tmp_path / name, os.getegid())
    assert (tmp_path / "file").read_text() == "keep me"
    live = listen(tmp_path / "live", os.getegid())
    with pytest.raises(SocketError, match="another policyd is running"):
        listen(tmp_path / "live", os.getegid())
    live.close()
    listen(tmp_path / "live", os.getegid()).close()  # one that nobody listens on any more


@pytest.mark.trio
async def test_a_message_has_an_end():
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    await theirs.send(b"x" * MAX_MESSAGE)
    assert len(await receive(ours)) == MAX_MESSAGE
    await theirs.send(b"x" * (MAX_MESSAGE + 1))
    with pytest.raises(Oversized):
        await receive(ours)
    ours.close()
    theirs.close()
