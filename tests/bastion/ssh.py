"""The real OpenSSH client against a site."""

import asyncio
import functools
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bastion.site import LOOPBACK, Site, key
from tests.support.net import at_most

SSH = shutil.which("ssh") or "/usr/bin/ssh"
VIA = ("direct", "jump")


@dataclass(frozen=True)
class Said:
    """What a person saw, and the exit code."""

    code: int
    output: bytes
    error: str

    @property
    def lines(self) -> list[str]:
        """What the bastion said on standard error."""
        return [line for line in self.error.replace("\r", "").splitlines() if line.startswith("bastion: ")]


def arguments(site: Site, via: str = "direct", target: str = "root@web1") -> list[str]:
    """ssh with its own configuration: `-J b root@web1` or `root@web1@b`."""
    folder = _folder()
    known = folder / f"known-{site.port}"
    public = key("bastion").export_public_key().decode().split()[:2]
    authority = key("host-ca").export_public_key().decode().split()[:2]
    known.write_text(f"[{LOOPBACK}]:{site.port} {' '.join(public)}\n@cert-authority * {' '.join(authority)}\n")
    config = folder / f"config-{site.port}"
    config.write_text(
        f"Host b\n HostName {LOOPBACK}\n Port {site.port}\nHost *\n UserKnownHostsFile {known}\n"
        " StrictHostKeyChecking yes\n IdentityFile none\n BatchMode yes\n LogLevel INFO\n ControlPath none\n"
    )
    where = ["-J", "b", target] if via == "jump" else [f"{target}@b" if target else "b"]
    return ["-F", str(config), *where]


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="bastion-ssh-"))


async def start(site: Site, *words: str, via: str = "direct", options: tuple[str, ...] = (), target: str = "root@web1",
                **settings: Any) -> asyncio.subprocess.Process:  # fmt: skip
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "SSH_AUTH_SOCK": "", "LC_ALL": "C", **settings.pop("env", {})}
    return await asyncio.create_subprocess_exec(
        SSH, *options, *arguments(site, via, target), *words,
        **{"stdin": pipe, "stdout": pipe, "stderr": pipe, "env": environment, "start_new_session": True, **settings},
    )  # fmt: skip


async def finish(process: asyncio.subprocess.Process, given: bytes | None = None, seconds: float | None = None) -> Said:
    """Until it ends, 40 s unless told; its input ends after `given`, and without that stays open."""
    seconds = at_most(40) if seconds is None else seconds
    if given is not None:
        output, error = await asyncio.wait_for(process.communicate(given), seconds)
    else:
        assert process.stdout is not None
        assert process.stderr is not None
        output, error, _ = await asyncio.wait_for(
            asyncio.gather(process.stdout.read(), process.stderr.read(), process.wait()), seconds
        )
    assert process.returncode is not None
    return Said(process.returncode, output, error.decode(errors="replace"))


async def ssh(site: Site, *words: str, given: bytes = b"", **how: Any) -> Said:
    """Run it to its end."""
    return await finish(await start(site, *words, **how), given)
