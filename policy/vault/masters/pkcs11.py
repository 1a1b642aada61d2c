"""An AES key on a PKCS#11 token (an HSM, a smart card, SoftHSM2), named by an RFC 7512 URI.

The token encrypts 32 random bytes with AES-GCM, bound to the generation; the wrapping key is derived from those. The
token's key is sensitive and not extractable: what was copied off the machine opens nothing without token and PIN.
"""

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import trio

from policy.outside.secrets import OutsideError, read_secret
from policy.vault.masters import wrapping
from policy.vault.secret import KEY_BYTES, Secret, VaultError

if TYPE_CHECKING:
    from types import ModuleType

FORM: Final = "pkcs11:token=LABEL;object=LABEL?module-path=/PATH/TO/MODULE.so&pin-source=file:PATH"
_NONCE: Final = 12
_TAG_BITS: Final = 128
_PART: Final = re.compile(r"([a-z-]{1,32})=([^;&?=\x00-\x20]{1,512})")
_LABEL_BYTES: Final = 32  # of a token: PKCS#11 has a field of that size


class TokenMaster:
    """Logs in for each use and out again, in a thread: modules block for as long as their device does."""

    kind = "pkcs11"

    def __init__(self, where: str, base: Path, environ: Mapping[str, str]) -> None:
        """VaultError if `where` is not of FORM."""
        path, _, query = where.removeprefix("pkcs11:").partition("?")
        parts = _parts(where, path, ";", {"token", "object"}) | _parts(where, query, "&", {"module-path", "pin-source"})
        self._token, self._label = parts["token"], parts["object"]
        self._module, self._pin = parts["module-path"], parts["pin-source"]
        self._base, self._environ = base, environ
        if not self._module.startswith("/") or len(self._token.encode()) > _LABEL_BYTES:
            raise VaultError(f"master key `{where}`: want {FORM}")

    async def make(self) -> list[str]:
        """The key on the token, if there is none of that label."""
        return await trio.to_thread.run_sync(self._make)

    async def wrap(self, root: Secret, bound: bytes) -> bytes:
        return await trio.to_thread.run_sync(self._wrap, root, bound)

    async def unwrap(self, wrapped: bytes, bound: bytes) -> Secret:
        return await trio.to_thread.run_sync(self._unwrap, wrapped, bound)

    # --- in a thread ----------------------------------------------------------------------------------

    def _make(self) -> list[str]:
        with self._session(writes=True) as (p11, session):
            if self._keys(p11, session):
                return []
            session.generate_key(
                p11.KeyType.AES, 256, label=self._label, store=True,
                capabilities=p11.MechanismFlag.ENCRYPT | p11.MechanismFlag.DECRYPT,
                template={p11.Attribute.SENSITIVE: True, p11.Attribute.EXTRACTABLE: False, p11.Attribute.PRIVATE: True},
            )  # fmt: skip
        return [f"key `{self._label}` on token `{self._token}`: back it up as the maker of the token says"]

    def _wrap(self, root: Secret, bound: bytes) -> bytes:
        inner, nonce = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(_NONCE)
        with self._session() as (p11, session):
            sealed = self._key(p11, session).encrypt(
                inner, mechanism=p11.Mechanism.AES_GCM, mechanism_param=p11.GCMParams(nonce, bound, _TAG_BITS)
            )
        return wrapping.wrap(wrapping.PKCS11, Secret(inner), root, bound, nonce + sealed)

    def _unwrap(self, wrapped: bytes, bound: bytes) -> Secret:
        parameters = wrapping.read_parameters(wrapping.PKCS11, wrapped)
        nonce, sealed = parameters[:_NONCE], parameters[_NONCE:]
        with self._session() as (p11, session):
            key = self._key(p11, session)
            try:
                inner = key.decrypt(
                    sealed, mechanism=p11.Mechanism.AES_GCM, mechanism_param=p11.GCMParams(nonce, bound, _TAG_BITS)
                )
            except p11.exceptions.PKCS11Error:
                inner = b""
        root = wrapping.unwrap(wrapping.PKCS11, Secret(inner), wrapped, bound) if len(inner) == KEY_BYTES else None
        if root is None:
            raise VaultError(
                f"key `{self._label}` on token `{self._token}` is not the one this database was sealed with",
                "put the right token in, or write its label into [policy] master_key",
            )
        return root

    def _key(self, p11: "ModuleType", session: Any) -> Any:
        found = self._keys(p11, session)
        if len(found) != 1:
            what = "no key" if not found else f"{len(found)} keys"
            raise VaultError(
                f"token `{self._token}` has {what} `{self._label}`",
                f"see what it holds: pkcs11-tool --module {self._module} --login --list-objects",
            )
        key = found[0]
        if not key[p11.Attribute.SENSITIVE] or key[p11.Attribute.EXTRACTABLE]:
            # Attack: a key that was once written down in the clear is put on the token, and its copy opens the vault.
            raise VaultError(
                f"key `{self._label}` on token `{self._token}` can be read out of it", "make one that cannot: remove it"
            )
        return key

    def _keys(self, p11: "ModuleType", session: Any) -> list[Any]:
        wanted = {p11.Attribute.CLASS: p11.ObjectClass.SECRET_KEY, p11.Attribute.LABEL: self._label}
        return list(session.get_objects(wanted))

    @contextmanager
    def _session(self, *, writes: bool = False) -> "Iterator[tuple[ModuleType, Any]]":
        """A session that is logged in. VaultError for every way in which that fails."""
        p11 = _library()
        wrong = p11.exceptions
        try:
            pin = read_secret(self._pin, self._base, self._environ)
        except OutsideError as error:
            raise VaultError(f"PIN of token `{self._token}`: {error}") from None
        try:
            module = p11.lib(self._module)
            module.reinitialize()  # tokens that came or went since
            token = module.get_token(token_label=self._token)
            if token.flags & (p11.TokenFlag.USER_PIN_COUNT_LOW | p11.TokenFlag.USER_PIN_FINAL_TRY):
                # A service that is started again and again with a wrong PIN would lock the token for good.
                raise VaultError(
                    f"token `{self._token}` was given a wrong PIN before: none is tried now",
                    f"log in once by hand: pkcs11-tool --module {self._module} --login --list-objects",
                )
            if token.flags & p11.TokenFlag.USER_PIN_LOCKED:
                raise VaultError(f"token `{self._token}` is locked after wrong PINs", "unlock it with its SO PIN")
            with token.open(rw=writes, user_pin=pin) as session:
                yield p11, session
        except wrong.NoSuchToken:
            raise VaultError(
                f"token `{self._token}` is not there", f"see which are: pkcs11-tool --module {self._module} -L"
            ) from None
        except wrong.MultipleTokensReturned:
            raise VaultError(f"there are several tokens `{self._token}`", "give them labels of their own") from None
        except (wrong.PinIncorrect, wrong.PinInvalid, wrong.PinLenRange):
            raise VaultError(
                f"PIN of token `{self._token}` is wrong: it was tried once", f"put the right one into {self._pin}"
            ) from None
        except wrong.PinLocked:
            raise VaultError(f"token `{self._token}` is locked after wrong PINs", "unlock it with its SO PIN") from None
        except wrong.PKCS11Error as error:
            reason = str(error) or type(error).__name__
            raise VaultError(f"token `{self._token}`: {reason[:200]}", f"look at its module: {self._module}") from None


def _library() -> "ModuleType":
    """python-pkcs11 is an extra: most bastions have no token."""
    try:
        import pkcs11
    except ImportError:
        raise VaultError("master key `pkcs11:`: python-pkcs11 is missing", "pip install 'bastion[hsm]'") from None
    return pkcs11


def _parts(where: str, text: str, separator: str, wanted: set[str]) -> dict[str, str]:
    """`a=b;c=d` with exactly these names; values percent-decoded (RFC 7512 section 2.3)."""
    found: dict[str, str] = {}
    for part in text.split(separator):
        match = _PART.fullmatch(part)
        if match is None or match[1] in found or match[1] not in wanted:
            raise VaultError(f"master key `{where}`: want {FORM}")
        found[match[1]] = unquote(match[2])
    if set(found) != wanted:
        raise VaultError(f"master key `{where}`: want {FORM}")
    return found
