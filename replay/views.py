"""Tell policyd what is about to be looked at, and show nothing unless it is in the audit trail.

The one module of replay that talks to anybody, over policyd's socket for auditors' tools (policy/PROTOCOL.md, "A view
of recordings"). Who looks is what the kernel tells policyd about this process; nothing here says a name.

It keeps honest people's looks on record. Whoever may read the files can read them with another program; keep those
few, or encrypt recordings to auditors.
"""

import errno
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from policy.messages import MAX_MESSAGE, Noted, Refused, Viewed, Viewing, decode_reply, encode
from policy.model import ViewVerb
from replay.errors import ExitCode, ReplayError
from replay.place import Home

Verb = ViewVerb

AUDIT_SOCKET: Final = "policyd-audit.sock"

PATIENCE: Final = 15.0
"""Seconds for an answer. policyd may ask a directory server for a name, for 5, and wait for its disk."""

AT_ONCE: Final = 500
"""Recordings in one message: what policyd takes."""

MAX_WORDS: Final = 256
"""Characters of a reason or a range: what policyd takes."""

LOG_HINT: Final = "see its log: journalctl -u bastion-policyd"


class NotNoted(ReplayError):
    """The audit trail does not have it, so it is not shown. The exit code is policyd's."""

    def __init__(self, cause: str, hint: str = "", code: int = ExitCode.UNREACHABLE) -> None:
        super().__init__(cause, hint)
        self.code = ExitCode(code) if code in list(ExitCode) else ExitCode.DENIED


@dataclass(slots=True)
class View:
    """A view that is in the trail, as row `event`; 0 for a copy of which nobody is told."""

    event: int = 0
    _sock: socket.socket | None = None

    def over(self, *, until_ms: int | None = None, length: int | None = None, sha256: bytes = b"") -> None:
        """What came of it: the furthest point that was shown, or what was written. NotNoted."""
        if self._sock is not None:
            said = Viewed(event=self.event, until_ms=until_ms, length=length, sha256=sha256)
            _ask(self._sock, said, "how this view ended")


@contextmanager
def told(
    home: Home | None, verb: Verb, sessions: Sequence[str], *, words: Sequence[str] = (), form: str = "",
    reason: str = "",
) -> Iterator[View]:  # fmt: skip
    """The view, from the moment at which it may begin. NotNoted if it may not.

    `words` say what of the recordings is shown, `form` the format of an export. Of recordings that belong to no
    bastion on this machine (`home` is None) nobody can be told; that is said on standard error.
    """
    if home is None:
        print("replay: this copy belongs to no bastion here: nobody is told that it is read", file=sys.stderr)
        yield View()
        return
    if len(reason) > MAX_WORDS:
        raise NotNoted(f"a reason has at most {MAX_WORDS} characters", code=ExitCode.USAGE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(PATIENCE)
        _connect(sock, home)
        event = 0
        for at in range(0, len(sessions), AT_ONCE):
            some = list(sessions[at : at + AT_ONCE])
            shown = ", ".join(words)[:MAX_WORDS]
            said = Viewing(verb=verb, recordings=some, range=shown, format=form, reason=reason)
            event = _ask(sock, said, "this view").event
        yield View(event, sock)


def _connect(sock: socket.socket, home: Home) -> None:
    path = home.run / AUDIT_SOCKET
    try:
        sock.connect(str(path))
    except PermissionError:
        raise NotNoted(
            f"views are noted by policyd, and you may not talk to it at `{path}`",
            "ask for membership in the group bastion-audit",
        ) from None
    except OSError as error:
        why = "" if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR) else f": {error.strerror or error}"
        start = (
            "systemctl start bastion.target" if home.config.is_relative_to("/etc") else f"bastion run -c {home.config}"
        )
        raise NotNoted(
            f"views are noted by policyd, and it is not running at `{path}`{why}", f"start it with: {start}"
        ) from None


def _ask(sock: socket.socket, request: Viewing | Viewed, what: str) -> Noted:
    """One question, one answer: nobody pushes anything on this socket."""
    try:
        sock.send(encode(1, request))
        data = sock.recv(MAX_MESSAGE + 1)
    except TimeoutError:
        raise NotNoted(f"policyd did not note {what} within {PATIENCE:g} seconds", LOG_HINT) from None
    except OSError as error:
        raise NotNoted(
            f"policyd went away before it noted {what}: {(error.strerror or '').lower()}", LOG_HINT
        ) from None
    if not data:
        raise NotNoted(f"policyd closed the connection before it noted {what}", LOG_HINT)
    try:
        _, reply = decode_reply(data)
    except msgspec.MsgspecError:
        reply = None
    match reply:
        case Noted():
            return reply
        case Refused():
            raise NotNoted(reply.cause, f"{reply.hint}  [{reply.ref}]".strip(), reply.code)
        case _:
            raise NotNoted("policyd answered something else than a reply", "check that both have the same version")
