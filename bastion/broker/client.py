"""Secrets for Python programs, from the bastion's broker. Needs Python 3.9 and no more: this one file may be copied.

    from bastion.broker.client import Broker

    with Broker("/run/bastion/broker.sock") as broker:
        password = broker.get("db/prod/password").value

Over HTTPS: `Broker(url="https://bastion:8443", token_file="/run/shop/token", certificate="shop.crt", key="shop.key")`.
A token file is read again for each request, so that a new one is used as soon as it is there. With `renew=True` a token
is renewed when half of its time is over, and the file written anew, for which its folder must be writable.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import tempfile
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

SOCKET = "/run/bastion/broker.sock"
MAX_ANSWER = 256 * 1024
"""Bytes; a secret has at most 60 KiB, and each may be written as six characters of JSON. Longer ones are cut off."""
BUSY = (429, 503)
"""The broker asks to wait; so does a policyd that is starting again."""
AGAIN = 60.0
"""Seconds until a token that could not be renewed is tried again: requests go on with it meanwhile."""


class BrokerError(Exception):
    """`status` is HTTP's, 0 if there was no answer; `ref` is what the bastion's people find in `bastion audit show`.

    `retry_after` are the seconds after which to ask again, None if the broker does not say. With 423 (a person has the
    password checked out) it may be hours, and is not waited for here.
    """

    def __init__(self, status: int, error: str, hint: str = "", ref: str = "", retry_after: int | None = None) -> None:
        super().__init__(f"{error}{f': {hint}' if hint else ''}{f' [{ref}]' if ref else ''}")
        self.status, self.error, self.hint, self.ref, self.retry_after = status, error, hint, ref, retry_after


@dataclass(frozen=True)
class Secret:
    """`data` are its bytes; `value` the same as text, None if they are none. Read again before `expires_in` is over."""

    name: str
    kind: str
    version: int
    lease: str
    expires_in: int
    data: bytes = field(repr=False)

    @property
    def value(self) -> str | None:
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            return None


class Broker:
    """One connection, made when it is needed. Not for several threads at once: let each have its own."""

    def __init__(
        self,
        path: str = SOCKET,
        *,
        url: str = "",  # https://HOST[:PORT]; instead of the socket
        token: str = "",
        token_file: str = "",
        certificate: str = "",  # of this application, PEM
        key: str = "",
        ca: str = "",  # PEM: who must have signed the broker's certificate; else the system's CAs
        application: str = "",  # its name, where what binds it fits several
        timeout: float = 10.0,  # seconds for one answer
        patience: float = 10.0,  # seconds to go on asking a bastion that is busy, or starts again
        renew: bool = False,  # the token, by itself
    ) -> None:
        self._path, self._timeout, self._patience = path, timeout, patience
        self._token, self._token_file, self._application = token, token_file, application
        self._parts = urllib.parse.urlsplit(url) if url else None
        self._context: ssl.SSLContext | None = None
        if self._parts is not None:
            if self._parts.scheme != "https" or not self._parts.hostname:
                raise ValueError(f"`{url}` is no https://HOST[:PORT]")
            self._context = ssl.create_default_context(cafile=ca or None)
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
            if certificate:
                self._context.load_cert_chain(certificate, key or None)
        self._connection: http.client.HTTPConnection | None = None
        self._renews = renew
        self._renewing = ("", 0.0)  # a token, and when to renew it

    def get(self, name: str) -> Secret:
        """The secret of this name. BrokerError 403 if it is not there, or not shared with this application."""
        self._keep_token()
        told = self._ask("GET", "/v1/secrets/" + urllib.parse.quote(name, safe="/@"))
        data = base64.b64decode(told["value_base64"]) if "value_base64" in told else str(told["value"]).encode()
        return Secret(
            name=told["name"], kind=told["kind"], version=told["version"], lease=told["lease"],
            expires_in=told["expires_in"], data=data,
        )  # fmt: skip

    def renew(self, lease: str) -> dict[str, Any]:
        """`expires_in` anew, and `superseded`: there is a newer version, read it. BrokerError 410 once it is over."""
        self._keep_token()
        return self._ask("POST", f"/v1/leases/{urllib.parse.quote(lease, safe='')}/renew")

    def end(self, lease: str) -> None:
        self._ask("DELETE", f"/v1/leases/{urllib.parse.quote(lease, safe='')}")

    def whoami(self) -> dict[str, Any]:
        return self._ask("GET", "/v1/self")

    def renew_token(self) -> dict[str, Any]:
        """Use another token from here on, and write it into the token file. What is told but the token itself.

        The one before is good for `old_expires_in` seconds more, for others that read the file. BrokerError 403 when it
        is renewed no more, at once or at the end that an administrator has set.
        """
        told = self._ask("POST", "/v1/token/renew")
        token = str(told.pop("token"))
        if self._token_file:
            _put(self._token_file, token)
        else:
            self._token = token
        self._renewing = (token, time.monotonic() + float(told["expires_in"]) / 2)
        return told

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Broker:  # noqa: PYI034 - `Self` came with Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep_token(self) -> None:
        if not self._renews or not (token := self._token_now()):
            return
        try:
            if self._renewing[0] != token:  # the first time, or another one has written the file
                left = float(self.whoami().get("token_expires_in", 0))
                self._renewing = (token, time.monotonic() + left / 2)
            elif time.monotonic() >= self._renewing[1]:
                self.renew_token()
        except BrokerError as error:
            if error.status == 401:
                raise
            self._renewing = (token, time.monotonic() + AGAIN)

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        until = time.monotonic() + self._patience
        while True:
            try:
                return self._once(method, path)
            except BrokerError as error:
                if error.status not in (0, *BUSY) or time.monotonic() >= until:
                    raise
            time.sleep(min(1.0, max(0.0, until - time.monotonic())))

    def _once(self, method: str, path: str) -> dict[str, Any]:
        fresh = self._connection is None
        try:
            answer = self._exchange(method, path)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not fresh:  # a kept connection that was closed in the meantime
                return self._once(method, path)
            where = self._parts.netloc if self._parts is not None else self._path
            raise BrokerError(0, f"the broker at {where} does not answer: {error or type(error).__name__}") from None
        status, wait, body = answer
        try:
            told = json.loads(body)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise BrokerError(0, f"this is no answer of the broker (HTTP {status})")
        if status != 200:
            cause, hint, ref = (str(told.get(key, "")) for key in ("error", "hint", "ref"))
            raise BrokerError(status, cause, hint, ref, int(wait) if wait.isdecimal() else None)
        return told

    def _exchange(self, method: str, path: str) -> tuple[int, str, bytes]:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request(method, path, headers=self._headers())
        answer = self._connection.getresponse()
        body = answer.read(MAX_ANSWER + 1)
        if len(body) > MAX_ANSWER:
            raise http.client.HTTPException("the answer is too long")
        if answer.will_close:
            self.close()
        return answer.status, answer.getheader("Retry-After", ""), body

    def _headers(self) -> dict[str, str]:
        headers = {"Host": "bastion"} if self._parts is None else {}
        if self._application:
            headers["Bastion-Application"] = self._application
        if token := self._token_now():
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _token_now(self) -> str:
        if not self._token_file:
            return self._token
        with open(self._token_file, encoding="ascii") as file:
            return file.read(256).strip()

    def _connect(self) -> http.client.HTTPConnection:
        if self._parts is None:
            return _Local(self._path, self._timeout)
        assert self._parts.hostname is not None
        return http.client.HTTPSConnection(
            self._parts.hostname, self._parts.port or 443, timeout=self._timeout, context=self._context
        )


def _put(path: str, token: str) -> None:
    """All of it or nothing, whenever we are killed, with the mode that the file had."""
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path) or ".")  # 0600
    try:
        with open(handle, "w", encoding="ascii") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(handle)
        os.chmod(name, os.stat(path).st_mode & 0o777)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


class _Local(http.client.HTTPConnection):
    """HTTP over an AF_UNIX socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("bastion", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
