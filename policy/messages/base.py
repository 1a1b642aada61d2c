"""What all messages have in common."""

from typing import Final

import msgspec

MAX_MESSAGE: Final = 64 * 1024


class Message(msgspec.Struct, kw_only=True, tag=True, forbid_unknown_fields=True):
    """A msgpack map tagged with its class name. Its repr shows no field: some carry secrets."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"
