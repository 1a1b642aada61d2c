"""The requests of one session channel (RFC 4254 section 6): which pass, which are asked about, who answers. Pure.

    gathering --pty-req, env--> gathering
    gathering --x11-req, auth-agent-req--> asking --decided--> gathering
    gathering --shell, exec, subsystem--> asking --allowed--> started
                                          asking --denied--> refused
    started   --window-change, signal, break, ...--> started

Everything that comes while `asking` waits with the caller. Answers go to the person in the order of the requests,
whoever gives them: the target its own, the bastion those it decides (RFC 4254 section 5.4).

INVARIANT: a request that passes is as long as it says. What stood behind it would reach the target unrecorded; OpenSSH
takes such a request for the end of the connection, and so is it here.
"""

import re
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from struct import error as StructError
from typing import Final

from bastion.answers import Answers, Malformed
from bastion.transfer import MAX_ENV, MAX_ENV_BYTES, env_allowed, kind_of
from policy.model import ChannelKind
from recorder.model import Start

MAX_REQUEST: Final = 64
"""Characters of a request's name; the longest in use has 31."""
OURS: Final = b"BASTION_"
"""Variables of this prefix are for us and go no further."""

PASSING: Final = {b"break": 4, b"eow@openssh.com": 0, b"xon-xoff": 1, b"keepalive@openssh.com": 0}
"""What a person may send after the start, besides sizes and signals, and bytes that it carries; all else is refused,
not relayed: it would be an unrecorded channel."""
FROM_TARGET: Final = {b"exit-status": 4, b"xon-xoff": 1, b"eow@openssh.com": 0, b"keepalive@openssh.com": 0}
"""What a target may send besides `exit-signal`."""
MAX_MODES: Final = 1024
"""Bytes of a terminal's modes; with every one that RFC 4254 section 8 knows they are 300."""
MAX_TERM: Final = 64
MAX_COOKIE: Final = 256
"""Bytes of the name and of the value of what proves a client to an X server."""
MAX_MESSAGE: Final = 4096
"""Bytes of the message with which a target says that a signal ended a command."""

_U32: Final = Struct(">I")
_SIZE: Final = Struct(">IIII")  # columns, rows, and both in pixels
_SIGNAL: Final = re.compile(rb"[A-Z][A-Z0-9]{1,7}(@openssh\.com)?")  # RFC 4254 section 6.10, and INFO of OpenSSH


class State(Enum):
    GATHERING = "gathering"
    ASKING = "asking"
    STARTED = "started"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Forward:
    """To the other side, as it came; `start` is to be recorded first."""

    name: bytes
    want_reply: bool
    rest: bytes
    start: Start | None = None

    @property
    def message(self) -> bytes:
        """As it stands behind the channel number."""
        return strings(self.name) + bytes((self.want_reply,)) + self.rest


@dataclass(frozen=True, slots=True)
class Answer:
    """To the person."""

    ok: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """policyd decides; hold everything until `decided`."""

    kind: ChannelKind
    detail: bytes = b""


@dataclass(frozen=True, slots=True)
class Resize:
    """The terminal has a new size: to be recorded."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The start was denied: tell the person and close."""


Effect = Forward | Answer | Ask | Resize | Refuse


