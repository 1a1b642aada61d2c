"""What is found out about a process, on real ones."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from bastion.broker.evidence import LocalPeer

CODE = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.send(b'x'); sys.stdin.read()"


@contextmanager
def connected(folder: Path, *words: str) -> Iterator[tuple[LocalPeer, "subprocess.Popen[bytes]"]]:
    """A process that has connected, and what is known of it."""
    path = folder / "socket"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        process = subprocess.Popen([*(words or [sys.executable]), "-c", CODE, str(path)], stdin=subprocess.PIPE)
        try:
            connection, _ = listener.accept()
            peer = LocalPeer.of(trio.socket.from_stdlib_socket(connection))
            try:
                yield peer, process
            finally:
                peer.close()
                connection.close()
        finally:
            process.communicate()


def test_who_it_is_and_what_it_runs(tmp_path: Path) -> None:
    with connected(tmp_path) as (peer, process):
        seen = peer.seen("shop")
        assert (seen.name, seen.uid, seen.pid, seen.local) == ("shop", os.getuid(), process.pid, True)
        assert seen.executable == os.path.realpath(sys.executable)


def test_a_process_that_ended_is_not_there(tmp_path: Path) -> None:
    with connected(tmp_path) as (peer, process):
        assert peer.is_there()
        # as if its number had been given on at once: /proc tells of another that is there
        process.communicate()
        peer.pid, peer.started = os.getpid(), _started(os.getpid())
        if peer.handle < 0:
            pytest.skip("this kernel gives no pidfd of a peer")
        assert not peer.is_there()
        assert (peer.seen("").pid, peer.seen("").executable) == (0, "")


def test_a_process_that_began_later_is_another(tmp_path: Path) -> None:
    """Where the kernel gives no pidfd: its number came to a process that was not there when we were connected to."""
    with connected(tmp_path) as (peer, _):
        peer.accepted = peer.started - 1
        assert not peer.is_there()


def test_a_number_that_was_given_on_is_noticed_by_its_start(tmp_path: Path) -> None:
    with connected(tmp_path) as (peer, process):
        process.communicate()
        peer.pid = os.getpid()
        peer.close()
        assert not peer.is_there()


def test_a_program_that_was_taken_away_is_not_named(tmp_path: Path) -> None:
    program = tmp_path / "python"
    shutil.copy(os.path.realpath(sys.executable), program)
    with connected(tmp_path, str(program)) as (peer, _):
        assert peer.seen("").executable == str(program)
        program.unlink()
        assert peer.seen("").executable == ""


def test_a_program_at_anothers_path_is_not_it(tmp_path: Path) -> None:
    """A mount namespace in which a program of one's own stands where another one is known to be."""
    real, mine = tmp_path / "real", tmp_path / "mine"
    for folder in (real, mine):
        folder.mkdir()
        shutil.copy(os.path.realpath(sys.executable), folder / "python")
    script = f'mount --bind {mine} {real} && exec {real}/python "$@"'
    try:
        words = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else [])]
        subprocess.run([*words, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no mount namespaces here")
    with connected(tmp_path, *words, "sh", "-c", script, "sh") as (peer, process):
        assert os.readlink(f"/proc/{process.pid}/exe") == str(real / "python")
        assert peer.seen("").executable == ""


def _started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
