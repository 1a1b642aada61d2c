"""A real sshd with accounts of its own: passwords by PAM, keys, real passwd, chpasswd and sudo. Needs root.

It runs in private mount and process namespaces: its /etc is a copy, its /home, /run and /var/log are its own, so that
the accounts of the machine stay as they are, and nothing of it lives longer than `stop`. `passwd` and `chpasswd` are
wrappers first in PATH that do what `fault` says, and otherwise run the real ones; `mv`, which replaces
authorized_keys, as well.
"""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import paramiko

from tests.support.net import LOOPBACK, answers_ssh, free_port, tail, wait_until
from tests.support.sshd import SFTP_SERVER, SSHD, keygen

ANN, OPS, KIOSK, ROOT = "ann", "ops", "kiosk", "root"
"""`ann` is anybody; `ops` may run everything by sudo without a password; `kiosk` has no shell."""
ACCOUNTS: Final = (ANN, OPS, KIOSK, ROOT)
PASSWORD: Final = "first-Password-0815"
"""Of every account at the start; the shortest that `passwd` takes has 12 characters."""
_FIRST_UID: Final = 61001  # above what distributions give to people

FAULTS: Final = (
    "lies",  # says that it was done, and changes nothing
    "denies",  # says that it was not done, and has done it
    "drops",  # the line breaks once it is done
    "drops-before",  # the line breaks once the new password was read, and nothing is done
    "hangs",  # reads everything and says nothing more
    "hangs-after",  # does it, and says nothing more
    "turns",  # does it, and lies from then on
    "floods",  # talks without end
    "echoes",  # says back what it reads, and does it
    "terminal",  # wants a terminal
    "absent",  # is not installed
)  # fmt: skip

_PAM: Final = {
    "sshd": "auth required pam_unix.so nodelay\naccount required pam_nologin.so\naccount required pam_unix.so\n"
    "password required pam_unix.so sha512 rounds=1000 minlen=12\nsession required pam_unix.so\n",
    "passwd": "password required pam_unix.so sha512 rounds=1000 minlen=12 obscure\n",
    "chpasswd": "password required pam_unix.so sha512 rounds=1000 minlen=12\n",
    "sudo": "auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n",
    "su": "auth sufficient pam_rootok.so\nauth required pam_unix.so\naccount required pam_unix.so\n"
    "session required pam_permit.so\n",
}

_WRAPPER: Final = """\
#!/bin/sh
# What is set as a fault for this program, or the real one.
real={real}
fault=$(cat /usr/local/bin/{name}.fault 2>/dev/null)
cut() {{ # the process of sshd that serves this connection
  pid=$$
  while [ "$pid" -gt 1 ]; do
    pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status")
    case "$(cat "/proc/$pid/comm")" in sshd*) kill -9 "$pid"; sleep 60 ;; esac
  done
}}
listen() {{ {listen}; }}
again() {{ {again}; }}
case "$fault" in
  "") exec "$real" "$@" ;;
  absent) echo "sh: {name}: not found" >&2; exit 127 ;;
  terminal) [ -t 0 ] && exec "$real" "$@"; echo "{name}: must be run from a terminal" >&2; exit 1 ;;
  floods) listen; yes "this goes on and on" | head -c 2000000000; exit 0 ;;
esac
listen
case "$fault" in
  lies) echo "{name}: password updated successfully"; exit 0 ;;
  denies) again "$@" >/dev/null 2>&1; echo "{name}: Authentication token manipulation error" >&2; exit 10 ;;
  turns) again "$@"; echo lies > /usr/local/bin/{name}.fault ;;
  drops) again "$@" >/dev/null 2>&1; cut ;;
  drops-before) cut ;;
  hangs) sleep 600 ;;
  hangs-after) again "$@" >/dev/null 2>&1; sleep 600 ;;
  echoes) echo "you said $said"; again "$@" 2>/dev/null ;;
esac
"""
_ASK: Final = (
    "printf 'Current password: ' >&2; IFS= read -r old; printf 'New password: ' >&2; IFS= read -r new; "
    "printf 'Retype new password: ' >&2; IFS= read -r twice; said=$new"
)

_START: Final = """\
set -e
mount --bind "$1/etc" /etc
mount --bind "$1/homes" /home
mount --bind "$1/root" /root
mount --bind "$1/tools" /usr/local/bin
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir /run/sshd
shift
exec "$@"
"""


_CRAMP: Final = """\
size=$(du -s --block-size=4096 "$1" | cut -f1)
mkdir -p /run/cramped
mount -t tmpfs -o size=$(((size + 64) * 4096)),mode=755 tmpfs /run/cramped
cp -a "$1/." /run/cramped
chown --reference="$1" /run/cramped
chmod --reference="$1" /run/cramped
mount --move /run/cramped "$1"
dd if=/dev/zero of="$1/filler" bs=4096 2>/dev/null || :
truncate -s -$(($2 * 4096)) "$1/filler"
"""


