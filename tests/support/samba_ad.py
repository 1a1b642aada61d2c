"""A real Active Directory domain controller (Samba), in namespaces of its own: its ports are those of AD, and fixed.

What connects from outside comes through a small relay on loopback, whose far side stands in the controller's network.
"""

import ctypes
import errno
import os
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.net import LOOPBACK, tail, wait_until
from tests.support.outside import Ca

ADMINISTRATOR, ADMINISTRATOR_PASSWORD = "Administrator", "Adm1n-of-the-Domain"
REALM, BASE = "EX.TEST", "DC=ex,DC=test"
_CLONE_NEWNET: Final = 0x40000000
_DSDB: Final = "*/samba/ldb/samba_dsdb.so"


def missing() -> str:
    """Why it cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "a domain controller needs the ports of one, in a network namespace, and that needs root"
    for program in ("samba", "samba-tool", "unshare", "ip"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"):
            return f"needs {program} (apt install samba-ad-dc samba-dsdb-modules samba-vfs-modules samba-ad-provision)"
    if not list(Path("/usr/lib").glob(_DSDB)):
        return "needs samba-dsdb-modules"
    tried = subprocess.run(["unshare", "--net", "--pid", "--fork", "ip", "link", "set", "lo", "up"], check=False,
                           capture_output=True, text=True)  # fmt: skip
    if not Path("/usr/share/samba/setup/ad-schema").is_dir():
        return "needs samba-ad-provision"
    return "" if tried.returncode == 0 else f"no private namespaces here: {tried.stderr.strip()}"


@dataclass
class Controller:
    """`url` is LDAPS with a certificate of `ca`; provisioning takes 5 s of processor."""

    home: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    ca: Ca = field(init=False)
    _relay: socket.socket | None = None
    _carrying: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"ldaps://{LOOPBACK}:{self.port}"

    @property
    def login(self) -> str:
        return f"{ADMINISTRATOR}@{REALM}"

    def start(self) -> "Controller":
        self.home.mkdir(parents=True)
        self.ca = Ca(self.home / "ca")
        self.ca.context(LOOPBACK)
        (pem,) = [path for path in (self.home / "ca").iterdir() if path.name != "ca.pem"]
        pem.chmod(0o600)
        self._tool(
            "domain", "provision", f"--realm={REALM}", "--domain=EX", f"--adminpass={ADMINISTRATOR_PASSWORD}",
            "--server-role=dc", "--dns-backend=NONE", "--host-name=dc1", f"--targetdir={self.home / 'dc'}",
            "--option=interfaces=lo", "--option=bind interfaces only=yes",
            f"--option=tls certfile={pem}", f"--option=tls keyfile={pem}",
            f"--option=tls cafile={self.home / 'ca/ca.pem'}", f"--option=lock directory={self.home / 'dc/lock'}",
            f"--option=pid directory={self.home / 'dc'}", f"--option=ncalrpc dir={self.home / 'dc/ncalrpc'}",
        )  # fmt: skip
        command = 'ip link set lo up && exec samba -i -M single -s "$0"'
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", command,
                 str(self.configuration)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._relay = socket.create_server((LOOPBACK, 0))
        self.port = self._relay.getsockname()[1]
        self._carrying = threading.Thread(target=self._carry, args=(self._relay,), daemon=True)
        self._carrying.start()
        wait_until("the domain controller", self._is_up, 60)
        return self

    @property
    def configuration(self) -> Path:
        return self.home / "dc/etc/smb.conf"

    def add(self, name: str, password: str) -> str:
        """A new account; its distinguished name."""
        self._tool("user", "create", name, password, f"--configfile={self.configuration}")
        return f"CN={name},CN=Users,{BASE}"

    def stop(self) -> None:
        if self._relay is not None and self._carrying is not None:
            self._relay.shutdown(socket.SHUT_RDWR)
            self._carrying.join(20)  # else it may take the first connection of the listener that gets this number next
            self._relay.close()
            self._relay = None
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None

    def _tool(self, *words: str) -> None:
        done = subprocess.run(["samba-tool", *words], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"samba-tool {words[:2]}: {done.stdout}{done.stderr}"

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, tail(self.home / "log")
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=2) as probe:
            probe.settimeout(1)
            try:
                return probe.recv(1) != b""
            except TimeoutError:
                return True  # it waits for our handshake
        return False

    # --- the relay ----------------------------------------------------------------------------------

    def _carry(self, relay: socket.socket) -> None:
        while True:
            try:
                near, _ = relay.accept()
            except OSError:
                return
            threading.Thread(target=self._through, args=(near,), daemon=True).start()

    def _through(self, near: socket.socket) -> None:
        """One connection, by a thread that moved into the controller's network."""
        with near, suppress(OSError):
            self._enter()
            with socket.create_connection((LOOPBACK, 636), timeout=10) as far:
                far.settimeout(None)
                back = threading.Thread(target=_pump, args=(far, near), daemon=True)
                back.start()
                _pump(near, far)
                back.join(10)

    def _enter(self) -> None:
        if self.process is None:  # stopped meanwhile
            raise OSError(errno.ECONNREFUSED, "no controller")
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:  # not there yet, or gone: who connects is told so, and may try again
            raise OSError(errno.ECONNREFUSED, "no controller")
        with open(f"/proc/{children[0]}/ns/net") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
