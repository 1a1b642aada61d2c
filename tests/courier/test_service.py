"""The courier as a process, with the test in policyd's place."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bastion.courier.service import CALLS_AT_ONCE
from policy import messages as m
from tests.support.net import tail, wait_until
from tests.support.outside import Asked, Outside, answer


@dataclass
class Courier:
    """`home` holds bastion.toml; the socket that policyd would listen on is the test's."""

    home: Path
    listener: socket.socket = field(init=False)
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket_path(self) -> Path:
        return self.home / "run/policyd-courier.sock"

    def listen(self) -> None:
        self.socket_path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.settimeout(60)
        self.listener.bind(str(self.socket_path))
        self.listener.listen()

    def accept(self) -> "Talk":
        try:
            connection, _ = self.listener.accept()
        except TimeoutError:
            raise AssertionError(f"no courier came\n{tail(self.home / 'log')}") from None
        talk = Talk(connection)
        ident, hello = talk.receive()
        assert isinstance(hello, m.Courier)
        assert self.process is not None
        assert hello.pid == self.process.pid
        talk.push(m.Done(text=""), ident)
        return talk


@dataclass
class Talk:
    connection: socket.socket

    def push(self, body: m.Reply, ident: int = 0) -> None:
        self.connection.settimeout(60)
        self.connection.send(m.encode(ident, body))

    def receive(self) -> tuple[int, m.Request]:
        self.connection.settimeout(60)
        return m.decode_request(self.connection.recv(m.MAX_MESSAGE + 1))

    def called(self) -> m.Called:
        _, body = self.receive()
        assert isinstance(body, m.Called)
        return body


@contextmanager
def running(home: Path, settings: str = "") -> Iterator[Courier]:
    (home / "run").mkdir()
    (home / "bastion.toml").write_text(f"[courier]\n{settings}\n")
    courier = Courier(home)
    courier.listen()
    with (home / "log").open("wb") as log:
        words = [sys.executable, "-m", "bastion.courier", "--config", str(home / "bastion.toml")]
        courier.process = subprocess.Popen(words, stderr=log)
    try:
        yield courier
    finally:
        courier.process.terminate()
        courier.process.wait(60)
        courier.listener.close()


@pytest.fixture
def courier(tmp_path: Path) -> Iterator[Courier]:
    with running(tmp_path) as courier:
        yield courier


def get(task: int, url: str, **more: float) -> m.HttpCall:
    return m.HttpCall(task=task, method="GET", url=url, pick=["/a"], **more)  # type: ignore[arg-type]


def test_calls_are_made_side_by_side_and_each_is_answered(courier: Courier) -> None:
    with Outside().served() as server:

        def by_path(asked: Asked, connection: socket.socket) -> None:
            if asked.path == "/slow":
                server.over.wait(30)
            answer({"a": asked.path})(asked, connection)

        server.behave = by_path
        talk = courier.accept()
        for task in range(CALLS_AT_ONCE - 1):
            talk.push(get(task, f"{server.url}/slow", seconds=30))
        talk.push(get(77, f"{server.url}/fast"))
        assert talk.called() == m.Called(task=77, status=200, values=['"/fast"'])
        talk.push(get(78, f"{server.url}/slow", seconds=30))
        talk.push(get(79, f"{server.url}/fast"))  # one more than it takes: refused at once, and not kept in a queue
        assert "too much to do" in talk.called().error
        server.over.set()
        assert {talk.called().task for _ in range(CALLS_AT_ONCE)} == {*range(CALLS_AT_ONCE - 1), 78}


def test_what_it_cannot_do_it_says(courier: Courier) -> None:
    talk = courier.accept()
    talk.push(m.RadiusCall(task=1, servers=["127.0.0.1"], secret=b"s", user="u", password=b"p"))
    assert talk.called().task == 1
    talk.push(m.EndSession(session="x", by="x", reason="x"))  # no call: nothing is answered
    talk.push(get(2, "http://169.254.169.254/"))
    found = talk.called()
    assert (found.task, found.status) == (2, 0)
    assert "does not call" in found.error


def test_it_comes_back_to_a_policyd_that_was_away(courier: Courier) -> None:
    courier.accept().connection.close()
    talk = courier.accept()
    courier.listener.close()
    talk.push(m.Done(text=""))
    talk.connection.send(b"\xc1")  # what is no message: it hangs up, and comes again
    assert talk.connection.recv(10) == b""
    courier.listen()
    with Outside(behave=answer({"a": 1})).served() as server:
        talk = courier.accept()
        talk.push(get(1, server.url))
        assert talk.called().values == ["1"]


def test_it_listens_nowhere(courier: Courier) -> None:
    courier.accept()
    assert courier.process is not None
    mine = {link.readlink().name for link in Path(f"/proc/{courier.process.pid}/fd").iterdir() if link.is_symlink()}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{courier.process.pid}/net/{table}").read_text().splitlines()[1:]:
            assert f"socket:[{line.split()[9]}]" not in mine, f"{table}: {line}"


def test_networks_are_opened_and_closed_by_a_reload(courier: Courier) -> None:
    talk = courier.accept()
    (courier.home / "bastion.toml").write_text('[courier]\nreach = ["169.254.0.0/16"]\n')
    assert courier.process is not None
    courier.process.send_signal(signal.SIGHUP)

    def tries() -> bool:
        talk.push(get(1, "http://169.254.254.254:9/", seconds=0.2))
        return "does not call" not in talk.called().error

    wait_until("the new networks", tries)
    assert courier.process.poll() is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("reech = []", "bastion.toml:2: courier.reech: unknown key (did you mean `reach`)"),
        ('reach = ["169.254.1.1/16"]', "courier.reach: `169.254.1.1/16` is no network like `169.254.1.0/24`"),
    ],
)
def test_it_says_what_is_wrong_with_its_table(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "bastion.toml").write_text(f"[courier]\n{line}\n")
    words = [sys.executable, "-m", "bastion.courier", "--config", str(tmp_path / "bastion.toml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
