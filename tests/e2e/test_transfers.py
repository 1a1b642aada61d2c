"""Files with the programs that people use: both ways, by every way to the target, and what recordings say of them."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.evidence import Evidence
from tests.support.net import wait_until
from tests.support.site import Site
from tests.support.sshd import SFTP_SERVER, SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
    pytest.mark.skipif(not Path(SFTP_SERVER).exists(), reason="needs OpenSSH's sftp-server"),
]

NAME = "a name with space, quote' and umlaut \u00fc"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"needs {program}")


def run(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a client that must succeed."""
    options = {"capture_output": True, "text": True, "timeout": 100, "stdin": subprocess.DEVNULL} | options
    if "input" in options:
        del options["stdin"]
    done = subprocess.run(words, check=False, **options)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@pytest.mark.parametrize("protocol", ["sftp", "legacy"])
def test_scp_both_ways(site: Site, entry: str, big: Path, tmp_path: Path, protocol: str, evidence: Evidence) -> None:
    # The legacy client compares names with what it asked for, quotes and all, and refuses its own quoting.
    there, back = tmp_path / (NAME if protocol == "sftp" else "plain"), tmp_path / "back"
    scp = site.command("scp", "-q", *(["-O"] if protocol == "legacy" else []))
    run([*scp, str(big), f"{entry}:{there}"])
    assert sha256(there) == sha256(big)
    run([*scp, f"{entry}:{there}", str(back)])
    assert sha256(back) == sha256(big)
    if tape := evidence.tape():
        put, get = ("write", "read") if protocol == "sftp" else ("scp-put", "scp-get")
        assert [start.kind for start in tape.starts] == [{"sftp": "sftp", "legacy": "scp"}[protocol]] * 2
        for op in (put, get):
            found = [note for note in tape.operations if note.op == op]
            assert [(note.size, note.sha256) for note in found] == [(big.stat().st_size, sha256(big))], found


