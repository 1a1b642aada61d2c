"""Gateway workers that offer to carry out tasks, and the tasks they are at: policyd itself has no network."""

from collections import Counter
from typing import Final

import msgspec
import trio

from policy.conversation import Conversation
from policy.keys import sshkeys
from policy.keys.sshwire import BadKey
from policy.messages import ChangeSecret, Scan, Scanned, VerifyLogin, Worked
from policy.messages.base import Message
from policy.messages.rotation import DONE, REFUSED, UNKNOWN, UNREACHABLE
from policy.naming import MAX_PINS, CommandRefused
from policy.outside.errands import Errands

SCAN_SECONDS: Final = 10.0
"""For name lookup, connect and one key exchange per key type; a slower target is better pinned from a file."""

GRACE_SECONDS: Final = 5.0
"""Beyond the seconds of an order: for its way there and back, and for a worker that ends the session first."""
WORK_AT_ONCE: Final = 16
"""Orders of one worker: each is a session with a recording, beside those of the people whom it serves as well."""
MAX_DETAIL: Final = 300

_OUTCOMES: Final = frozenset((DONE, REFUSED, UNREACHABLE, UNKNOWN))
_FILE_HINT: Final = "pin a key file instead: `--pin FILE`, from /etc/ssh/ssh_host_*_key.pub on the target"


class Workers(Errands[Scanned | Worked]):
    """Those connected now, and what each was asked."""

    def __init__(self) -> None:
        super().__init__()
        self._at_work: Counter[Conversation] = Counter()

    def scanned(self, worker: Conversation, answer: Scanned) -> bool:
        """Take an answer; false if this worker was not asked this, or no longer."""
        return self.answered(worker, answer.task, answer)

    def worked(self, worker: Conversation, answer: Worked) -> bool:
        """As `scanned`."""
        return self.answered(worker, answer.task, answer)

    # --- work on accounts ---------------------------------------------------------------------------

    def pick(self) -> Conversation | None:
        """The worker with the least to do, for a Grant of its conversation; None: all are busy, or there is none."""
        free = [worker for worker in self.peers if self._at_work[worker] < WORK_AT_ONCE]
        return min(free, key=lambda worker: self._at_work[worker], default=None)

    async def change(self, worker: Conversation, order: ChangeSecret) -> Worked:
        """Have it done; `order.task` is ours to set, its Grant is of a session of `worker`.

        No answer in time, and an answer that means nothing, is UNKNOWN: the target may have been told.
        """
        return await self._work(worker, order)

    async def verify(self, worker: Conversation, order: VerifyLogin) -> Worked:
        """As `change`: DONE if the login opens, REFUSED if it does not; anything else proves nothing."""
        return await self._work(worker, order)

    async def _work(self, worker: Conversation, order: ChangeSecret | VerifyLogin) -> Worked:
        if worker not in self.peers:
            return Worked(task=0, outcome=UNREACHABLE, detail="the gateway worker is gone")
        self._at_work[worker] += 1
        answer: Scanned | Worked | None = None
        detail = f"no answer of the gateway within {order.seconds + GRACE_SECONDS:g} s"
        try:
            with trio.move_on_after(order.seconds + GRACE_SECONDS):
                answer = await self.run(worker, lambda number: msgspec.structs.replace(order, task=number))
                detail = "the gateway worker left in the middle of it"
        finally:
            self._at_work[worker] -= 1
            if not self._at_work[worker]:
                del self._at_work[worker]
        return plain(answer, detail)

    # --- host keys ----------------------------------------------------------------------------------

    async def scan(self, address: str, port: int) -> dict[str, bytes]:
        """The host keys that an address shows now, by fingerprint. CommandRefused if none can be had."""
        if not self.peers:
            raise CommandRefused("no gateway is connected that could scan", _FILE_HINT, code=69)
        worker = self.peers[0]
        self.peers.append(self.peers.pop(0))  # the next scan goes to the next worker
        answer: Scanned | Worked | None = None
        with trio.move_on_after(SCAN_SECONDS):
            answer = await self.run(worker, lambda number: Scan(task=number, address=address, port=port))
        place = f"{address}:{port}"
        if answer is None:
            raise CommandRefused(f"scan of `{place}` had no answer within {SCAN_SECONDS:g} s", _FILE_HINT, code=69)
        if not isinstance(answer, Scanned):
            raise CommandRefused(f"scan of `{place}`: the gateway answered something else", _FILE_HINT, code=69)
        if answer.error or not answer.keys:
            why = "".join(char for char in answer.error[:200] if char.isprintable()) or "it shows no host key"
            raise CommandRefused(f"scan of `{place}`: {why}", _FILE_HINT, code=69)
        return _checked(place, answer.keys)


def plain(answer: Message | None, otherwise: str) -> Worked:
    """An answer as it may be believed: UNKNOWN for none (`otherwise` says why) and for what means nothing."""
    if answer is None:
        return Worked(task=0, outcome=UNKNOWN, detail=otherwise)
    if not isinstance(answer, Worked) or answer.outcome not in _OUTCOMES:
        return Worked(task=0, outcome=UNKNOWN, detail="it gave an answer that means nothing")
    shown = "".join(char for char in answer.detail[:MAX_DETAIL] if char.isprintable())
    return Worked(task=answer.task, outcome=answer.outcome, detail=shown)


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