def missing() -> str:
    """Why it cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "accounts of its own need a mount namespace, and that needs root"
    for program in (SSHD, "/usr/bin/passwd", "/usr/sbin/chpasswd", "/usr/bin/unshare", "/usr/bin/openssl"):
        if not Path(program).exists():
            return f"needs {program}"
    try:
        tried = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/run"],
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "no private namespaces here: unshare hangs"
    return "" if tried.returncode == 0 else f"no private namespaces here: {tried.stderr.strip()}"


@dataclass
class AccountsTarget:
    """One running server, with the face of tests.support.sshd.Sshd. `client_key` opens every account."""

    home: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    account: str = ANN
    more: tuple[str, ...] = ()  # accounts beside those above
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def host_key(self) -> Path:
        return self.home / "host_key.pub"

    @property
    def client_key(self) -> Path:
        return self.home / "client_key"

    @property
    def listener(self) -> int:
        """The first process of its namespace, which takes connections."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def start(self) -> "AccountsTarget":
        if not self.home.exists():
            self.home.mkdir(parents=True)
            self._furnish()
        command = [SSHD, "-D", "-f", str(self.home / "sshd_config"), "-E", str(self.home / "sshd.log")]
        with (self.home / "start.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
                 "sh", "-c", _START, "start", str(self.home), *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(f"sshd of its own: {tail(self.home / 'start.log')}", lambda: answers_ssh(self.port))
        return self

    def stop(self) -> None:
        """End it and everything that was started by it: they share a process namespace."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    def log(self) -> str:
        return (self.home / "sshd.log").read_text(errors="replace")

    # --- what a test changes ------------------------------------------------------------------------

    def fault(self, name: str = "", *programs: str) -> None:
        """What `passwd` and `chpasswd`, or these, do from now on: one of FAULTS, or "" for what all of them should."""
        assert name in ("", *FAULTS)
        for program in programs or ("passwd", "chpasswd", *(() if name else ("mv",))):
            path = self.home / f"tools/{program}.fault"
            path.write_text(name)
            path.chmod(0o666)  # `turns` is anybody's to write

    def set_password(self, account: str, password: str) -> None:
        """As if an administrator of the target had done it; who was locked or expired is so no longer."""
        self._shadow(account, _hashed(password))

    def lock(self, account: str) -> None:
        """As `passwd -l`, and as `chage -E 0`: neither password nor key open it."""
        self._shadow(account, "!" + self.shadow(account), expires="0")

    def expire(self, account: str) -> None:
        """As `chage -d 0`: the password must be changed at the next login."""
        self._shadow(account, self.shadow(account), changed="0")

    def sudoers(self, *rules: str) -> None:
        """What OPS may from now on, like `ALL = (root) NOPASSWD: /usr/sbin/chpasswd`."""
        (self.home / "etc/sudoers").write_text("".join(f"{OPS} {rule}\n" for rule in rules))

    def inside(self, script: str, *words: str) -> str:
        """Run as root among its own files and processes; what it wrote."""
        command = ["nsenter", "--target", str(self.listener), "--mount", "--pid", "sh", "-ec", script, "sh", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{script}: {done.stderr}"
        return done.stdout

    def cramp(self, folder: str, pages: int) -> None:
        """Put a folder on a file system with room for so many pages of 4 KiB. Without `roomy`, until `stop`."""
        self.inside(_CRAMP, folder, str(pages))

    def roomy(self, folder: str) -> None:
        """Somebody tidied up."""
        self.inside('rm "$1/filler"', folder)

    def read_only(self, folder: str, yes: bool = True) -> None:
        """As a disk after an error; `False`: somebody repaired it."""
        self.inside('mountpoint -q "$1" || mount --bind "$1" "$1"; mount -o "remount,bind,$2" "$1"',
                    folder, "ro" if yes else "rw")  # fmt: skip

    # --- what a test looks at -----------------------------------------------------------------------

    def shadow(self, account: str) -> str:
        """The hash in force."""
        lines = (self.home / "etc/shadow").read_text().splitlines()
        return next(line.split(":")[1] for line in lines if line.startswith(f"{account}:"))

    def home_of(self, account: str) -> Path:
        return self.home / ("root" if account == ROOT else f"homes/{account}")

    def authorized_keys(self, account: str) -> Path:
        return self.home_of(account) / ".ssh/authorized_keys"

    def opens(self, account: str, password: str = "", key: Path | None = None) -> bool:
        """Whether a stock client logs in with this, now."""
        transport = paramiko.Transport((LOOPBACK, self.port))
        try:
            transport.start_client(timeout=20)
            if key is not None:
                transport.auth_publickey(account, paramiko.PKey.from_path(key))
            else:
                transport.auth_password(account, password, fallback=False)
            return transport.is_authenticated()
        except paramiko.AuthenticationException:
            return False
        finally:
            transport.close()

    # --- how it is made -----------------------------------------------------------------------------

    def _furnish(self) -> None:
        keygen(self.home / "host_key")
        keygen(self.client_key)
        shutil.copytree("/etc", self.home / "etc", symlinks=True, ignore_dangling_symlinks=True)
        (self.home / "etc").chmod(0o755)
        for name, text in _PAM.items():
            (self.home / "etc/pam.d" / name).unlink(missing_ok=True)
            (self.home / "etc/pam.d" / name).write_text(text)
        (self.home / "etc/nologin").unlink(missing_ok=True)
        sudoers = self.home / "etc/sudoers"
        sudoers.unlink(missing_ok=True)
        self.sudoers("ALL = (ALL:ALL) NOPASSWD: ALL")
        sudoers.chmod(0o440)
        self._accounts()
        self._tools()
        (self.home / "sshd_config").write_text(
            "\n".join(
                [
                    *self.options,  # sshd takes the first value of an option
                    f"ListenAddress {LOOPBACK}",
                    f"Port {self.port}",
                    f"HostKey {self.home / 'host_key'}",
                    "PidFile none",
                    "PermitRootLogin yes",
                    "UsePAM yes",
                    "PasswordAuthentication yes",
                    "KbdInteractiveAuthentication yes",
                    "MaxStartups 200",
                    "PrintMotd no",
                    "PrintLastLog no",
                    f"Subsystem sftp {SFTP_SERVER}",
                    "LogLevel VERBOSE",
                    "",
                ]
            )
        )

    def _accounts(self) -> None:
        (self.home / "homes").mkdir()
        names = *ACCOUNTS, *self.more
        for name in ("passwd", "shadow", "group", "gshadow"):
            path = self.home / "etc" / name
            kept = [line for line in path.read_text().splitlines() if line.split(":")[0] not in names]
            path.write_text("\n".join([*kept, ""]))
        with (self.home / "etc/passwd").open("a") as users, (self.home / "etc/group").open("a") as groups:
            for number, name in enumerate(names):
                uid = 0 if name == ROOT else _FIRST_UID + number
                shell = "/usr/sbin/nologin" if name == KIOSK else "/bin/bash"
                folder = "/root" if name == ROOT else f"/home/{name}"
                users.write(f"{name}:x:{uid}:{uid}::{folder}:{shell}\n")
                groups.write(f"{name}:x:{uid}:\n")
                self._furnish_home(name, uid)
        hashed = _hashed(PASSWORD)
        with (self.home / "etc/shadow").open("a") as shadow:
            shadow.writelines(f"{name}:{hashed}:20000:0:99999:7:::\n" for name in names)

    def _furnish_home(self, name: str, uid: int) -> None:
        folder = self.home_of(name)
        (folder / ".ssh").mkdir(parents=True)
        self.authorized_keys(name).write_text(self.client_key.with_suffix(".pub").read_text())
        for path, mode in ((folder, 0o755), (folder / ".ssh", 0o700), (self.authorized_keys(name), 0o600)):
            path.chmod(mode)
            os.chown(path, uid, uid)

    def _tools(self) -> None:
        tools = self.home / "tools"
        tools.mkdir(mode=0o755)
        pipe = 'printf \'%s\\n\' "$old" "$new" "$twice" | $real'
        for name, real, listen, again in (
            ("passwd", "/usr/bin/passwd", _ASK, pipe),
            ("chpasswd", "/usr/sbin/chpasswd", "said=$(cat)", "printf '%s\\n' \"$said\" | $real"),
            ("mv", "/usr/bin/mv", ":", '$real "$@"'),  # what replaces authorized_keys
        ):
            (tools / name).write_text(_WRAPPER.format(name=name, real=real, listen=listen, again=again))
            (tools / name).chmod(0o755)

    def _shadow(self, account: str, value: str, *, changed: str = "20000", expires: str = "") -> None:
        """One line of /etc/shadow anew, in one step as the tools do it."""
        path = self.home / "etc/shadow"
        lines = []
        for line in path.read_text().splitlines():
            fields = line.split(":")
            if fields[0] == account:
                fields[1], fields[2], fields[7] = value, changed, expires
            lines.append(":".join(fields))
        new = path.with_name("shadow.new")
        new.write_text("\n".join([*lines, ""]))
        new.chmod(0o600)
        new.replace(path)


@cache
def _hashed(password: str) -> str:
    done = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=password, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