class Requests:
    """One channel's."""

    def __init__(self) -> None:
        self.state = State.GATHERING
        self.env: dict[bytes, bytes] = {}
        self.ours: dict[bytes, bytes] = {}
        self.term = b""
        self.columns = self.rows = 0
        self._env_bytes = 0
        self._asked: tuple[bytes, bool, bytes, ChannelKind] | None = None
        self._start: tuple[bytes, bytes, ChannelKind] | None = None
        self._answers = Answers()

    def read(self, payload: bytes) -> list[Effect]:
        """`request` of what stands behind the channel number."""
        try:
            name, at = string(payload, 0)
            want_reply = payload[at] != 0
        except (IndexError, ValueError):
            raise Malformed("malformed channel request") from None
        return self.request(name, want_reply, payload[at + 1 :])

    def request(self, name: bytes, want_reply: bool, rest: bytes) -> list[Effect]:
        """The person asks for something. Malformed if it cannot be read; never called while `asking`."""
        assert self.state is not State.ASKING, "the caller holds requests while one is asked about"
        if len(name) > MAX_REQUEST or self.state is State.REFUSED:
            return self._answer(want_reply, False)
        try:
            if self.state is State.STARTED:
                return self._started(name, want_reply, rest)
            return self._gathering(name, want_reply, rest)
        except (StructError, IndexError, ValueError):
            raise Malformed(f"malformed channel request `{name.decode('ascii', 'replace')}`") from None

    def decided(self, allowed: bool) -> list[Effect]:
        """policyd's answer to the last Ask."""
        assert self._asked is not None, "nothing was asked"
        name, want_reply, rest, kind = self._asked
        self._asked = None
        if name in _ASIDE:
            self.state = State.GATHERING
            return self._forward(name, want_reply, rest) if allowed else self._answer(want_reply, False)
        if not allowed:
            self._asked = name, want_reply, rest, kind
            return [*self.give_up(), Refuse()]
        self.state = State.STARTED
        self._start = name, rest, kind
        return self._forward(name, want_reply, rest, self._note(name, rest, kind))

    def give_up(self) -> list[Effect]:
        """The channel ends before all is answered. The client shows what we write to standard error only after its
        start has succeeded, and it has no other way to know: what the target has not answered is answered for it.
        """
        asked, self._asked = self._asked, None
        self.state = State.REFUSED
        open_ones = self._answers.give_up()
        return [Answer(ok) for ok in [*open_ones, *([True] if asked is not None and asked[1] else [])]]

    def again(self) -> list[Effect]:
        """The start once more, for a target that was found after the person was told that it runs."""
        assert self._start is not None, "nothing was started"
        name, rest, kind = self._start
        return self._forward(name, False, rest, self._note(name, rest, kind))

    def answered(self, ok: bool) -> list[Effect]:
        """The target answered a forwarded request; Malformed if it was not asked."""
        if self.state is State.REFUSED:
            return []  # the person has been answered
        return [Answer(ready) for ready in self._answers.answered(ok)]

    @property
    def is_running(self) -> bool:
        """The person knows that their shell or command has begun."""
        return self.state is State.STARTED and self._answers.is_empty

    # ------------------------------------------------------------------------------------------------

    def _note(self, name: bytes, rest: bytes, kind: ChannelKind) -> Start:
        return Start(
            kind=kind.value, command=_detail(name, rest), term=self.term, columns=self.columns, rows=self.rows,
            env={key.decode("ascii", "replace"): value for key, value in self.env.items()},
        )  # fmt: skip

    def _gathering(self, name: bytes, want_reply: bool, rest: bytes) -> list[Effect]:
        match name:
            case b"pty-req":
                term, at = text(rest, 0, MAX_TERM)
                columns, rows, _, _ = _SIZE.unpack_from(rest, at)
                modes, at = string(rest, at + _SIZE.size)
                if at != len(rest) or len(modes) > MAX_MODES:
                    raise ValueError("terminal is too long")
                if self.term:
                    return self._answer(want_reply, False)
                self.term, self.columns, self.rows = term or b"dumb", columns, rows
                return self._forward(name, want_reply, rest)
            case b"env":
                return self._env(want_reply, rest)
            case b"window-change":
                return self._resize(want_reply, rest)
            case b"shell" | b"exec" | b"subsystem":
                detail = _detail(name, rest)
                kind = _KIND[name] if name == b"shell" else _start_kind(name, detail)
                return self._ask(name, want_reply, rest, kind, detail)
            case b"x11-req":
                _, at = text(rest, 1, MAX_COOKIE)
                _, at = text(rest, at, MAX_COOKIE)
                _length(rest, at + 4)
                return self._ask(name, want_reply, rest, ChannelKind.X11, b"")
            case b"auth-agent-req@openssh.com":
                _length(rest, 0)
                return self._ask(name, want_reply, rest, ChannelKind.AGENT, b"")
            case _:
                return self._answer(want_reply, False)

    def _started(self, name: bytes, want_reply: bool, rest: bytes) -> list[Effect]:
        if name == b"window-change":
            return self._resize(want_reply, rest)
        if name == b"signal":
            signal, at = string(rest, 0)
            _length(rest, at)
            # Attack: a name that is none carries what it likes.
            return (
                self._forward(name, want_reply, rest) if _SIGNAL.fullmatch(signal) else self._answer(want_reply, False)
            )
        if name in PASSING:
            _length(rest, PASSING[name])
            return self._forward(name, want_reply, rest)
        return self._answer(want_reply, False)

    def _resize(self, want_reply: bool, rest: bytes) -> list[Effect]:
        columns, rows, _, _ = _SIZE.unpack(rest)
        if not self.term:
            return self._answer(want_reply, False)
        self.columns, self.rows = columns, rows
        return [Resize(columns, rows), *self._forward(b"window-change", want_reply, rest)]

    def _env(self, want_reply: bool, rest: bytes) -> list[Effect]:
        name, at = string(rest, 0)
        value, at = string(rest, at)
        _length(rest, at)
        self._env_bytes += len(name) + len(value)
        if len(self.env) + len(self.ours) >= MAX_ENV or self._env_bytes > MAX_ENV_BYTES:
            return self._answer(want_reply, False)
        if name.startswith(OURS):
            self.ours[name] = value
            return self._answer(want_reply, True)
        if not env_allowed(name, value):
            return self._answer(want_reply, False)  # LD_PRELOAD and its like
        self.env[name] = value
        return self._forward(b"env", want_reply, rest)

    def _ask(self, name: bytes, want_reply: bool, rest: bytes, kind: ChannelKind, detail: bytes) -> list[Effect]:
        self.state = State.ASKING
        self._asked = name, want_reply, rest, kind
        return [Ask(kind, detail)]

    def _forward(self, name: bytes, want_reply: bool, rest: bytes, start: Start | None = None) -> list[Effect]:
        if want_reply:
            self._answers.expect()
        return [Forward(name, want_reply, rest, start)]

    def _answer(self, want_reply: bool, ok: bool) -> list[Effect]:
        return [Answer(ready) for ready in self._answers.give(ok)] if want_reply else []


