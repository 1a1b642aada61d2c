"""The runner as a process under `bastion run`, asked by policyd's side, and policyd's side of it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from bastion.config import BastionSettings, Settings
from bastion.errors import BastionError
from bastion.runner.service import whom_of
from bastion.settings import RunnerSettings, SshSettings
from policy import messages as m
from policy.conversation import Conversation, State
from policy.model import PolicySettings
from policy.outside.runners import NO_RUNNER, Runners
from policy.peers import Peer
from recorder.model import RecorderSettings
from tests.support.folders import public_folder
from tests.support.net import wait_until

ORDER = m.RunScript(task=1, script="ok", action="verify", account="a", target="t", address="192.0.2.1", port=1)


class Place:
    """A runner with bastion.toml, and the listener that it connects to."""

    def __init__(self, home: Path, scripts: dict[str, str]) -> None:
        self.home = home
        (home / "run").mkdir(parents=True)
        lines = "".join(f'{name} = "{path}"\n' for name, path in scripts.items())
        user = 'user = "nobody"\n' if os.geteuid() == 0 else ""
        (home / "bastion.toml").write_text(f"[runner]\n{user}[runner.scripts]\n{lines}")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.settimeout(60)
        self.listener.bind(str(home / "run/policyd-runner.sock"))
        self.listener.listen(4)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bastion.runner", "--config", str(home / "bastion.toml"), "--owner",
             str(os.getuid())],
        )  # fmt: skip
        self.sock = self.greeted()

    def greeted(self) -> socket.socket:
        sock, _ = self.listener.accept()
        sock.settimeout(60)
        ident, hello = m.decode_request(sock.recv(65536))
        assert isinstance(hello, m.Runner)
        assert hello.pid == self.process.pid
        sock.send(m.encode(ident, m.Done(text="")))
        return sock

    def ask(self, order: m.RunScript) -> m.Worked:
        self.sock.send(m.encode(0, order))
        return self.hear()

    def hear(self) -> m.Worked:
        answer = m.decode_request(self.sock.recv(65536))[1]
        assert isinstance(answer, m.Worked)
        return answer

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.listener.close()
        self.sock.close()
        return status


@pytest.fixture
def place() -> Iterator[Place]:
    with public_folder() as folder:
        scripts = {"ok": "exit 0", "slow": "sleep 60", "no": "echo no >&2; exit 1"}
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        place = Place(folder / "bastion", {name: str(folder / name) for name in scripts})
        yield place
        if place.process.poll() is None:
            place.stop()


def test_it_runs_what_is_named_to_it_and_nothing_else(place: Place) -> None:
    assert place.ask(ORDER) == m.Worked(task=1, outcome="done")
    assert place.ask(m.RunScript(**{**fields(ORDER), "script": "no"})) == m.Worked(
        task=1, outcome="refused", detail="no"
    )
    for name in ("unknown", "/bin/true", "../ok", ""):
        answer = place.ask(m.RunScript(**{**fields(ORDER), "script": name}))
        assert answer.outcome == "unreachable"
        assert "no script is called" in answer.detail
    assert place.stop() == 0


def test_more_than_it_takes(place: Place) -> None:
    for number in range(1, 9):
        place.sock.send(m.encode(0, m.RunScript(**{**fields(ORDER), "task": number, "script": "slow", "seconds": 4.0})))
    answer = place.ask(m.RunScript(**{**fields(ORDER), "task": 9}))
    assert (answer.task, answer.outcome, answer.detail) == (9, "unreachable", "the runner has too much to do")
    assert {place.hear().outcome for _ in range(8)} == {"unknown"}
    assert place.ask(ORDER).outcome == "done"


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
@pytest.mark.parametrize(("user", "why"), [("root", "not run as root"), ("nobody-of-that-name", "there is no user")])
def test_a_runner_that_would_run_them_as_root_does_not_start(tmp_path: Path, user: str, why: str) -> None:
    settings = Settings(
        path=tmp_path / "bastion.toml", bastion=BastionSettings(), policy=PolicySettings(), recorder=RecorderSettings(),
        ssh=SshSettings(), runner=RunnerSettings(user=user),
    )  # fmt: skip
    with pytest.raises(BastionError, match=why):
        whom_of(settings, 0)


def test_it_comes_again_and_ends_what_nobody_waits_for(place: Place) -> None:
    place.sock.send(m.encode(0, m.RunScript(**{**fields(ORDER), "script": "slow"})))
    children = Path(f"/proc/{place.process.pid}/task/{place.process.pid}/children")
    wait_until("it runs", lambda: children.read_text().split())
    place.sock.close()
    place.sock = place.greeted()
    wait_until("what ran is ended", lambda: not children.read_text().split())
    assert place.ask(ORDER).outcome == "done"


def fields(order: m.RunScript) -> dict[str, object]:
    return {name: getattr(order, name) for name in order.__struct_fields__}


# --- policyd's side -------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_without_a_runner_nothing_was_told() -> None:
    assert await Runners().run_script(ORDER) == m.Worked(task=0, outcome="unreachable", detail=NO_RUNNER)


@pytest.mark.trio
async def test_no_answer_is_no_answer(autojump_clock: object) -> None:
    near, far = trio.socket.socketpair(trio.socket.AF_UNIX, trio.socket.SOCK_SEQPACKET)
    runner = Conversation(
        ident=1, connection=near, peer=Peer(pid=1, uid=0, gid=0, groups=frozenset()), state=State.RUNNER
    )
    runners = Runners()
    runners.join(runner)
    answer = await runners.run_script(ORDER)
    assert answer.outcome == "unknown"
    assert "no answer of the runner within 65 s" in answer.detail
    assert not runners.worked(runner, m.Worked(task=1, outcome="done")), "too late"
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await trio.sleep(1)
            runners.leave(runner)

        nursery.start_soon(leave)
        answer = await runners.run_script(ORDER)
        assert (answer.outcome, answer.detail) == ("unknown", "the runner left in the middle of it")
    far.close()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("said", "outcome", "detail"),
    [
        (m.Worked(task=1, outcome="done", detail="x\x1b[2J\n"), "done", "x[2J"),
        (m.Worked(task=1, outcome="refused", detail="y" * 999), "refused", "y" * 300),
        (m.Worked(task=1, outcome="excellent"), "unknown", "it gave an answer that means nothing"),
    ],
)
async def test_what_it_says_is_believed_within_limits(said: m.Worked, outcome: str, detail: str) -> None:
    near, far = trio.socket.socketpair(trio.socket.AF_UNIX, trio.socket.SOCK_SEQPACKET)
    runner = Conversation(
        ident=1, connection=near, peer=Peer(pid=1, uid=0, gid=0, groups=frozenset()), state=State.RUNNER
    )
    runners = Runners()
    runners.join(runner)
    async with trio.open_nursery() as nursery:

        async def reply() -> None:
            await far.recv(65536)
            assert runners.worked(runner, said)

        nursery.start_soon(reply)
        answer = await runners.run_script(ORDER)
    assert (answer.outcome, answer.detail) == (outcome, detail)
