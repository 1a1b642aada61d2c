"""The transit engine of an OpenBao or HashiCorp Vault server (HTTP API, `/v1/MOUNT/encrypt/KEY`), asked by the courier.

The server encrypts 32 random bytes, and never sees the root. The wrapping key is derived from those and a *share*, 32
bytes in a file of this machine: the server, and the courier that carries its answers, know one half; who takes the
machine's disk has the other, and needs a token that the server still takes.
"""

import base64
import binascii
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from policy.messages import Called, HttpCall
from policy.outside.secrets import OutsideError, read_secret, read_trust
from policy.vault.masters import wrapping
from policy.vault.masters.file import make_master_key, master_key_path, read_master_key
from policy.vault.secret import KEY_BYTES, NotYet, Secret, VaultError

FORM: Final = (
    "transit:https://HOST:8200/v1/transit/keys/NAME?token=file:PATH&share=file:PATH, perhaps &ca=PATH&namespace=NAME"
)
SECONDS: Final = 10.0
"""Of one call. A sealed or busy server answers at once; a start waits no longer and then asks again."""
_PATH: Final = re.compile(r"/v1/([A-Za-z0-9._/-]{1,100})/keys/([A-Za-z0-9._-]{1,100})")
_CIPHERTEXT: Final = re.compile(r"[a-z]{1,20}:v[0-9]{1,9}:[A-Za-z0-9+/=]{1,1000}")
_KNOWN: Final = frozenset({"token", "share", "ca", "namespace"})

Http = Callable[[HttpCall], Awaitable[Called]]


class TransitMaster:
    """Keeps nothing: token, share and CAs are read for each use, so they may be renewed under a running policyd."""

    kind = "transit"

    def __init__(self, where: str, base: Path, environ: Mapping[str, str], http: Http | None) -> None:
        """VaultError if `where` is not of FORM. Without `http`, every use says that there is no courier."""
        url = urlsplit(where.removeprefix("transit:"))
        path = _PATH.fullmatch(url.path)
        options = dict(parse_qsl(url.query, keep_blank_values=True))
        # Attack: without TLS, whoever stands in between takes the token, and asks the server by themselves.
        if url.scheme != "https" or not url.netloc or path is None or not {"token", "share"} <= set(options) <= _KNOWN:
            raise VaultError(f"master key `{where}`: want {FORM}")
        self._url = f"https://{url.netloc}/v1/{path[1]}"
        self._key, self._options = path[2], options
        self._base, self._environ, self._http = base, environ, http
        master_key_path(options["share"], base, {"CREDENTIALS_DIRECTORY": "/"} | dict(environ))  # its form

    async def make(self) -> list[str]:
        """The share, if it is a file that is not there. The key on the server is its administrators' to make."""
        share = self._options["share"]
        path = master_key_path(share, self._base, self._environ)
        if not share.startswith("file:") or path.exists():
            return []
        make_master_key(path)
        return [f"share of the master key `{path}`: keep a copy elsewhere, without it every secret is lost"]

    async def wrap(self, root: Secret, bound: bytes) -> bytes:
        """One call. NotYet as long as the server cannot or will not."""
        remote = secrets.token_bytes(KEY_BYTES)
        ciphertext = await self._ask("encrypt", "plaintext", base64.b64encode(remote).decode(), "ciphertext")
        if not _CIPHERTEXT.fullmatch(ciphertext):
            raise NotYet(f"transit server `{self._url}` answered with no ciphertext")
        return wrapping.wrap(wrapping.TRANSIT, self._joined(remote), root, bound, ciphertext.encode())

    async def unwrap(self, wrapped: bytes, bound: bytes) -> Secret:
        """One call."""
        ciphertext = wrapping.read_parameters(wrapping.TRANSIT, wrapped)
        if not _CIPHERTEXT.fullmatch(ciphertext.decode("latin-1")):
            raise VaultError("wrapped root key: it is damaged", "restore the database from a backup")
        answer = await self._ask("decrypt", "ciphertext", ciphertext.decode(), "plaintext")
        try:
            remote = base64.b64decode(answer, validate=True)
        except (binascii.Error, ValueError):
            remote = b""
        root = wrapping.unwrap(wrapping.TRANSIT, self._joined(remote), wrapped, bound) if len(remote) == 32 else None
        if root is None:
            raise NotYet(
                f"transit server `{self._url}` gave a key that does not open this vault, or the share is another",
                f"look at the share: {self._options['share']}",
            )
        return root

    def _joined(self, remote: bytes) -> Secret:
        share = read_master_key(self._options["share"], self._base, self._environ)
        return Secret(remote + share.reveal())

    async def _ask(self, verb: str, field: str, value: str, wanted: str) -> str:
        """The answer's `data.wanted`; NotYet with the server's reason."""
        if self._http is None:
            raise NotYet(f"transit server `{self._url}` can only be called by a courier")
        try:
            token = read_secret(self._options["token"], self._base, self._environ)
            trust = read_trust(self._options.get("ca", ""), self._base)
        except OutsideError as error:
            raise NotYet(f"transit server: {error}", "put it there: it is tried again") from None
        headers = {"X-Vault-Token": token, "X-Vault-Request": "true", "Content-Type": "application/json"}
        if namespace := self._options.get("namespace"):
            headers["X-Vault-Namespace"] = namespace
        call = HttpCall(
            task=0, method="POST", url=f"{self._url}/{verb}/{self._key}", headers=headers,
            body=json.dumps({field: value}).encode(), pick=[f"/data/{wanted}"], seconds=SECONDS, trust=trust,
        )  # fmt: skip
        answer = await self._http(call)
        if answer.error:
            raise NotYet(f"transit server `{self._url}` {answer.error}", "it is tried again")
        if answer.status != 200 or len(answer.values) != 1:
            raise NotYet(f"transit server `{self._url}` {self._reason(answer.status)}", "it is tried again")
        try:
            text = json.loads(answer.values[0] or "null")
        except ValueError:
            text = None
        if not isinstance(text, str):
            raise NotYet(f"transit server `{self._url}` answered without `{wanted}`", "it is tried again")
        return text

    def _reason(self, status: int) -> str:
        """https://openbao.org/api-docs/#http-status-codes"""
        match status:
            case 400:
                return f"does not take it: the ciphertext is of another key than `{self._key}`, or of a removed version"
            case 403:
                return f"denies it: its token is over, or may not use the key `{self._key}`"
            case 404:
                return f"has no key `{self._key}` there"
            case 429 | 472 | 473 | 503:
                return "is sealed or on standby"
            case _:
                return f"answered with status {status}"
