"""A real worker and a real recorderd, with a policyd by hand: orders, pushes and answers on one conversation."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from policy import messages as m
from tests.support.accounts_target import ANN, OPS, PASSWORD, AccountsTarget, missing
from tests.support.canary import files_below
from tests.support.net import LOOPBACK, free_port, tail, wait_until
from tests.support.sshd import keygen

NEW = "Second-Password-4711"
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it can run")


class Place:
    """A worker, its recorderd, and policyd's end of its conversation."""

    def __init__(self, home: Path, target: AccountsTarget) -> None:
        self.home, self.target = home, target
        (home / "run").mkdir()
        (home / "state").mkdir()
        keygen(home / "state/host_key")
        (home / "bastion.toml").write_text(
            f'[ssh]\nlisten = ["{LOOPBACK}:{free_port()}"]\nhost_keys = ["host_key"]\n'
            "[recorder]\nlow_water_mib = 16\nreserve_mib = 1\n"
        )
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.settimeout(60)
        self.listener.bind(str(home / "run/policyd.sock"))
        self.listener.listen(4)
        self.key = asyncssh.read_private_key(target.client_key)
        self.seen: list[m.Request] = []
        self.sessions = 0
        self.recorder = self._run("recorder", "serve")
        wait_until("recorderd", lambda: (home / "run/recorderd.sock").exists(), 60)
        self.worker = self._run("bastion.ssh", "--worker", "0")
        try:
            self.sock = self.greeted()
        except BaseException:
            self.worker.kill()
            self.recorder.kill()
            raise

    def _run(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.home / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, *words, "--config", str(self.home / "bastion.toml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def greeted(self) -> socket.socket:
        sock, _ = self.listener.accept()
        sock.settimeout(60)
        ident, hello = m.decode_request(sock.recv(65536))
        assert hello == m.Worker(pid=self.worker.pid), tail(self.home / "log")
        sock.send(m.encode(ident, m.Done(text="")))
        return sock

    def push(self, body: m.Reply) -> None:
        self.sock.send(m.encode(0, body))

    def order(self, account: str = ANN, by: str = "", **more: Any) -> m.ChangeSecret:
        self.sessions += 1
        host_key = asyncssh.read_public_key(self.target.host_key).public_data
        grant = m.Grant(
            session=f"{self.sessions:032x}", person="bastion", account=by or account, target="web1", address=LOOPBACK,
            port=self.target.port, host_keys=[host_key], kinds=["exec"], rule="monthly", expires_in=None, idle=None,
            record_sync=False, keep_content=False, commitment_key=b"k" * 32, source="policyd",
        )  # fmt: skip
        given: dict[str, Any] = {"how": "passwd", "old": PASSWORD.encode(), "new": NEW.encode()} | more
        return m.ChangeSecret(task=self.sessions, grant=grant, account=account, **given)

    def until(self, kind: type) -> Any:
        """Answer what the worker asks until it says something of this kind."""
        while True:
            ident, request = m.decode_request(self.sock.recv(65536))
            self.seen.append(request)
            match request:
                case m.Credential():
                    self._reply(ident, m.UseKey(public=self.key.public_data, algorithms=["ssh-ed25519"]))
                case m.Sign(data=data, algorithm=algorithm):
                    self._reply(ident, m.Signature(blob=self.key.sign(data, algorithm.encode())))
                case m.SessionStarted() | m.SessionEnded() | m.Report():
                    self._reply(ident, m.Done(text=""))
            if isinstance(request, kind):
                return request

    def _reply(self, ident: int, body: m.Reply) -> None:
        self.sock.send(m.encode(ident, body))

    def stop(self) -> None:
        for process in (self.worker, self.recorder):
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        self.listener.close()
        self.sock.close()


@pytest.fixture
def place(tmp_path: Path, target: AccountsTarget) -> Iterator[Place]:
    place = Place(tmp_path, target)
    yield place
    place.stop()


def test_an_order_from_its_push_to_its_recording(place: Place, target: AccountsTarget) -> None:
    place.push(place.order())
    answer = place.until(m.Worked)
    assert (answer.task, answer.outcome) == (1, "done")
    assert target.opens(ANN, NEW)
    kinds = [type(request).__name__ for request in place.seen]
    assert kinds == ["SessionStarted", "Credential", "Sign", "SessionEnded", "Worked"]
    started = place.seen[0]
    assert isinstance(started, m.SessionStarted)
    files = files_below(place.home / "state/recordings")
    assert files
    secrets = (PASSWORD.encode(), NEW.encode())
    assert not any(secret in data for data in files.values() for secret in secrets)
    log = (place.home / "log").read_bytes()
    assert not any(secret in log for secret in secrets)


def test_several_at_once(place: Place, target: AccountsTarget) -> None:
    orders = [place.order(ANN, OPS, how="chpasswd"), place.order(OPS)]
    for order in orders:
        place.push(order)
    assert {place.until(m.Worked).task for _ in orders} == {1, 2}
    assert target.opens(ANN, NEW)
    assert target.opens(OPS, NEW)


def test_an_operator_ends_one(place: Place, target: AccountsTarget) -> None:
    target.fault("hangs")
    order = place.order()
    place.push(order)
    place.until(m.Sign)
    place.push(m.EndSession(session=order.grant.session, by="sam", reason="stop that"))
    answer = place.until(m.Worked)
    assert answer.outcome in ("unknown", "unreachable")
    assert answer.detail == "sam: stop that"


def test_policyd_is_gone_in_the_middle(place: Place, target: AccountsTarget) -> None:
    target.fault("hangs")
    place.push(place.order())
    place.until(m.Sign)
    place.sock.close()
    place.sock = place.greeted()
    target.fault()
    place.push(place.order())
    answer = place.until(m.Worked)
    assert (answer.task, answer.outcome) == (2, "done"), "of the first one nobody hears: its conversation is over"


def test_a_worker_that_is_stopped_answers_first(place: Place, target: AccountsTarget) -> None:
    target.fault("hangs")
    place.push(place.order(seconds=2.0))
    place.until(m.Sign)
    os.kill(place.worker.pid, signal.SIGTERM)
    answer = place.until(m.Worked)
    assert answer.outcome in ("unknown", "unreachable")
    place.worker.wait(60)
