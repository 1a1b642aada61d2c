"""What applications ask and what they are told: requests and answers of BROKER.md, without their bytes. Pure."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from policy.messages import (
    EndLease,
    Lease,
    Leased,
    ReadSecret,
    Recognised,
    Refused,
    Renewed,
    RenewLease,
    RenewToken,
    Reply,
)

MAX_TARGET: Final = 1024
"""Bytes of a request target: a name with every character written as %XX, and what stands before it."""

_LEASE: Final = re.compile(r"[0-9a-f]{32}")
# the vault's names have at most 320 characters, our tokens 56
_NAME: Final = re.compile(r"[\x21-\x7e]{1,320}")
_APPLICATION: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_BEARER: Final = re.compile(rb"[Bb]earer +([A-Za-z0-9._-]{1,128})")
_SECRETS, _LEASES, _RENEW, _SELF, _TOKEN = "/v1/secrets/", "/v1/leases/", "/renew", "/v1/self", "/v1/token/renew"

Headers = Iterable[tuple[bytes, bytes]]


class Self(Enum):
    """The question that policyd answered already when it let the application in."""

    SELF = "self"


Question = ReadSecret | RenewLease | EndLease | RenewToken | Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    body: Question
    application: str = ""  # whom they say they are
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`close`: nothing more is read from this connection."""

    status: int
    body: bytes | bytearray
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False
    spent: tuple[object, ...] = field(default=(), repr=False)  # what holds the secret, to be overwritten once sent


class Wrong(Exception):
    """A request that is answered here; `answer` says how."""

    def __init__(self, status: int, error: str, hint: str = "", *, close: bool = False, allow: str = "") -> None:
        super().__init__(error)
        self.answer = problem(status, error, hint, close=close, headers=(("allow", allow),) if allow else ())


def asked(method: bytes, target: bytes, headers: Headers) -> Asked:
    """What a request wants. Wrong if it is none of ours.

    No request of this protocol has a body, so none is read: whatever says that one follows (Content-Length other than
    0, any Transfer-Encoding) ends the connection. Attack: two who read the border of a request differently, a proxy and
    we, are made to share a connection in which one's body is the other's next request.
    """
    fields = _fields(headers)
    if b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0":
        raise Wrong(413, "a request has no body", "send none", close=True)
    if b"expect" in fields or b"upgrade" in fields:
        raise Wrong(417, "this is plain HTTP/1.1", "leave out `Expect` and `Upgrade`", close=True)
    body = _body(method, _path(target))
    application = fields.get(b"bastion-application", b"").decode("latin-1")
    if application and not _APPLICATION.fullmatch(application):
        raise Wrong(400, "`Bastion-Application` is no name of an application", "see: bastion application list")
    token = b""
    if b"authorization" in fields:
        if (match := _BEARER.fullmatch(fields[b"authorization"])) is None:
            raise Wrong(401, "`Authorization` holds no token", "write it as: Authorization: Bearer app-...")
        token = match[1]
    return Asked(body=body, application=application, token=token.decode())


def answer(reply: Reply | None) -> Answer:
    """What an application is told of policyd's reply; None: it gave none."""
    match reply:
        case Leased():
            return _leased(reply)
        case Renewed():
            return _renewed(reply)
        case Lease():
            return _json(200, {
                "lease": reply.lease, "name": reply.name, "version": reply.version, "expires_in": reply.seconds,
                "superseded": reply.superseded,
            })  # fmt: skip
        case Recognised():
            told = {"application": reply.application, "rate": reply.rate}
            return _json(200, told | ({"token_expires_in": reply.seconds} if reply.seconds else {}))
        case Refused():
            return _refused(reply)
    return problem(503, "the bastion cannot decide now", "try again in a second", headers=(("retry-after", "1"),))


def problem(
    status: int, error: str, hint: str = "", ref: str = "", *, close: bool = False,
    headers: tuple[tuple[str, str], ...] = (),
) -> Answer:  # fmt: skip
    told = {"error": error, "hint": hint, "ref": ref}
    return _json(status, {key: text for key, text in told.items() if text or key == "error"}, headers, close=close)


def _leased(reply: Leased) -> Answer:
    told: dict[str, object] = {"name": reply.name, "kind": reply.kind}
    data, name = reply.value, "value"
    try:
        value = data.decode()
    except UnicodeDecodeError:
        data, name = b64encode(data), "value_base64"
        value = data.decode()
    told[name] = value
    told |= {"version": reply.version, "lease": reply.lease, "expires_in": reply.seconds,
             "renewable_for": reply.longest}  # fmt: skip
    return _secret(told, value, reply.value, data)


