"""Gateway workers that offer to carry out tasks, and the tasks they are at: policyd itself has no network."""

from typing import Final

import trio

from policy.conversation import Conversation
from policy.keys import sshkeys
from policy.keys.sshwire import BadKey
from policy.messages import Scan, Scanned
from policy.naming import MAX_PINS, CommandRefused
from policy.outside.errands import Errands

SCAN_SECONDS: Final = 10.0
"""For name lookup, connect and one key exchange per key type; a slower target is better pinned from a file."""

_FILE_HINT: Final = "pin a key file instead: `--pin FILE`, from /etc/ssh/ssh_host_*_key.pub on the target"


class Workers(Errands[Scanned]):
    """Those connected now, and what each was asked."""

    def scanned(self, worker: Conversation, answer: Scanned) -> bool:
        """Take an answer; false if this worker was not asked this, or no longer."""
        return self.answered(worker, answer.task, answer)

    async def scan(self, address: str, port: int) -> dict[str, bytes]:
        """The host keys that an address shows now, by fingerprint. CommandRefused if none can be had."""
        if not self.peers:
            raise CommandRefused("no gateway is connected that could scan", _FILE_HINT, code=69)
        worker = self.peers[0]
        self.peers.append(self.peers.pop(0))  # the next scan goes to the next worker
        answer: Scanned | None = None
        with trio.move_on_after(SCAN_SECONDS):
            answer = await self.run(worker, lambda number: Scan(task=number, address=address, port=port))
        place = f"{address}:{port}"
        if answer is None:
            raise CommandRefused(f"scan of `{place}` had no answer within {SCAN_SECONDS:g} s", _FILE_HINT, code=69)
        if answer.error or not answer.keys:
            why = "".join(char for char in answer.error[:200] if char.isprintable()) or "it shows no host key"
            raise CommandRefused(f"scan of `{place}`: {why}", _FILE_HINT, code=69)
        return _checked(place, answer.keys)


def _checked(place: str, blobs: list[bytes]) -> dict[str, bytes]:
    """What a stranger at the address said its keys are."""
    found: dict[str, bytes] = {}
    for blob in blobs[:MAX_PINS]:
        try:
            key = sshkeys.parse_public_key(blob, min_rsa_bits=sshkeys.MIN_TARGET_RSA_BITS)
        except BadKey as error:
            raise CommandRefused(f"scan of `{place}`: {error}", _FILE_HINT, code=69) from None
        found[key.fingerprint] = key.blob
    return found
