"""Terminal sessions to measure recordings with: real programs under a pty, typed at by a person who does not exist.

The clock is simulated. Keys are sent as fast as the program takes them, and the pauses of a person, and the time that
frames of a full-screen program are apart, are added to the times only; so half an hour takes seconds, and what is on
the screen is what bash, top and less really write.
"""

import fcntl
import os
import pty
import random
import select
import shutil
import signal
import struct
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from recorder.model import MAX_EVENT_DATA, Kind

ROWS, COLUMNS = 50, 120
TYPING, THINKING = 0.18, 3.6  # medians in seconds, log-normal: together some 140 keys a minute, a busy operator
TYPO = 0.03
QUIET = 0.004  # seconds without output after which a program has answered a key
PATIENCE = 5.0  # seconds for a command to come back to its prompt
PROMPT = "root@web1:\\w# "

COMMANDS = (
    "ls -la /etc | head -60", "cd /var/log", "ls -lt", "df -h", "free -m", "uptime", "ps aux | head -30",
    "cat /etc/os-release",
    "grep -n root /etc/passwd /etc/group", "cd /etc", "ls ssh", "cat ssh/ssh_config",
    "find /etc -name '*.conf' | head -40",
    "wc -l /etc/*.conf", "tail -50 /var/log/dpkg.log", "uname -a", "id", "mount | head -40", "cat /proc/meminfo",
    "du -sh /usr/share/doc 2>/dev/null", "env | sort", "dpkg -l | tail -20", "cat /etc/fstab", "date; hostname",
    "ls /usr/share | column -c 110 | head -40", "grep -rn nameserver /etc/resolv.conf", "stat /etc/passwd",
    "sed -n 1,50p /etc/services", "cd; pwd", "history | tail", "for i in 1 2 3; do echo $i; done", "cat /proc/loadavg",
    "ls -la /tmp | head", "file /bin/ls || true", "awk -F: '{print $1, $7}' /etc/passwd", "sort -t: -k3n /etc/group",
    "echo 'net.core.somaxconn = 512' > /dev/null", "journalctl -n 5 --no-pager 2>&1 | tail -5",
)  # fmt: skip


class Moment(NamedTuple):
    """One thing that was typed or shown."""

    seconds: float  # to the microsecond, which asciicast keeps and a recording rounds to milliseconds
    kind: Kind
    data: bytes


@dataclass
class Stage:
    """One program on a terminal of its own; `events` is what a bastion would have recorded."""

    words: list[str]
    dice: random.Random
    stretch: float = 1.0  # simulated seconds per real second while the program writes by itself
    now: float = 0.0  # simulated seconds
    events: list[Moment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pid, self.far = pty.fork()
        if self.pid == 0:  # in the child: nothing but exec
            os.chdir("/")
            environment = {"TERM": "xterm-256color", "PS1": PROMPT, "PATH": os.environ["PATH"], "HOME": "/root",
                           "LANG": "C.UTF-8", "LESS": ""}  # fmt: skip
            os.execvpe(self.words[0], self.words, environment)
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))

    def key(self, text: str) -> None:
        """Press, and take what comes at once."""
        self.events.append(Moment(self.now, Kind.INPUT, text.encode()))
        os.write(self.far, text.encode())
        self.listen(QUIET)

    def listen(self, quiet: float, patience: float = PATIENCE, until: bytes = b"", size: int = 1 << 30) -> None:
        """Record output until it ends with `until`, or pauses for `quiet`, or the program ends."""
        began, at, seen, taken = time.monotonic(), self.now, b"", 0
        while time.monotonic() - began < patience and taken < size:
            ready, _, _ = select.select([self.far], [], [], quiet)
            if not ready:
                if until and not seen.endswith(until):
                    continue
                break
            try:
                data = os.read(self.far, MAX_EVENT_DATA)
            except OSError:  # EIO: the program has ended
                break
            if not data:
                break
            taken += len(data)
            seen = (seen + data)[-64:]
            self.now = at + (time.monotonic() - began) * self.stretch
            self.events.append(Moment(self.now, Kind.OUTPUT, data))

    def pause(self, median: float) -> None:
        self.now += self.dice.lognormvariate(0, 0.6) * median

    def type(self, text: str) -> None:
        """As a person does: unevenly, and not always right."""
        for letter in text:
            if self.dice.random() < TYPO:
                for key in (self.dice.choice("abcdefghijklmnopqrstuvwxyz"), "\x7f"):
                    self.pause(TYPING)
                    self.key(key)
            self.pause(TYPING)
            self.key(letter)

    def close(self) -> list[Moment]:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.far)
        return self.events


def admin(dice: random.Random, commands: int = len(COMMANDS)) -> list[Moment]:
    """A busy operator in bash: some six minutes for all commands."""
    stage = Stage(["bash", "--norc", "--noprofile", "-i"], dice)
    stage.listen(0.2)
    for command in dice.sample(COMMANDS, commands):
        stage.pause(THINKING)
        stage.type(command)
        stage.pause(TYPING)
        stage.events.append(Moment(stage.now, Kind.INPUT, b"\r"))
        os.write(stage.far, b"\r")
        stage.listen(QUIET, until=b"# ")
    return stage.close()


def screens(dice: random.Random, seconds: float) -> Iterator[tuple[str, list[Moment]]]:
    """Programs that draw the whole screen, those of them that are installed; each takes `seconds` to make."""
    for words in (["top", "-d", "0.1"], ["watch", "-n", "0.1", "ps aux | head -40"]):
        if shutil.which(words[0]):
            stage = Stage(words, dice, stretch=10.0)  # frames a second apart
            stage.listen(1.0, patience=seconds)
            yield words[0], stage.close()
    for words, keys in (
        (["less", "/etc/services"], "   jjjjjjkkkk b jjj /tcp\rnnnn"),
        (["vi", "/etc/services"], "jjjjwwxxuu"),
    ):
        if shutil.which(words[0]):
            stage = Stage(words, dice)
            stage.listen(0.3)
            for _ in range(max(1, round(seconds * 3))):
                for key in keys:
                    stage.pause(0.5)
                    stage.key(key)
            yield words[0], stage.close()


def heavy(size: int) -> Iterator[tuple[str, list[Moment]]]:
    """Programs that write as fast as they may, up to `size` bytes each."""
    for command in ("find / -xdev", "ls -laR /usr", "cat /usr/lib/python3*/*.py", "od -A x -t x1z /bin/bash"):
        stage = Stage(["sh", "-c", f"{command} 2>/dev/null"], random.Random(1))
        stage.listen(1.0, patience=30.0, size=size)
        yield command.split()[0], stage.close()