def _renewed(reply: Renewed) -> Answer:
    token = reply.token.decode()
    told: dict[str, object] = {
        "token": token,
        "expires_in": reply.seconds,
        "renewable_for": reply.longest,
        "old_expires_in": reply.overlap,
    }
    return _secret(told, token, reply.token)


def _secret(told: dict[str, object], value: str, *spent: object) -> Answer:
    body = bytearray(2 * len(value) + 300)  # large enough not to be moved while it grows, nor when it is cut
    _encoder.encode_into(told, body)
    return Answer(status=200, body=body, spent=(*spent, value, body))


_encoder: Final = msgspec.json.Encoder()


def _refused(reply: Refused) -> Answer:
    match reply.need, reply.code:
        case "identity", _:
            return problem(401, reply.cause, reply.hint, reply.ref, close=True,
                           headers=(("www-authenticate", 'Bearer realm="bastion"'),))  # fmt: skip
        case "rate", _:
            return problem(429, reply.cause, reply.hint, headers=(("retry-after", "1"),))
        case "lent", _:
            wait = (("retry-after", str(reply.wait)),) if reply.wait else ()
            return problem(423, reply.cause, reply.hint, reply.ref, headers=wait)
        case "lease", _:
            return problem(410, reply.cause, reply.hint, reply.ref)
        case _, 69:
            return problem(503, reply.cause, reply.hint, reply.ref, headers=(("retry-after", "1"),))
        case _, 78:
            return problem(500, reply.cause, reply.hint, reply.ref)
    return problem(403, reply.cause, reply.hint, reply.ref)


def _fields(headers: Headers) -> dict[bytes, bytes]:
    """By lower-case name. A field of ours that stands there twice would be read one way here, another way elsewhere."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in fields and name in _ONCE:
            raise Wrong(400, f"`{name.decode('latin-1')}` stands there twice", "send it once", close=True)
        fields[name] = value
    return fields


_ONCE: Final = frozenset({b"authorization", b"bastion-application", b"content-length", b"host", b"transfer-encoding"})


def _path(target: bytes) -> str:
    """The path of a request target in its origin form (RFC 9112 section 3.2.1); there is no query."""
    if len(target) > MAX_TARGET or not target.startswith(b"/"):
        raise Wrong(400, "the request target is not understood", "write it as /v1/secrets/NAME", close=True)
    if b"?" in target or b"#" in target:
        raise Wrong(400, "a request has no query", "write it as /v1/secrets/NAME")
    if re.search(rb"%(?![0-9A-Fa-f]{2})", target):
        raise Wrong(400, "the request target has a `%` that begins no %XX", "write it as /v1/secrets/NAME")
    return unquote_to_bytes(target).decode("latin-1")


def _body(method: bytes, path: str) -> Question:
    if path == _SELF:
        _only(method, b"GET")
        return Self.SELF
    if path == _TOKEN:
        _only(method, b"POST")
        return RenewToken()
    if path.startswith(_SECRETS):
        _only(method, b"GET")
        name = path.removeprefix(_SECRETS)
        if not _NAME.fullmatch(name):
            raise Wrong(400, "this is no name of a secret", "write it as folder/name, or ACCOUNT@TARGET")
        return ReadSecret(name=name)
    if path.startswith(_LEASES):
        lease = path.removeprefix(_LEASES)
        renew, lease = lease.endswith(_RENEW), lease.removesuffix(_RENEW)
        _only(method, b"POST" if renew else b"DELETE")
        if not _LEASE.fullmatch(lease):
            raise Wrong(410, "no such lease, or it is over", "read the secret again")
        return RenewLease(lease=lease) if renew else EndLease(lease=lease)
    raise Wrong(404, "there is nothing here", "see BROKER.md: /v1/self, /v1/secrets/NAME, /v1/leases/ID")


def _only(method: bytes, right: bytes) -> None:
    if method != right:
        name = right.decode()
        raise Wrong(405, f"this is asked by {name}", f"use {name}", close=method == b"CONNECT", allow=name)


def _json(
    status: int, told: dict[str, object] | dict[str, str], headers: tuple[tuple[str, str], ...] = (),
    *, close: bool = False,
) -> Answer:  # fmt: skip
    return Answer(status=status, body=json.dumps(told).encode() + b"\n", headers=headers, close=close)
