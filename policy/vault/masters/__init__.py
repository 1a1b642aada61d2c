"""Where the master key comes from. A master wraps the root key of a generation, and nothing else.

What `wrap` returns begins with a byte that names the kind of master, so that a database which was wrapped by another
one is told apart from a wrong key. `bound` names the generation: a wrapped root does not open as that of another.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from policy.vault.masters.file import FileMaster
from policy.vault.masters.passphrase import PassphraseMaster
from policy.vault.masters.pkcs11 import TokenMaster
from policy.vault.masters.transit import Http, TransitMaster
from policy.vault.secret import Secret, VaultError


class Master(Protocol):
    """One source of the master key. All methods raise VaultError(cause, hint)."""

    @property
    def kind(self) -> str:
        """The word before the colon in `master_key`."""

    async def make(self) -> list[str]:
        """Make what is not there yet, for `init` and `rekey --master`; what was made and must be kept, in words."""

    async def wrap(self, root: Secret, bound: bytes) -> bytes:
        """`root` so that only this master opens it, for the place that `bound` names."""

    async def unwrap(self, wrapped: bytes, bound: bytes) -> Secret:
        """What `wrap` was given for the same `bound`."""


def parse(where: str, base: Path, environ: Mapping[str, str], http: Http | None = None) -> Master:
    """The master that `master_key = where` names; paths are relative to `base`. Nothing is read yet.

    `http` has a call made, for the one that needs it.
    """
    kind, _, rest = where.partition(":")
    if kind in ("file", "credential") and rest:
        return FileMaster(where, base, environ)
    if where == "passphrase:":
        return PassphraseMaster()
    if kind == "pkcs11":
        return TokenMaster(where, base, environ)
    if kind == "transit":
        return TransitMaster(where, base, environ, http)
    raise VaultError(f"master key `{where}`: want file:PATH, credential:NAME, passphrase:, pkcs11:... or transit:...")
