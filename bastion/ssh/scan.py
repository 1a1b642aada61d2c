"""What host keys an address shows, for policyd, which has no network: one connection for each kind of key.

Nothing is sent there but a key exchange, and what comes back is a stranger's word: policyd pins it only when an
administrator has said so.
"""

import asyncio
import os
from typing import Final

import asyncssh
import structlog

from bastion.ssh.links import PolicyLink
from bastion.ssh.upstream import KEX
from bastion.text import neutral
from policy.messages import Scan, Scanned

KINDS: Final = [
    ["ssh-ed25519"], ["ecdsa-sha2-nistp256"], ["ecdsa-sha2-nistp384"], ["ecdsa-sha2-nistp521"],
    ["rsa-sha2-512", "rsa-sha2-256"],
]  # fmt: skip
"""One connection each: a server shows one key in a handshake, and the kinds that it does not have end early."""
SECONDS: Final = 8.0
"""For all of it; policyd waits 10."""
MAX_ERROR: Final = 200


async def scan(address: str, port: int) -> tuple[list[bytes], str]:
    """Key blobs, best kind first; or none, and why."""
    answers = await asyncio.gather(*(_one(address, port, kinds) for kinds in KINDS))
    keys: list[bytes] = []
    for blob, _ in answers:
        if blob and blob not in keys:
            keys.append(blob)
    if keys:
        return keys, ""
    reasons = [why for _, why in answers if why]
    return [], neutral(reasons[0])[:MAX_ERROR] if reasons else "it shows no host key"


async def _one(address: str, port: int, kinds: list[str]) -> tuple[bytes, str]:
    try:
        async with asyncio.timeout(SECONDS):
            key = await asyncssh.get_server_host_key(
                address, port, config=None, client_version="Bastion", kex_algs=KEX, server_host_key_algs=kinds
            )
        return (key.public_data, "") if key is not None else (b"", "")
    except TimeoutError:
        return b"", f"no answer within {SECONDS:g} seconds"
    except OSError as error:
        # asyncio puts the address into the text, which policyd adds by itself.
        return b"", os.strerror(error.errno).lower() if error.errno else str(error).lower()
    except asyncssh.KeyExchangeFailed:
        return b"", ""  # it has no key of this kind
    except asyncssh.Error as error:
        return b"", error.reason.lower()


async def answer(link: PolicyLink, task: Scan) -> None:
    """Carry out one task of policyd's."""
    keys, error = await scan(task.address, task.port)
    structlog.get_logger().info("scan", address=task.address, port=task.port, keys=len(keys), why=error)
    link.tell(Scanned(task=task.task, keys=keys, error=error))
