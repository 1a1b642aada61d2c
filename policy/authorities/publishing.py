"""The list of what is revoked, as it is now: for who asks for it, and as a file that targets can fetch.

The file is for whoever may do nothing else here: a web server, or an account that can but read it. Nothing in it is
secret; its key ids name persons and sessions, as the logs of targets do. It is replaced as a whole, and the old one
stays where the new one cannot be written: then an event says so, for targets go on believing what is over.
"""

import os
import time
from pathlib import Path
from typing import Final

import structlog
import trio

from policy.authorities.revocation import LONGEST_DAYS, MAX_LISTED, Revoked, revocation_list
from policy.authority import Authority
from policy.keys.krl import write_krl
from policy.store import Tables
from policy.store.authority_tables import REGISTERED
from policy.trail.audit import Event
from policy.vault.secret import VaultError

PUBLIC: Final = "public"
"""Folder below `[bastion] run` that everybody on this machine may read."""
KRL: Final = "revoked.krl"
NOT_WRITTEN: Final = "krl-not-written"
SAID: Final = 5
"""Altered rows that are named: one is reason enough."""


def oldest(now: int) -> int:
    """Nanoseconds: before it, certificates of ours are over by themselves."""
    return now - LONGEST_DAYS * 86_400 * 1_000_000_000


async def current(desk: Authority) -> tuple[int, int, bytes]:
    """Version, number of entries, and the list of now. VaultError if somebody else wrote to the database."""
    now = time.time()

    def query(t: Tables) -> tuple[tuple[int, int], list[Revoked], list[str]]:
        rows = t.authorities.revoked(oldest(int(now * 1e9)), MAX_LISTED)
        revoked = [Revoked(kind=k, what=w, at=at, by=by, reason=why) for k, w, at, by, why in rows]
        return t.authorities.krl(), revoked, desk.ledger.register.differences(REGISTERED, t.authorities.entries())

    found = await desk.ledger.read(query)
    if found[2]:
        found = await desk.ledger.write(query)  # the register is told before the commit: ask in the writer's turn
    (version, changed), revoked, altered = found
    if altered:
        # Attack: a row is taken away, or an old one put back, and what was revoked is good again.
        more = f", and {len(altered) - SAID} more" if len(altered) > SAID else ""
        raise await desk.secrets.alarm("krl", f"{', '.join(altered[:SAID])}{more}")
    listed = revocation_list(desk.authorities, revoked, version=version, changed=changed, now=now)
    return version, len(revoked), write_krl(listed)


async def publish(desk: Authority) -> str:
    """Write the file anew, holding `desk.deciding`; what is wrong with that, or "". LedgerError."""
    path = desk.config.run / PUBLIC / KRL
    try:
        _, _, data = await current(desk)
        await trio.to_thread.run_sync(_replace, path, data)
    except (OSError, VaultError) as error:
        why = f"`{path}`: {error.strerror}" if isinstance(error, OSError) else str(error)
        structlog.get_logger().error(NOT_WRITTEN, why=why)
        await desk.ledger.note(Event(event=NOT_WRITTEN, who="policyd", why=why))
        return why
    return ""


def _replace(path: Path, data: bytes) -> None:
    """At once and whole: sshd that finds half a list lets nobody in."""
    path.parent.mkdir(mode=0o755, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # of one that died
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        os.fchmod(handle, 0o644)  # whatever the umask
    os.replace(part, path)
