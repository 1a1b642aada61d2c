"""Views of recordings, from an auditor's tool. Who views is never in them: it is who the kernel says is connected."""

from policy.messages.base import Message
from policy.model import ViewVerb


class Viewing(Message):
    """Something of these recordings is about to be shown. Answered with Noted, once it is in the trail, or Refused."""

    verb: ViewVerb
    recordings: list[str]  # session ids, at most `policy.trail.views.MAX_RECORDINGS`; a search of more says this again
    range: str = ""  # what of them: `channel 2`, `from 1:30`; empty: everything
    format: str = ""  # of an export
    reason: str = ""


class Viewed(Message):
    """What came of it, when it is over. Without it, the end of the connection ends the view."""

    event: int  # that Noted named
    until_ms: int | None = None  # the furthest point that was shown
    length: int | None = None  # bytes that were written
    sha256: bytes = b""  # of what was written


class Noted(Message):
    """It is in the audit trail, as row `event`, under this name."""

    event: int
    who: str
