"""The supervisor with real children: small programs that behave well or badly."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from bastion import supervisor
from bastion.config import BastionSettings, Settings
from bastion.errors import MisuseError
from bastion.logs import Log, render
from bastion.settings import SshSettings
from bastion.supervisor import ChildFailed, Role, Supervisor
from policy.model import PolicySettings
from recorder.model import RecorderSettings

GOOD = """
    import os, signal, socket, sys, time
    def tell(message):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message, os.environ["NOTIFY_SOCKET"])
    def note(word):
        with open("diary", "a") as diary:
            diary.write(f"{sys.argv[1]} {word} {os.getpid()}\\n")
    def end(*_):
        note("ended")
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, lambda *_: note("reloaded"))
    note("started")
    tell(b"STATUS=up\\nREADY=1")
    while True:
        signal.pause()
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir(mode=0o700)
    return Settings(
        path=tmp_path / "bastion.toml", bastion=BastionSettings(), ssh=SshSettings(), policy=PolicySettings(),
        recorder=RecorderSettings(),
    )  # fmt: skip


def child(name: str, program: str, **more: Any) -> Role:
    return Role(name=name, words=[sys.executable, "-c", textwrap.dedent(program), name], **more)


def diary(folder: Path, word: str) -> list[str]:
    path = folder / "diary"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[0] for line in lines if line.split()[1] == word]


def pid_of(folder: Path, name: str) -> int:
    return next(int(line.split()[2]) for line in reversed((folder / "diary").read_text().splitlines()) if name in line)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(40):
        while not condition():  # noqa: ASYNC110 - the condition is another process's doing
            await trio.sleep(0.01)


def supervise(settings: Settings, *roles: Role) -> tuple[Supervisor, io.StringIO]:
    said = io.StringIO()
    return Supervisor(settings, list(roles), Log(said)), said


def events(said: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in said.getvalue().splitlines()]


@pytest.mark.trio
async def test_children_start_in_order_and_stop_in_reverse(settings: Settings, tmp_path: Path) -> None:
    whole, said = supervise(settings, *(child(name, GOOD) for name in ("recorderd", "policyd", "ssh-0")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(whole.run)
        await until(lambda: "ready" in events(said))
        os.kill(os.getpid(), signal.SIGTERM)
    assert diary(tmp_path, "started") == ["recorderd", "policyd", "ssh-0"]
    assert diary(tmp_path, "ended") == ["ssh-0", "policyd", "recorderd"]
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.trio
async def test_a_child_that_crashes_runs_again(settings: Settings, tmp_path: Path) -> None:
    whole, said = supervise(settings, child("recorderd", GOOD), child("ssh-0", GOOD))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(whole.run)
        await until(lambda: "ready" in events(said))
        os.kill(pid_of(tmp_path, "ssh-0"), signal.SIGKILL)
        await until(lambda: "child runs again" in events(said))
        os.kill(os.getpid(), signal.SIGINT)
    assert diary(tmp_path, "started") == ["recorderd", "ssh-0", "ssh-0"]
    assert diary(tmp_path, "ended") == ["ssh-0", "recorderd"]
    assert '"how":"was ended by SIGKILL"' in said.getvalue().replace(": ", ":")


@pytest.mark.trio
async def test_a_child_that_cannot_start_ends_the_whole(settings: Settings, tmp_path: Path) -> None:
    whole, _ = supervise(
        settings, child("recorderd", GOOD), child("policyd", "raise SystemExit(78)"), child("ssh-0", GOOD)
    )
    with pytest.raises(ChildFailed) as caught, trio.fail_after(40):
        await whole.run()
    assert caught.value.cause == "policyd could not start: it exited with status 78"
    assert diary(tmp_path, "started") == diary(tmp_path, "ended") == ["recorderd"]


@pytest.mark.trio
async def test_a_child_that_never_gets_ready_ends_the_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "START_PATIENCE", 0.2)
    whole, _ = supervise(settings, child("recorderd", "import signal; signal.pause()"))
    with pytest.raises(ChildFailed, match="it said nothing for"), trio.fail_after(40):
        await whole.run()


@pytest.mark.trio
async def test_a_child_may_show_that_it_is_ready_by_its_socket(settings: Settings, tmp_path: Path) -> None:
    program = """
        import signal, socket
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind("run/d.sock")
        sock.listen()
        signal.pause()
    """
    whole, said = supervise(settings, child("policyd", program, socket=tmp_path / "run/d.sock"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(whole.run)
        await until(lambda: "ready" in events(said))
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.trio
async def test_a_child_that_does_not_listen_to_sigterm_is_killed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_PATIENCE", 0.2)
    deaf = GOOD.replace("signal.signal(signal.SIGTERM, end)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    whole, said = supervise(settings, child("ssh-0", deaf))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(whole.run)
        await until(lambda: "ready" in events(said))
        os.kill(os.getpid(), signal.SIGTERM)
    assert "child killed" in events(said)


@pytest.mark.trio
async def test_reload_reaches_the_children_only_with_a_configuration_that_holds(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = [["bad"], []]
    monkeypatch.setattr(supervisor.config, "check", lambda _: verdict.pop(0))
    whole, said = supervise(settings, child("policyd", GOOD))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(whole.run)
        await until(lambda: "ready" in events(said))
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "configuration kept" in events(said))
        assert diary(tmp_path, "reloaded") == []
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: diary(tmp_path, "reloaded"))
        os.kill(os.getpid(), signal.SIGTERM)


PARENT = """
    import sys, trio
    from pathlib import Path
    from bastion.logs import Log
    from bastion.supervisor import Role, Supervisor
    from bastion.config import *
    settings = Settings(path=Path.cwd() / "bastion.toml", bastion=BastionSettings(), ssh=SshSettings(),
                        policy=PolicySettings(), recorder=RecorderSettings())
    roles = [Role(name="ssh-0", words=[sys.executable, "-c", sys.argv[1], "ssh-0"])]
    trio.run(Supervisor(settings, roles, Log(sys.stderr)).run)
"""


@pytest.mark.fault
def test_children_die_with_a_killed_parent(settings: Settings, tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), textwrap.dedent(GOOD)],
        env={**os.environ, "PYTHONPATH": root}, stderr=subprocess.PIPE,
    )  # fmt: skip
    trio.run(until, lambda: diary(tmp_path, "started"))
    parent.kill()
    trio.run(until, lambda: diary(tmp_path, "ended") == ["ssh-0"])
    parent.communicate()


def test_two_supervisors_do_not_share_a_folder(tmp_path: Path) -> None:
    with supervisor._alone(tmp_path):
        with pytest.raises(MisuseError, match=f"already running, process {os.getpid()}"), supervisor._alone(tmp_path):
            pass


def test_the_roles_follow_the_settings(settings: Settings) -> None:
    assert [role.name for role in supervisor.roles(settings)] == ["recorderd", "policyd", "courier", "ssh-0"]


def test_log_lines_are_harmless_on_a_terminal() -> None:
    line = json.dumps(
        {"timestamp": "2026-11-23T14:02:11Z", "level": "info", "event": "login", "name": "\x1b]52;c;x\x07"}
    )
    shown = render(line.encode(), "policyd")
    assert shown.startswith("14:02:11 policyd    login")
    assert "\x1b]" not in shown
    assert "\x1b" not in render(b"no json \x1b[2J", "policyd")
