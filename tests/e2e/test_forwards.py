"""Tunnels, sockets, agents, X11 and many channels at once, with OpenSSH's client by every way to the target."""

import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recorder.model import Kind
from tests.support.evidence import Evidence
from tests.support.net import LOOPBACK, free_port, wait_until
from tests.support.site import Site
from tests.support.sshd import SSHD, keygen
from tests.support.tcp import ask, echo, served, web, x_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]


@contextmanager
def master(site: Site, entry: str, folder: Path, *options: str) -> Iterator[list[str]]:
    """A ControlMaster without a command; the words that begin each client of it. Forwards that fail end it."""
    words = site.command("ssh", "-S", str(folder / "master"))
    client = subprocess.Popen(
        [*words, "-M", "-N", "-o", "ExitOnForwardFailure=yes", *options, entry],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip

    def is_up() -> bool:
        assert client.stderr
        assert client.poll() is None, f"ssh ended with {client.returncode}: {client.stderr.read().decode()}"
        return subprocess.run([*words, "-O", "check", entry], capture_output=True, check=False).returncode == 0

    try:
        wait_until("the connection", is_up)
        yield words
    finally:
        subprocess.run([*words, "-O", "exit", entry], capture_output=True, check=False)
        try:
            client.wait(10)
        except subprocess.TimeoutExpired:  # OpenSSH's own, after a forward that was refused
            client.kill()
            client.wait()
        assert client.stderr
        client.stderr.close()


def listening(port: int) -> bool:
    wanted = f":{port:04X} "
    return any(wanted in line and " 0A " in line for line in Path("/proc/net/tcp").read_text().splitlines())


def test_local_forward(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    data = os.urandom(2_000_000)
    port = free_port()
    with served(echo) as (host, far), master(site, entry, tmp_path, "-L", f"{port}:{host}:{far}"):
        assert ask((LOOPBACK, port), data) == data + b", bye"
        assert ask((LOOPBACK, port)) == b"hello, bye"
    if tape := evidence.tape():
        opened = [note for note in tape.forwards if note.state == "open"]
        closed = [note for note in tape.forwards if note.state == "close"]
        assert {(note.kind, note.destination) for note in opened} == {("forward-local", f"{host}:{far}".encode())}
        assert sorted(note.sent for note in closed) == [5, len(data)]
        assert sorted(note.received for note in closed) == [10, len(data) + 5]


def test_local_forward_to_nowhere(site: Site, entry: str, tmp_path: Path) -> None:
    port, closed = free_port(), free_port()
    with master(site, entry, tmp_path, "-L", f"{port}:{LOOPBACK}:{closed}"):
        assert ask((LOOPBACK, port)) == b""


def test_remote_forward(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    data = os.urandom(2_000_000)
    port = free_port()
    with served(echo) as (host, near), master(site, entry, tmp_path, "-R", f"{port}:{host}:{near}") as words:
        wait_until("the far listener", lambda: listening(port))
        assert ask((LOOPBACK, port), data) == data + b", bye"
        done = subprocess.run(
            [*words, "-O", "cancel", "-R", f"{port}:{host}:{near}", entry], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        wait_until("the end of the far listener", lambda: not listening(port))
    if tape := evidence.tape():
        closed = [note for note in tape.forwards if note.state == "close"]
        assert [(note.kind, note.sent, note.received) for note in closed] in (
            [("forward-remote", len(data) + 5, len(data))], [("forward-remote", len(data), len(data) + 5)],
        )  # fmt: skip


def test_remote_forward_to_a_port_that_the_target_chooses(site: Site, entry: str, tmp_path: Path) -> None:
    with served(echo) as (host, near), master(site, entry, tmp_path) as words:
        told = subprocess.run(
            [*words, "-O", "forward", "-R", f"0:{host}:{near}", entry], capture_output=True, text=True, check=True
        )
        assert ask((LOOPBACK, int(told.stdout))) == b"hello, bye"


def test_dynamic_forward(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    port = free_port()
    with served(web) as (host, far), master(site, entry, tmp_path, "-D", str(port)):
        words = ["curl", "-s", "--max-time", "60", "--socks5-hostname", f"{LOOPBACK}:{port}", f"http://{host}:{far}/"]
        done = subprocess.run(words, capture_output=True, check=False)
        assert done.stdout == b"through the tunnel"
    if tape := evidence.tape():
        assert [note.destination for note in tape.forwards if note.state == "open"] == [f"{host}:{far}".encode()]


def test_unix_sockets_in_both_directions(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    with served(echo, str(tmp_path / "far")) as far, served(echo, str(tmp_path / "near")) as near:
        options = ("-L", f"{tmp_path}/here:{far}", "-R", f"{tmp_path}/there:{near}")
        with master(site, entry, tmp_path, *options):
            wait_until("both sockets", lambda: (tmp_path / "here").exists() and (tmp_path / "there").exists())
            assert ask(str(tmp_path / "here"), b"a" * 300_000) == b"a" * 300_000 + b", bye"
            assert ask(str(tmp_path / "there"), b"b" * 300_000) == b"b" * 300_000 + b", bye"
    if tape := evidence.tape():
        assert {note.kind for note in tape.forwards} == {"forward-socket"}
        assert str(far).encode() in {note.destination for note in tape.forwards}


def test_an_agent_used_by_many_at_once(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    keygen(tmp_path / "mine")
    with agent(tmp_path, tmp_path / "mine") as path:
        # The agent for forwarding is not the one for logging in.
        with master(site, entry, tmp_path, "-o", f"ForwardAgent={path}") as words:
            script = "for i in 1 2 3 4 5 6; do ssh-add -l & done; wait"
            done = subprocess.run(
                [*words, "-A", entry, script], capture_output=True, text=True, timeout=60, check=False
            )
            wanted = subprocess.run(
                ["ssh-keygen", "-lf", str(tmp_path / "mine")], capture_output=True, text=True, check=True
            )
            assert done.stdout.count(wanted.stdout.split()[1]) == 6, done.stdout + done.stderr
        without = site.ssh(entry, "echo ${SSH_AUTH_SOCK:-none}")
        assert without.stdout == b"none\n"
    if tape := evidence.tape():
        assert sum(note.state == "open" and note.kind == "agent" for note in tape.agents) == 6


@contextmanager
def agent(folder: Path, key: Path) -> Iterator[Path]:
    path = folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        wait_until("the agent", path.exists)
        env = {**os.environ, "SSH_AUTH_SOCK": str(path)}
        subprocess.run(["ssh-add", "-q", str(key)], env=env, check=True, stdin=subprocess.DEVNULL)
        yield path
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.skipif(not shutil.which("xauth"), reason="needs xauth")
def test_x11(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    cookie = secrets.token_bytes(16)
    authority = tmp_path / "Xauthority"
    script = tmp_path / "x_client"
    script.write_text(X_CLIENT)
    with served(x_server(cookie), (LOOPBACK, free_port(DISPLAYS))) as (host, port):
        display = f"{host}:{port - 6000}"
        env = {**os.environ, "DISPLAY": display, "XAUTHORITY": str(authority)}
        subprocess.run(["xauth", "-q", "add", display, ".", cookie.hex()], env=env, check=True, capture_output=True)
        done = site.ssh(entry, f"python3 '{script}'", options=("-Y",), env=env)
        assert done.stdout == b"welcome\n", done.stderr
    if tape := evidence.tape():
        assert ("open", "x11") in {(note.state, note.kind) for note in tape.agents}


DISPLAYS = range(6200, 6400)
"""Ports of X servers; sshd takes those from 6010 on for its own."""

X_CLIENT = """\
import os, socket, struct, subprocess
host, _, number = os.environ["DISPLAY"].partition(":")
listed = subprocess.run(["xauth", "list", os.environ["DISPLAY"]], capture_output=True, text=True).stdout
cookie = bytes.fromhex(listed.split()[2])
name = b"MIT-MAGIC-COOKIE-1"
with socket.create_connection((host, 6000 + int(float(number)))) as x:
    x.sendall(struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), 16) + name + bytes(2) + cookie)
    head = x.recv(8)
    print(x.recv(head[1]).decode())
"""


def test_thirty_channels_on_one_connection(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    """All open at the same time: each waits until the last one has come."""
    with master(site, entry, tmp_path) as words:
        command = (
            f"cat > '{tmp_path}'/in-$0; until [ $(ls '{tmp_path}' | grep -c ^in-) -ge 30 ]; do sleep 0.1; done; echo $0"
        )
        clients = [
            subprocess.Popen([*words, entry, f"sh -c '{quoted(command)}' {number}"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
            for number in range(30)
        ]  # fmt: skip
        answers = []
        threads = []
        for number, client in enumerate(clients):
            thread = threading.Thread(
                target=lambda c=client, n=number: answers.append((n, c.communicate(b"x" * 5000)[0]))
            )
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join(60)
        assert sorted(answers) == [(number, f"{number}\n".encode()) for number in range(30)]
        assert all((tmp_path / f"in-{number}").stat().st_size == 5000 for number in range(30))
    if tape := evidence.tape():
        assert len(tape.starts) == 30
        by_channel = {event.channel for event in tape.events if event.kind == Kind.OUTPUT}
        assert len(by_channel) == 30


def quoted(text: str) -> str:
    return text.replace("'", "'\\''")


def test_an_editor_that_lives_on_the_target(site: Site, entry: str, evidence: Evidence) -> None:
    """What VS Code Remote does: a shell that takes its script on standard input, and many tunnels beside it."""
    port = free_port()
    with served(web) as (host, far):
        words = site.command("ssh", "-T", "-D", str(port), "-o", "ExitOnForwardFailure=yes")
        client = subprocess.Popen([*words, entry, "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdin
        assert client.stdout
        client.stdin.write(b"uname >/dev/null && echo 'listening on 1'\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"listening on 1\n"
        fetches = [
            subprocess.Popen(
                ["curl", "-s", "--max-time", "60", "--socks5", f"{LOOPBACK}:{port}", f"http://{host}:{far}/{number}"],
                stdout=subprocess.PIPE,
            )
            for number in range(20)
        ]
        assert [fetch.communicate()[0] for fetch in fetches] == [b"through the tunnel"] * 20
        client.stdin.write(b"exit 4\n")
        client.stdin.close()
        assert client.wait(20) == 4
        client.stdout.close()
    if tape := evidence.tape():
        assert sum(note.state == "open" for note in tape.forwards) == 20
        assert tape.typed.startswith(b"uname ")
