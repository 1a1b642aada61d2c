"""The transit engine of a Vault or OpenBao server, as its HTTP API documents it, over TLS, with real AES-GCM inside.

https://openbao.org/api-docs/secret/transit/: encrypt, decrypt, rewrap, rotate; token header, errors as
`{"errors": [...]}`, 503 while sealed.
"""

import base64
import json
import os
import secrets
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.outside import Ca

PREFIX = "/v1/transit/"


class Problem(Exception):
    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(status)
        self.status, self.errors = status, errors


@dataclass
class Transit:
    """One server on loopback. `tokens` may be used; `keys` by name, one AES key for each version."""

    home: Path
    tokens: set[str] = field(default_factory=lambda: {"s.good"})
    keys: dict[str, list[bytes]] = field(default_factory=lambda: {"bastion": [secrets.token_bytes(32)]})
    sealed: bool = False
    lies: bool = False  # decrypts to something else
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)  # path, token, body

    def __enter__(self) -> Self:
        authority = Ca(self.home / "ca")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                token = self.headers.get("X-Vault-Token", "")
                outer.asked.append((self.path, token, body))
                try:
                    status, answer = 200, outer.answer(self.path, token, body)
                except Problem as problem:
                    status, answer = problem.status, {"errors": list(problem.errors)}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_PUT = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = authority.context("127.0.0.1").wrap_socket(self.server.socket, server_side=True)
        self.ca = self.home / "ca" / "ca.pem"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.server.server_port}"

    def where(self, token: str = "file:transit.token", share: str = "file:share.key") -> str:
        """For [policy] master_key."""
        return f"transit:{self.address}/v1/transit/keys/bastion?token={token}&share={share}&ca={self.ca}"

    def rotate(self, key: str = "bastion") -> None:
        self.keys[key].append(secrets.token_bytes(32))

    def answer(self, path: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.sealed:
            raise Problem(503, "Vault is sealed")
        if token not in self.tokens:
            raise Problem(403, "permission denied")
        if not path.startswith(PREFIX) or path.count("/") != 4:
            raise Problem(404)
        verb, name = path.removeprefix(PREFIX).split("/")
        if name not in self.keys:
            raise Problem(400, "encryption key not found") if verb == "decrypt" else Problem(404)
        match verb:
            case "encrypt":
                return self._data(self._seal(name, base64.b64decode(body["plaintext"])), name)
            case "decrypt":
                plain = self._open(name, body["ciphertext"])
                plain = secrets.token_bytes(len(plain)) if self.lies else plain
                return {"data": {"plaintext": base64.b64encode(plain).decode()}}
            case "rewrap":
                return self._data(self._seal(name, self._open(name, body["ciphertext"])), name)
            case _:
                raise Problem(404)

    def _data(self, ciphertext: str, name: str) -> dict[str, Any]:
        return {
            "request_id": secrets.token_hex(8),
            "data": {"ciphertext": ciphertext, "key_version": len(self.keys[name])},
        }

    def _seal(self, name: str, plain: bytes) -> str:
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(self.keys[name][-1]).encrypt(nonce, plain, None)
        return f"vault:v{len(self.keys[name])}:{base64.b64encode(sealed).decode()}"

    def _open(self, name: str, ciphertext: str) -> bytes:
        try:
            prefix, version, text = ciphertext.split(":")
            sealed = base64.b64decode(text, validate=True)
            if prefix != "vault" or version[0] != "v":
                raise ValueError
            return AESGCM(self.keys[name][int(version[1:]) - 1]).decrypt(sealed[:12], sealed[12:], None)
        except (ValueError, IndexError):
            raise Problem(400, "invalid ciphertext: could not decode") from None
        except InvalidTag:
            raise Problem(400, "cipher: message authentication failed") from None
