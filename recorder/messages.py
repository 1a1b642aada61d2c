"""Messages between a gateway and recorderd: AF_UNIX SOCK_SEQPACKET, one message = one msgpack array.

One connection is one recording. The gateway sends `Open`, then any number of `Append`, then `End`;
recorderd answers `Opened`, one `Ack` for the newest `Append` it has written, and `Ended`. `Status` may be
asked instead of `Open`. A connection that is lost before `End` ends the recording as *interrupted*.
Whatever is not in the table of `recorder.daemon` closes the socket.

PROMISE: `Ack(seq)` means that every `Append` up to `seq` has been written (write(2)) to the tail file.
"""

from typing import Final

import msgspec

MAX_MESSAGE: Final = 64 * 1024
"""Bytes in one message. A larger one is refused by its sender and closes the socket of its receiver."""

MAX_APPEND: Final = 60 * 1024
"""Event bytes a sender puts into one Append; leaves room for the columns beside the data."""


class Open(msgspec.Struct, frozen=True, array_like=True, tag="open"):
    """Start a recording. `public` is readable by anyone with the file, `private` by key holders."""

    session: str
    t0_us: int
    public: dict[str, str]  # protocol, policy, retention
    private: dict[str, str]  # person, account, target, address, source, grant, rule, client, node
    sync: bool = False  # demand the disk sync before each Ack


class Append(msgspec.Struct, frozen=True, array_like=True, tag="add"):
    """Events in order; each is (kind, channel, milliseconds, data)."""

    seq: int
    events: list[tuple[int, int, int, bytes]]


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """End the recording: `reason` is one of `recorder.model.END_REASONS`, `by` who ended it, `text` what was said."""

    reason: str
    by: str = ""
    text: str = ""


class Status(msgspec.Struct, frozen=True, array_like=True, tag="status"):
    """Ask how the recorder is doing."""


class Opened(msgspec.Struct, frozen=True, array_like=True, tag="opened"):
    file: str


class Ack(msgspec.Struct, frozen=True, array_like=True, tag="ack"):
    seq: int


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended"):
    """The recording is complete and on disk."""


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="no"):
    """The request failed; recorderd closes the connection after it."""

    cause: str


class Health(msgspec.Struct, frozen=True, array_like=True, tag="health"):
    live: int
    free_bytes: int
    accepting: bool
    node_key: bytes  # raw Ed25519 public key that signs headers


Request = Open | Append | End | Status
Reply = Opened | Ack | Ended | Refused | Health

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)

encode = _encoder.encode
"""message -> bytes."""


def decode_request(data: bytes | memoryview) -> Request:
    """Bytes from a gateway; msgspec.MsgspecError if they are no request."""
    try:
        return _requests.decode(data)
    except (UnicodeDecodeError, RecursionError) as exc:  # msgspec lets these through: not UTF-8, nested too deep
        raise msgspec.DecodeError(str(exc)) from None


def decode_reply(data: bytes | memoryview) -> Reply:
    """Bytes from recorderd; msgspec.MsgspecError if they are no reply."""
    try:
        return _replies.decode(data)
    except (UnicodeDecodeError, RecursionError) as exc:  # msgspec lets these through: not UTF-8, nested too deep
        raise msgspec.DecodeError(str(exc)) from None
