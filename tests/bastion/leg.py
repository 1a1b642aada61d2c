"""A leg that keeps what is sent on it: the port of the channel cores, as `bastion.ssh.transport` fills it."""

from typing import Any

from bastion.ssh.channels import DATA, End


class PaperLeg:
    """Messages sent, as (kind, channel, payload behind the channel number)."""

    def __init__(self) -> None:
        self.packets = self
        self.ends: dict[int, End] = {}
        self.numbers = 0
        self.sent: list[tuple[int, int, bytes]] = []

    def add_channel(self, end: Any) -> int:
        number = self.numbers
        self.numbers += 1
        self.ends[number] = end
        return number

    def remove_channel(self, number: int) -> None:
        del self.ends[number]

    def send(self, kind: int, payload: bytes) -> None:
        self.sent.append((kind, int.from_bytes(payload[:4]), payload[4:]))

    def send_data(self, channel: int, data: bytes | memoryview) -> None:
        self.sent.append((DATA, channel, len(data).to_bytes(4) + bytes(data)))

    def take(self) -> list[tuple[int, bytes]]:
        """What was sent since, without the channel number."""
        sent, self.sent = self.sent, []
        return [(kind, payload) for kind, _, payload in sent]

    def data(self) -> bytes:
        """The channel data among what was sent, joined."""
        return b"".join(payload[4:] for kind, _, payload in self.sent if kind == DATA)


class PaperOwner:
    """Notes what its ends are told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def message(self, end: End, kind: int, payload: bytes) -> None:
        self.heard.append(("message", (kind, payload)))

    def opened(self, end: End, window: int, rest: bytes) -> None:
        self.heard.append(("opened", (window, rest)))

    def open_failed(self, end: End, code: int, reason: str) -> None:
        self.heard.append(("failed", (code, reason)))

    def lost(self, end: End) -> None:
        self.heard.append(("lost", None))

    def closed(self, end: End) -> None:
        assert end.number < 0
