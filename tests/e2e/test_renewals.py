"""New keys on a connection that is logged in: a storm of them ends, and RekeyLimit 1M does not."""

import asyncio
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from asyncssh.packet import String

from bastion.ssh.renewals import BURST, SECONDS
from tests.e2e.test_channels_hostile import talk
from tests.support.net import wait_until
from tests.support.rawssh import Raw
from tests.support.site import DIRECT, THROUGH, Site
from tests.support.sshd import SSHD

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path(SSHD).exists() or not shutil.which("ssh"), reason="needs OpenSSH's sshd and ssh"),
]

BIG = 200 << 20


@pytest.fixture(params=THROUGH)
def entry(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def storm(raw: Raw) -> int:
    """New keys until the other side has enough; how often it went along."""
    for done in range(10 * BURST):
        raw._send_kexinit()
        raw._kexinit_sent = True
        async with asyncio.timeout(20):
            while not raw._kex_complete and not raw.gone.is_set():  # noqa: ASYNC110 - asyncssh tells nobody
                await asyncio.sleep(0.002)
        if raw.gone.is_set():
            return done
    return 10 * BURST


def test_new_keys_without_end_end_the_connection(site: Site, entry: str) -> None:
    """[T7] Attack: each costs a gateway that others share 7 ms. The trail says why it ended."""

    async def dialogue(raw: Raw) -> tuple[int, float, str]:
        await raw.started("exec", String("cat"))
        began = time.monotonic()
        done = await storm(raw)
        took = time.monotonic() - began
        return done, took, await raw.parting() if raw.gone.is_set() else ""

    before = int(site.audit()[-1]["seq"])
    done, took, said = talk(site, entry, dialogue)
    assert BURST <= done <= BURST + 3 + took / SECONDS
    assert said == "new keys again and again"

    def told() -> bool:
        ends = [row for row in site.audit() if row["event"] == "session-end" and int(row["seq"]) > before]
        return any(said in row["why"] for row in ends)

    wait_until("the end in the trail", told)


@pytest.mark.timeout(300)
def test_rekey_limit_of_one_mebibyte(site: Site, tmp_path: Path) -> None:
    """Both directions as fast as they go: hundreds of exchanges, each of them earned."""
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(BIG)
    done = subprocess.run([*site.command("ssh", "-o", "LogLevel=DEBUG1", "-o", "RekeyLimit=1M"), DIRECT, "cat"],
                          stdin=path.open("rb"), capture_output=True, timeout=280, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout) == BIG
    assert done.stderr.count(b"SSH2_MSG_KEXINIT sent") > BIG >> 21
