"""Gateway workers that offer to carry out tasks, and the tasks they are at: policyd itself has no network."""

import itertools
from dataclasses import dataclass, field
from typing import Final

import trio

from policy import sshkeys
from policy.conversation import Conversation
from policy.messages import Scan, Scanned
from policy.naming import MAX_PINS, CommandRefused
from policy.sshwire import BadKey

SCAN_SECONDS: Final = 10.0
"""For name lookup, connect and one key exchange per key type; a slower target is better pinned from a file."""

_FILE_HINT: Final = "pin a key file instead: `--pin FILE`, from /etc/ssh/ssh_host_*_key.pub on the target"


@dataclass(slots=True, kw_only=True)
class _Task:
    worker: Conversation
    done: trio.Event = field(default_factory=trio.Event)
    answer: Scanned | None = None


class Workers:
    """Those connected now, and what each was asked."""

    def __init__(self) -> None:
        self._connected: list[Conversation] = []
        self._tasks: dict[int, _Task] = {}
        self._numbers = itertools.count(1)

    def join(self, worker: Conversation) -> None:
        self._connected.append(worker)

    def leave(self, worker: Conversation) -> None:
        """Its tasks end without an answer."""
        if worker in self._connected:
            self._connected.remove(worker)
        for task in self._tasks.values():
            if task.worker is worker:
                task.done.set()

    def scanned(self, worker: Conversation, answer: Scanned) -> bool:
        """Take an answer; false if this worker was not asked this, or no longer."""
        task = self._tasks.get(answer.task)
        if task is None or task.worker is not worker or task.answer is not None:
            return False
        task.answer = answer
        task.done.set()
        return True

    async def scan(self, address: str, port: int) -> dict[str, bytes]:
        """The host keys that an address shows now, by fingerprint. CommandRefused if none can be had."""
        if not self._connected:
            raise CommandRefused("no gateway is connected that could scan", _FILE_HINT, code=69)
        number, worker = next(self._numbers), self._connected[0]
        self._connected.append(self._connected.pop(0))  # the next scan goes to the next worker
        task = self._tasks[number] = _Task(worker=worker)
        try:
            with trio.move_on_after(SCAN_SECONDS):
                await worker.push(Scan(task=number, address=address, port=port))
                await task.done.wait()
        finally:
            del self._tasks[number]
        place = f"{address}:{port}"
        if task.answer is None:
            raise CommandRefused(f"scan of `{place}` had no answer within {SCAN_SECONDS:g} s", _FILE_HINT, code=69)
        if task.answer.error or not task.answer.keys:
            why = "".join(char for char in task.answer.error[:200] if char.isprintable()) or "it shows no host key"
            raise CommandRefused(f"scan of `{place}`: {why}", _FILE_HINT, code=69)
        return _checked(place, task.answer.keys)


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
