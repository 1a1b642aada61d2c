"""What a client says on a channel before there is anybody to say it to. Pure."""

from collections import deque
from typing import Final

from bastion.requests import wants_reply
from bastion.ssh.channels import REQUEST

MAX_MESSAGES: Final = 256
"""Messages kept: MAX_ENV variables, and what else a client says before the start."""
MAX_BYTES: Final = 256 * 1024
"""Bytes kept. No window was granted, so no honest client sends data."""


class Inbox:
    """Messages in the order in which they came."""

    def __init__(self) -> None:
        self._messages: deque[tuple[int, bytes]] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    def put(self, kind: int, payload: bytes) -> bool:
        """False if that is too much: a flood on a channel that is not open yet."""
        self._messages.append((kind, payload))
        self._bytes += len(payload)
        return len(self._messages) <= MAX_MESSAGES and self._bytes <= MAX_BYTES

    def take(self) -> tuple[int, bytes]:
        """The oldest one."""
        kind, payload = self._messages.popleft()
        self._bytes -= len(payload)
        return kind, payload

    @property
    def unanswered(self) -> int:
        """Requests that want an answer."""
        return sum(kind == REQUEST and wants_reply(payload) for kind, payload in self._messages)