def test_scp_keeps_modes_and_folders(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    tree(tmp_path / "tree")
    run([*site.command("scp", "-q", "-r", "-p"), str(tmp_path / "tree"), f"{entry}:{tmp_path}/there"])
    run([*site.command("scp", "-q", "-r", "-p", "-O"), f"{entry}:{tmp_path}/there", str(tmp_path / "back")])
    assert picture(tmp_path / "back") == picture(tmp_path / "tree")
    if tape := evidence.tape():
        assert tape.transfer("write", tmp_path / "there/deep/er/file").sha256 == sha256(tmp_path / "tree/deep/er/file")


def test_scp_says_what_went_wrong_as_ever(site: Site, entry: str, tmp_path: Path) -> None:
    words = [*site.command("scp", "-q"), f"{entry}:{tmp_path}/is-not-there", str(tmp_path / "x")]
    done = subprocess.run(words, capture_output=True, timeout=30, check=False)
    assert done.returncode == 1
    assert b"No such file" in done.stderr


def test_sftp_does_everything(site: Site, entry: str, big: Path, tmp_path: Path, evidence: Evidence) -> None:
    there = tmp_path / "there"
    small = tmp_path / "small"
    small.write_bytes(b"small")
    batch = f"""\
mkdir {there}
put {big} {there}/big
put {small} {there}/small
rename {there}/small {there}/renamed
chmod 600 {there}/renamed
symlink {there}/renamed {there}/link
ln {there}/renamed {there}/hard
ls -l {there}
df {there}
get {there}/big {tmp_path}/back
rm {there}/hard
rm {there}/link
mkdir {there}/empty
rmdir {there}/empty
-rm {there}/is-not-there
"""
    done = run([*site.command("sftp", "-q", "-b", "-"), entry], input=batch)
    assert "renamed" in done.stdout
    assert sha256(tmp_path / "back") == sha256(big)
    assert sorted(path.name for path in there.iterdir()) == ["big", "renamed"]
    assert (there / "renamed").stat().st_mode & 0o777 == 0o600
    if tape := evidence.tape():
        for op in ("write", "read"):
            note = tape.transfer(op, there / "big")
            assert (note.size, note.sha256, note.status) == (big.stat().st_size, sha256(big), 0)
            assert note.extents == [(0, big.stat().st_size)]
        told = {(note.op, note.path.decode().rstrip("/")) for note in tape.operations if note.status == 0}
        for op, path in (
            ("mkdir", there), ("rename", there / "small"), ("setstat", there / "renamed"), ("opendir", there),
            ("remove", there / "hard"), ("remove", there / "link"), ("rmdir", there / "empty"),
        ):  # fmt: skip
            assert (op, str(path)) in told, f"{op} {path} is not in {sorted(told)}"
        assert {op for op, _ in told} >= {"symlink", "hardlink"}
        failed = [note for note in tape.operations if note.status]
        assert ("remove", str(there / "is-not-there")) in {(note.op, note.path.decode()) for note in failed}


def test_sftp_resumes_in_the_middle(site: Site, entry: str, big: Path, tmp_path: Path, evidence: Evidence) -> None:
    data = big.read_bytes()[: 1 << 20]
    (tmp_path / "whole").write_bytes(data)
    (tmp_path / "part").write_bytes(data[:300_000])
    run([*site.command("sftp", "-q", "-b", "-"), entry], input=f"reput {tmp_path}/whole {tmp_path}/part\n")
    assert (tmp_path / "part").read_bytes() == data
    if tape := evidence.tape():
        note = tape.transfer("write", tmp_path / "part")
        assert note.extents == [(300_000, len(data) - 300_000)]
        assert note.sha256 == hashlib.sha256(data[300_000:]).digest()


@needs("rsync")
def test_rsync_both_ways(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    tree(tmp_path / "tree")
    rsync = ["rsync", "-a", "-e", " ".join(site.command("ssh"))]
    run([*rsync, f"{tmp_path}/tree/", f"{entry}:{tmp_path}/there/"])
    (tmp_path / "tree/deep/er/file").write_bytes(os.urandom(200_000))  # a delta the second time
    run([*rsync, "--checksum", f"{tmp_path}/tree/", f"{entry}:{tmp_path}/there/"])
    run([*rsync, f"{entry}:{tmp_path}/there/", f"{tmp_path}/back/"])
    assert picture(tmp_path / "back") == picture(tmp_path / "tree")
    if tape := evidence.tape():
        assert [start.kind for start in tape.starts] == ["scp"] * 3
        assert all(start.command.startswith(b"rsync --server") for start in tape.starts)


@needs("git")
def test_git_push_clone_and_fetch(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "there.git"
    env = {
        **os.environ, "GIT_SSH_COMMAND": " ".join(site.command("ssh")), "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }  # fmt: skip
    git = ["git", "-c", "init.defaultBranch=main", "-c", "safe.directory=*"]
    run([*git, "init", "-q", "--bare", str(theirs)])
    run([*git, "init", "-q", str(mine)])
    (mine / "file").write_bytes(os.urandom(300_000))
    run([*git, "add", "."], cwd=mine)
    run([*git, "commit", "-q", "-m", "x"], cwd=mine, env=env)
    run([*git, "push", "-q", f"{entry}:{theirs}", "HEAD:refs/heads/main"], cwd=mine, env=env)
    run([*git, "clone", "-q", "-b", "main", f"{entry}:{theirs}", str(tmp_path / "clone")], env=env)
    assert sha256(tmp_path / "clone/file") == sha256(mine / "file")
    if tape := evidence.tape():
        assert [start.command.split()[0] for start in tape.starts] == [b"git-receive-pack", b"git-upload-pack"]


@needs("sshfs")
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_sshfs(site: Site, entry: str, tmp_path: Path, evidence: Evidence) -> None:
    (there := tmp_path / "there").mkdir()
    data = os.urandom(3_000_000)
    with mounted(site, entry, there, tmp_path / "mount") as mount:
        (mount / "file").write_bytes(data)
        assert (mount / "file").read_bytes() == data
        (mount / "folder").mkdir()
        (mount / "file").rename(mount / "folder/moved")
        assert sorted(os.listdir(mount)) == ["folder"]
    assert (there / "folder/moved").read_bytes() == data
    if tape := evidence.tape():
        assert tape.transfer("write", there / "file").sha256 == hashlib.sha256(data).digest()
        assert {note.op for note in tape.operations} >= {"mkdir", "rename", "opendir"}


@contextmanager
def mounted(site: Site, entry: str, there: Path, mount: Path) -> Iterator[Path]:
    mount.mkdir()
    words = ["sshfs", "-F", str(site.ssh_config), f"{entry}:{there}", str(mount)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode and "fuse: " in done.stderr:
        pytest.skip(f"no file system in user space here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    try:
        yield mount
    finally:
        subprocess.run(["fusermount3", "-u", str(mount)], check=True, timeout=30)
        wait_until("the end of the mount", lambda: not os.path.ismount(mount))


@needs("ansible")
@pytest.mark.parametrize("pipelining", [True, False])
def test_ansible(site: Site, entry: str, tmp_path: Path, pipelining: bool, evidence: Evidence) -> None:
    """Facts by ControlMaster with many channels; with pipelining the module goes in over standard input."""
    (tmp_path / "source").write_text("from ansible\n")
    (tmp_path / "ansible.cfg").write_text(
        f"[defaults]\nhost_key_checking = True\ninterpreter_python = /usr/bin/python3\n"
        f"local_tmp = {tmp_path}/local\nremote_tmp = {tmp_path}/remote\n"
        f"[ssh_connection]\npipelining = {pipelining}\ncontrol_path_dir = {tmp_path}/cp\n"
        f"ssh_args = -F {site.ssh_config} -o ControlMaster=auto -o ControlPersist=5\n"
    )
    playbook = tmp_path / "play.yml"
    playbook.write_text(
        f"- hosts: all\n  gather_facts: false\n  tasks:\n"
        f"    - ansible.builtin.command: echo one\n"
        f"    - ansible.builtin.copy: {{src: {tmp_path}/source, dest: {tmp_path}/copied}}\n"
        f"    - ansible.builtin.command: 'false'\n      ignore_errors: true\n"
    )
    env = {**os.environ, "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "LC_ALL": "C.UTF-8"}
    done = run(["ansible-playbook", "-i", f"{entry},", str(playbook)], env=env)
    assert "ignored=1" in done.stdout
    assert "failed=0" in done.stdout
    assert (tmp_path / "copied").read_text() == "from ansible\n"
    subprocess.run([*site.command("ssh", "-o", f"ControlPath={tmp_path}/cp/%C"), "-O", "exit", entry],
                   capture_output=True, check=False)  # fmt: skip
    if tape := evidence.tape():
        assert len({note.command for note in tape.starts}) >= 3
        transferred = [note for note in tape.operations if note.op == "write"]
        assert b"from ansible" in b"".join(start.command for start in tape.starts) or transferred


def tree(top: Path) -> None:
    """A few files of several sizes, modes and times."""
    (top / "deep/er").mkdir(parents=True)
    (top / "deep/er/file").write_bytes(os.urandom(200_000))
    (top / "empty").touch()
    (top / "program").write_bytes(b"#!/bin/sh\n")
    (top / "program").chmod(0o755)
    os.utime(top / "program", (1_000_000_000, 1_000_000_000))


def picture(top: Path) -> dict[str, tuple[int, int, bytes]]:
    """Modes, times and hashes of all files below."""
    return {
        str(path.relative_to(top)): (path.stat().st_mode, int(path.stat().st_mtime), sha256(path))
        for path in top.rglob("*")
        if path.is_file()
    }
