"""An operator's side of policyd's admin socket: say who asks, ask commands, read their answers."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bastion.errors import Denied, ExitCode, PeerError
from policy.messages import (
    MAX_MESSAGE,
    Admin,
    Command,
    Done,
    EndSession,
    Refused,
    Revealed,
    Rows,
    decode_reply,
    encode,
)

ADMIN_SOCKET: Final = "policyd-admin.sock"

PATIENCE: Final = 60.0
"""Seconds to wait for an answer: a scan of a target that does not answer takes policyd 30."""

_ADMIN_ID: Final = 1  # of the greeting; commands count on from there


def ask(
    run: Path, command: Command, said: str, *, start: str = "bastion run", patience: float = PATIENCE
) -> Rows | Done | Revealed:
    """The answer to one command; see `talk`."""
    _message(_ADMIN_ID + 1, command)  # too large a one is refused whether policyd runs or not
    with talk(run, said, start=start, patience=patience) as operator:
        return operator.ask(command)


@contextmanager
def talk(run: Path, said: str, *, start: str = "bastion run", patience: float = PATIENCE) -> Iterator["Operator"]:
    """A conversation of several commands.

    `run` is the folder of the sockets, `said` the operator's words for the audit trail (never a secret), `start`
    the command that starts policyd. Denied when policyd says no, PeerError when it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(patience)
        _connect(sock, run / ADMIN_SOCKET, start)
        yield Operator(sock, said, patience)


@dataclass(slots=True)
class Operator:
    """Says who asks before the first command."""

    _sock: socket.socket
    _said: str
    _patience: float
    _newest: int = _ADMIN_ID

    def ask(self, command: Command) -> Rows | Done | Revealed:
        """The answer to one command."""
        ident = self._newest + 1
        message = _message(ident, command)
        try:
            if self._newest == _ADMIN_ID:
                self._sock.send(encode(_ADMIN_ID, Admin(command=self._said[:1000])))
            self._newest = ident
            self._sock.send(message)
            return _answer(self._sock, ident)
        except TimeoutError:
            raise PeerError(
                f"policyd did not answer within {self._patience:g} seconds",
                "see its log: journalctl -u bastion-policyd",
            ) from None
        except OSError as error:
            raise PeerError(
                f"policyd closed the connection: {(error.strerror or '').lower()}",
                "see its log: journalctl -u bastion-policyd",
            ) from None

    def until_over(self, session: str) -> str:
        """Wait, for as long as it takes, until a session that is watched here is over; why it is."""
        self._sock.settimeout(None)
        while data := self._sock.recv(MAX_MESSAGE + 1):
            _, push = decode_reply(data)
            if isinstance(push, EndSession) and push.session == session:
                return push.reason
        raise PeerError("policyd closed the connection", "see its log: journalctl -u bastion-policyd")


def is_answering(path: Path) -> bool:
    """True if something accepts connections at this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True


def _connect(sock: socket.socket, path: Path, start: str) -> None:
    try:
        sock.connect(str(path))
    except PermissionError:
        raise PeerError(f"you may not talk to policyd at `{path}`", "run the command with sudo") from None
    except OSError as error:
        why = "" if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR) else f": {error.strerror or error}"
        raise PeerError(f"policyd is not running at `{path}`{why}", f"start it with: {start}") from None


def _message(ident: int, command: Command) -> bytes:
    message = encode(ident, command)
    if len(message) > MAX_MESSAGE:
        raise Denied(f"the request is too large: {len(message)} bytes, at most {MAX_MESSAGE}", code=ExitCode.USAGE)
    return message


def _answer(sock: socket.socket, wanted: int) -> Rows | Done | Revealed:
    while True:
        data = sock.recv(MAX_MESSAGE + 1)
        if not data:
            raise PeerError(
                "policyd closed the connection without an answer", "see its log: journalctl -u bastion-policyd"
            )
        try:
            ident, reply = decode_reply(data)
        except msgspec.MsgspecError:
            raise PeerError(
                "policyd answered something else than a reply", "check that both have the same version"
            ) from None
        match reply:
            case Refused():
                raise Denied(reply.cause, reply.hint, ref=reply.ref, code=_exit_code(reply.code))
            case Rows() | Done() | Revealed() if ident == wanted:
                return reply
            case _ if ident != wanted:
                continue  # the greeting's own answer, or a push
            case _:
                raise PeerError(f"policyd answered with {type(reply).__name__}, not with a result")


def _exit_code(code: int) -> ExitCode:
    try:
        return ExitCode(code)
    except ValueError:
        return ExitCode.DENIED