class TargetRequests:
    """What a target asks of a person on the same channel: how a command ended, and whether anybody is there."""

    def __init__(self) -> None:
        self._answers = Answers()

    def request(self, payload: bytes) -> tuple[Forward | None, list[bool]]:
        """What of it goes on to the person, no longer than it says, and what to answer at once. ValueError, IndexError
        if it cannot be read.
        """
        name, at = string(payload, 0)
        want_reply, rest = payload[at] != 0, payload[at + 1 :]
        if name == b"exit-signal":
            signal, end = string(rest, 0)
            core, (message, _) = rest[end : end + 1], string(rest, end + 1)
            rest = strings(signal[:MAX_REQUEST]) + core + strings(message[:MAX_MESSAGE], b"")
        elif name in FROM_TARGET:
            size = FROM_TARGET[name]
            if len(rest) < size:
                raise ValueError("request is cut short")
            rest = rest[:size]
        else:
            return None, self._answers.give(False) if want_reply else []
        if want_reply:
            self._answers.expect()
        return Forward(name, want_reply, rest), []

    def answered(self, ok: bool) -> list[bool]:
        """The person's answer; what to say to the target. Malformed if nothing was asked."""
        return self._answers.answered(ok)


_ASIDE: Final = frozenset({b"x11-req", b"auth-agent-req@openssh.com"})
_KIND: Final = {b"shell": ChannelKind.SHELL}


def _start_kind(name: bytes, detail: bytes) -> ChannelKind:
    if name == b"exec":
        return kind_of(detail)
    return ChannelKind.SFTP if detail == b"sftp" else ChannelKind.SUBSYSTEM


def _detail(name: bytes, rest: bytes) -> bytes:
    if name == b"shell":
        _length(rest, 0)
        return b""
    detail, at = text(rest, 0, len(rest))
    _length(rest, at)
    return detail


def _length(rest: bytes, wanted: int) -> None:
    """ValueError if a request is not as long as what was read of it."""
    if len(rest) != wanted:
        raise ValueError(f"{len(rest)} bytes where {wanted} belong")


def text(data: bytes, at: int, most: int) -> tuple[bytes, int]:
    """An SSH string that names something, and where it ends; ValueError if it is longer than `most`.

    A NUL in it is an error as it is to OpenSSH, which would leave us for it and look as if it had failed.
    """
    found, end = string(data, at)
    if len(found) > most or b"\0" in found:
        raise ValueError("text is too long, or has a NUL in it")
    return found, end


def string(data: bytes, at: int) -> tuple[bytes, int]:
    """An SSH string at `at` and where it ends; ValueError if it is cut short."""
    if at + 4 > len(data):
        raise ValueError("string is cut short")
    end = at + 4 + int(_U32.unpack_from(data, at)[0])
    if end > len(data):
        raise ValueError("string is cut short")
    return data[at + 4 : end], end


def wants_reply(payload: bytes) -> bool:
    """Does this channel request, which nobody has looked at, want an answer?"""
    try:
        _, at = string(payload, 0)
    except ValueError:
        return False
    return payload[at : at + 1] not in (b"", b"\0")


def strings(*parts: bytes) -> bytes:
    """SSH strings, one after another."""
    return b"".join(_U32.pack(len(part)) + part for part in parts)
