"""A second machine: systemd as process 1 in namespaces of its own, over a copy-on-write view of this one's files.

Its users, units, /etc and /var are its own, and gone with it. What it cannot show is another kernel.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
NAMESPACES: Final = ("--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net", "--cgroup")

# The upper layer lies on a tmpfs: an overlay cannot be the upper layer of another one, and CI may run on one. Units of
# this machine that are enabled are not started there, nor those that wait for a network, of which there is none.
# What it prints says that it is made; it lasts until standard input ends, so it goes with the process of the tests.
DISK: Final = """
set -e
cd "$1"
mkdir -p up root
mount -t tmpfs -o size=2g,mode=755 tmpfs up
mkdir -p up/upper up/work
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up/upper,workdir=$1/up/work" root
cd root
rm -rf etc/systemd/system/*.wants etc/rc?.d/S* etc/bastion var/lib/bastion var/log/journal
mkdir -p var/log/journal  # so that it lasts, too
for unit in systemd-networkd-wait-online.service systemd-networkd.service postgresql.service docker.service; do
  ln -sf /dev/null etc/systemd/system/$unit
done
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id  # a first boot would enable all there is
echo "$2" >etc/hostname
mkdir -p old-root
echo made
exec cat >/dev/null
"""

BOOT: Final = """
set -e
cd "$1/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
  touch dev/$device
  mount --bind /dev/$device dev/$device
done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
touch dev/console
mount --make-rprivate /
pivot_root . old-root
cd /
umount -l /old-root
mount --make-rshared /
exec env -i container=bastion PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --log-target=journal --unit=multi-user.target
"""


def on_a_machine() -> list[pytest.MarkDecorator]:
    """For `pytestmark`: such tests share a worker and its machine, if there can be one. make has pytest heed it."""
    why = reason_not_to()
    return [
        pytest.mark.e2e,
        pytest.mark.timeout(900),
        pytest.mark.xdist_group("booted"),
        pytest.mark.skipif(bool(why), reason=why or "-"),
    ]


@cache
def reason_not_to() -> str:
    """Why no machine can be booted here; empty where one can."""
    if os.geteuid() != 0:
        return "only root may boot a machine of its own"
    for program in ("unshare", "nsenter", "/lib/systemd/systemd", "dpkg-deb"):
        if not shutil.which(program):
            return f"needs {program}"
    probe = 'set -e; d=$(mktemp -d); mount -t tmpfs tmpfs $d; mkdir $d/u $d/w $d/r; mount -t cgroup2 cgroup2 $d/w; ' \
            'umount $d/w; mount -t overlay overlay -o lowerdir=/,upperdir=$d/u,workdir=$d/w $d/r'  # fmt: skip
    done = subprocess.run(
        ["unshare", *NAMESPACES, "sh", "-c", probe], capture_output=True, text=True, timeout=60, check=False
    )
    return "" if done.returncode == 0 else f"namespaces, an overlay or cgroup2 are refused: {done.stderr.strip()}"


@dataclass(slots=True)
class Machine:
    """Its files last from boot to boot, but for /run, /tmp and /dev."""

    folder: Path
    pid: int = 0
    """Of its process 1, as the host numbers it; 0 while it is off."""
    _disk: "subprocess.Popen[bytes] | None" = None
    _outer: "subprocess.Popen[bytes] | None" = None

    def boot(self, seconds: float = 120) -> None:
        assert self._disk is not None
        log = self.folder / "boot.log"
        with log.open("ab") as written:
            self._outer = subprocess.Popen(
                ["nsenter", "-t", str(self._disk.pid), "-m", "unshare", *NAMESPACES, "sh", "-c", BOOT, "sh",
                 str(self.folder)],
                stdin=subprocess.DEVNULL, stdout=written, stderr=written, start_new_session=True,
            )  # fmt: skip
        self.pid = _process_one(self._outer, log)
        self.wait(
            lambda: self.run("systemctl", "is-system-running", check=False).stdout in ("running\n", "degraded\n"),
            "systemd did not come up", seconds,
        )  # fmt: skip

    def shut_down(self) -> None:
        """Orderly, as by its power button (systemd(1), SIGRTMIN+4): units are stopped, then everything ends."""
        os.kill(self.pid, signal.SIGRTMIN + 4)
        self._ended(120)

    def cut_power(self) -> None:
        """Every process ends at once. What was written and not synced is still there: the kernel is the host's."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
        elif self._outer is not None:  # it did not come so far
            self._outer.kill()
        self._ended(60)

    def _ended(self, seconds: float) -> None:
        """unshare waits for process 1, and that is gone only after all others are."""
        if self._outer is not None:
            self._outer.wait(seconds)
        self.pid = 0

    def words(self, *words: str) -> list[str]:
        """The command of this host that runs `words` on the machine, in an environment of its own."""
        return ["nsenter", "-t", str(self.pid), "-a", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                "SYSTEMD_PAGER=", "LC_ALL=C.UTF-8", "TERM=dumb", *words]  # fmt: skip

    def run(
        self, *words: str, user: str = "", stdin: str | bytes = "", check: bool = True, timeout: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        inside = ["runuser", "-u", user, "--", *words] if user else list(words)
        done = subprocess.run(
            self.words(*inside), input=stdin if isinstance(stdin, str) else stdin.decode(), capture_output=True,
            text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def sh(self, script: str, timeout: float = 120) -> str:
        return self.run("sh", "-ec", script, timeout=timeout).stdout

    def write(self, path: str, content: str | bytes, mode: str = "600") -> None:
        self.run("sh", "-ec", 'umask 077; cat >"$0"; chmod "$1" "$0"', path, mode, stdin=content)

    def put(self, source: Path, path: str) -> None:
        """A large file, not through memory."""
        with source.open("rb") as content:
            subprocess.run(
                ["nsenter", "-t", str(self.pid), "-a", "sh", "-c", f"cat >{path}"],
                stdin=content, timeout=120, check=True,
            )  # fmt: skip

    def listening(self) -> socket.socket:
        """A port on the machine's loopback, for a server in this process: a socket stays where it was made."""
        made: list[socket.socket] = []

        def make() -> None:
            with Path(f"/proc/{self.pid}/ns/net").open("rb") as network:
                if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.create_server(("127.0.0.1", 0), backlog=16))

        thread = threading.Thread(target=make)  # which alone moves over there
        thread.start()
        thread.join()
        return made[0]

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def until(self, unit: str, state: str, seconds: float = 90) -> None:
        self.wait(lambda: self.property(unit, "ActiveState") == state, f"{unit} is not {state}", seconds)

    def wait(self, holds: Callable[[], bool], what: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, what + "\n" + self.journal()
            time.sleep(0.1)

    def journal(self, *words: str) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", "bastion*", *words, check=False).stdout


@contextlib.contextmanager
def booted(folder: Path, hostname: str = "bastion1") -> Iterator[Machine]:
    folder.mkdir(exist_ok=True)
    with (folder / "boot.log").open("wb") as log:
        disk = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", DISK, "sh", str(folder), hostname],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
        )  # fmt: skip
    machine = Machine(folder, _disk=disk)
    try:
        assert disk.stdout is not None
        assert disk.stdout.readline() == b"made\n", (folder / "boot.log").read_text()
        machine.boot()
        yield machine
    finally:
        machine.cut_power()
        disk.communicate(timeout=30)


def _process_one(outer: "subprocess.Popen[bytes]", log: Path) -> int:
    deadline = time.monotonic() + 90
    while True:
        assert outer.poll() is None, log.read_text()
        for child in Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return int(child)
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
