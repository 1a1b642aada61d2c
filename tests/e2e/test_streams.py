"""Commands, shells, terminals and subsystems with OpenSSH's own client: the same by every way to the target."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from recorder.model import Kind
from tests.support.evidence import Evidence
from tests.support.net import wait_until, wait_until_still
from tests.support.person import Person
from tests.support.site import Site
from tests.support.sshd import SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

MIB = 1 << 20


def test_output_error_and_status_stay_apart(site: Site, entry: str, evidence: Evidence) -> None:
    done = site.ssh(entry, "cat; echo err >&2; exit 7", input=b"\0\xff binary")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"\0\xff binary", b"err\n")
    if tape := evidence.tape():
        assert (tape.output, tape.errors, tape.typed) == (b"\0\xff binary", b"err\n", b"\0\xff binary")
        assert [(start.kind, start.command) for start in tape.starts] == [("exec", b"cat; echo err >&2; exit 7")]
        assert [note.status for note in tape.exits] == [7]
        assert [note.reason for note in tape.ended] == ["closed"]


@pytest.mark.parametrize("status", [0, 1, 200, 255])
def test_exit_status(site: Site, entry: str, status: int) -> None:
    assert site.ssh(entry, f"exit {status}").returncode == status


def test_exit_by_signal_says_which(site: Site, entry: str, evidence: Evidence) -> None:
    done = site.ssh(entry, "kill -TERM $$", options=("-o", "LogLevel=DEBUG1"))
    assert done.returncode == 255
    assert b"exit-signal" in done.stderr
    if tape := evidence.tape():
        assert [note.signal for note in tape.exits] == ["TERM"]


def test_a_command_passes_as_bytes(site: Site, entry: str, evidence: Evidence) -> None:
    command = b"printf '%s' 'caf\xe9 \x1b]0;x\x07\n\t$HOME' " + b"#" * 20_000
    done = subprocess.run(
        [*site.command("ssh"), entry, command], stdin=subprocess.DEVNULL, capture_output=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, b"caf\xe9 \x1b]0;x\x07\n\t$HOME")
    if tape := evidence.tape():
        assert tape.starts[0].command == command


def test_a_shell_without_a_terminal(site: Site, entry: str, evidence: Evidence) -> None:
    done = site.ssh(entry, input=b"echo $((6 * 7))\nexit 5\n")
    assert (done.returncode, done.stdout) == (5, b"42\n")
    if tape := evidence.tape():
        assert [(start.kind, start.term) for start in tape.starts] == [("shell", b"")]
        assert tape.typed == b"echo $((6 * 7))\nexit 5\n"


def test_a_shell_on_a_terminal_that_changes_its_size(site: Site, entry: str, evidence: Evidence) -> None:
    with Person(*site.command("ssh"), entry, columns=101, rows=33) as person:
        person.type("PS1='pro''mpt> '; stty size; echo $TERM\r")
        person.until("33 101")
        person.until("xterm-256color")
        person.until("prompt> ")
        person.resize(132, 50)
        # The new size travels on its own; a shell may look before it has arrived.
        person.type("until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; echo re''sized\r")
        person.until("resized")
        person.until("prompt> ")
        person.type("sh -c 'echo beg\"\"in; exec sleep 60'\r")
        person.until("begin\r\n")
        person.type("\x03")
        person.until("prompt> ")
        person.type("exit 9\r")
        assert person.wait() == 9
    if tape := evidence.tape():
        start = tape.starts[0]
        assert (start.kind, start.term, start.columns, start.rows) == ("shell", b"xterm-256color", 101, 33)
        assert tape.joined(Kind.RESIZE).endswith(b"132x50")
        assert b"resized" in tape.output
        assert b"exit 9" in tape.typed


def test_a_subsystem(site: Site, entry: str, evidence: Evidence) -> None:
    done = site.ssh(entry, "echo", options=("-s",), input=b"through a subsystem")
    assert (done.returncode, done.stdout) == (0, b"through a subsystem")
    if tape := evidence.tape():
        assert [(start.kind, start.command) for start in tape.starts] == [("subsystem", b"echo")]


def test_a_subsystem_that_is_not_there(site: Site, entry: str) -> None:
    done = site.ssh(entry, "sftp;id", options=("-s",))
    assert done.returncode == 255
    assert done.stdout == b""


def test_only_harmless_environment_passes(site: Site, entry: str, evidence: Evidence) -> None:
    options = ("-o", "SetEnv=LC_PROOF=yes COLORTERM=truecolor LD_PRELOAD=evil.so BASH_ENV=evil")
    done = site.ssh(entry, 'echo "$LC_PROOF $COLORTERM $LD_PRELOAD$BASH_ENV"', options=options)
    assert (done.returncode, done.stdout) == (0, b"yes truecolor \n")
    if tape := evidence.tape():
        assert tape.starts[0].env == {"LC_PROOF": b"yes", "COLORTERM": b"truecolor"}


def test_each_side_may_stop_sending_alone(site: Site, entry: str, tmp_path: Path) -> None:
    done = site.ssh(entry, "sort; echo after the end of input", input=b"b\na\n")
    assert (done.returncode, done.stdout) == (0, b"a\nb\nafter the end of input\n")
    there = tmp_path / "there"
    client = subprocess.Popen(
        [*site.command("ssh"), entry, f"echo closing; exec 1>&- 2>&-; cat > '{there}'"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout
    assert client.stdin
    assert client.stdout.read() == b"closing\n"  # to its end, while our side still sends
    client.stdin.write(b"x" * 300_000)
    client.stdin.close()
    assert client.wait(20) == 0
    assert there.read_bytes() == b"x" * 300_000


@pytest.mark.parametrize("limit", ["default", "1M"])
def test_large_streams_in_both_directions(site: Site, entry: str, big: Path, limit: str, evidence: Evidence) -> None:
    """64 MiB each way; or 16 MiB while the keys change 16 times."""
    data = big.read_bytes()[: (64 if limit == "default" else 16) * MIB]
    digest = hashlib.sha256(data).hexdigest()
    options = ("-o", f"RekeyLimit={limit}")
    down = site.ssh(entry, f"head -c {len(data)} '{big}'", options=options)
    assert (down.returncode, hashlib.sha256(down.stdout).hexdigest()) == (0, digest)
    if tape := evidence.tape():
        tape.holds("out", Kind.OUTPUT, data)
    up = site.ssh(entry, "sha256sum", options=options, input=data)
    assert (up.returncode, up.stdout.split()[0].decode()) == (0, digest)


def test_both_directions_at_once(site: Site, entry: str, big: Path) -> None:
    data = big.read_bytes()[: 16 * MIB]
    done = site.ssh(entry, "cat", input=data)
    assert done.stdout == data


def test_a_reader_that_waits_makes_the_target_wait(site: Site, entry: str) -> None:
    """What a client does not read must not pile up in the gateway (a window alone does not bound it: TCP does)."""
    count = 192 * MIB
    client = subprocess.Popen([*site.command("ssh"), entry, f"head -c {count} /dev/zero"], stdout=subprocess.PIPE)
    assert client.stdout
    gateway = site.pid("bastion.ssh")
    client.stdout.read(MIB)
    before = resident(gateway)
    wait_until_still(lambda: written(client.pid))
    assert resident(gateway) - before < 8 * MIB
    assert sum(len(piece) for piece in iter(lambda: client.stdout.read(MIB), b"")) == count - MIB
    assert client.wait(20) == 0


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def written(pid: int) -> int:
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["rchar"])


def test_keepalives_from_the_client_are_answered(site: Site, entry: str) -> None:
    options = ("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=20", "-o", "LogLevel=DEBUG3")
    done = site.ssh(entry, "sleep 2.5; echo alive", options=options)
    assert (done.returncode, done.stdout) == (0, b"alive\n")
    assert done.stderr.count(b"send packet: type 80") >= 2


def test_what_comes_with_the_open_is_not_lost(site: Site, entry: str) -> None:
    """A multiplexing client sends its input right behind the request, before anything was answered."""
    for length in (1, 100_000):
        done = site.ssh(entry, "cat", input=b"e" * length)
        assert done.stdout == b"e" * length


def test_a_killed_client_ends_its_session(site: Site, entry: str, evidence: Evidence, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    client = subprocess.Popen([*site.command("ssh", "-tt"), entry, f"echo $$ > '{marker}'; exec sleep 300"],
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # fmt: skip
    wait_until("the command", lambda: marker.exists() and marker.read_text().strip())
    remote = int(marker.read_text())
    client.kill()
    client.wait()
    wait_until("the end of what it ran", lambda: not Path(f"/proc/{remote}").exists())
    if tape := evidence.tape():
        assert [note.reason for note in tape.ended] == ["client-lost"]
