"""Names of secrets: `folder/name` for those that people keep, ACCOUNT@TARGET for what opens an account. Pure.

A word alone is none of theirs: the vault's own secrets (`seed`, the authorities) are named so. A folder is a prefix
that ends in `/`; it exists as long as something lies in it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Final

from policy import naming
from policy.naming import CommandRefused

MAX_NAME: Final = 200
"""Characters: two terminals' width is more than anybody reads, and the column holds 320."""
MAX_DEPTH: Final = 8

_WORD: Final = r"[a-z0-9][a-z0-9._-]*"
_NAME: Final = re.compile(rf"{_WORD}(/{_WORD})+", re.ASCII)
_FOLDER: Final = re.compile(rf"({_WORD}/)+", re.ASCII)


class ScopeKind(StrEnum):
    SECRET = "secret"
    FOLDER = "folder"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a share is about, as it was written."""

    kind: ScopeKind
    text: str

    @property
    def place(self) -> tuple[str, str]:
        """Account and target, of an ACCOUNT."""
        account, _, target = self.text.rpartition("@")
        return account, target

    def covers(self, name: str) -> bool:
        """Whether a secret, by its name, lies in it."""
        return name.startswith(self.text) if self.kind is ScopeKind.FOLDER else name == self.text


def is_named(name: str) -> bool:
    """Whether this is the name of a secret that people keep, and not one of the vault's own or of an account."""
    return _NAME.fullmatch(name) is not None


def secret_name(text: str) -> str:
    """The name itself. CommandRefused says what is wrong with it, and what may have been meant."""
    if "@" in text:
        raise CommandRefused(
            f"`{shown(text)}` names an account: its password is checked out, and is changed with the account",
            f"ssh bastion vault checkout {shown(text)} --for 1h --reason why",
        )
    if text.endswith("/"):
        raise CommandRefused(
            f"`{shown(text)}` is a folder, and a secret is wanted", f"ssh bastion vault ls {shown(text)}"
        )
    return _checked(text, _NAME, "folder/name")


def folder_name(text: str) -> str:
    """With its `/` at the end; one that is left out is added."""
    return _checked(text if text.endswith("/") else f"{text}/", _FOLDER, "folder/")


def scope(text: str) -> Scope:
    """A secret, a folder, or an account's place."""
    if "@" in text:
        account, _, target = text.rpartition("@")
        return Scope(ScopeKind.ACCOUNT, f"{naming.account_name(account)}@{naming.target_name(target)}")
    if text.endswith("/"):
        return Scope(ScopeKind.FOLDER, folder_name(text))
    return Scope(ScopeKind.SECRET, secret_name(text))


def scope_of(text: str) -> Scope:
    """The same of one that was checked when it was kept."""
    if "@" in text:
        return Scope(ScopeKind.ACCOUNT, text)
    return Scope(ScopeKind.FOLDER if text.endswith("/") else ScopeKind.SECRET, text)


def folders_of(name: str) -> list[str]:
    """Every folder that it lies in: `db/prod/x` -> `db/`, `db/prod/`; those of a folder itself take it in."""
    return [name[: at + 1] for at, char in enumerate(name) if char == "/"]


def meant(text: str, known: Iterable[str]) -> str:
    """`; did you mean ...`, out of names that the speaker may know; or nothing."""
    close = get_close_matches(text[:MAX_NAME], list(known), n=1)
    return f"; did you mean `{close[0]}`" if close else ""


def shown(text: str) -> str:
    return "".join(char if char.isprintable() and char != "`" else "?" for char in text[:64])


def _checked(text: str, wanted: re.Pattern[str], like: str) -> str:
    if len(text) > MAX_NAME:
        raise CommandRefused(f"name of {len(text)} characters, want at most {MAX_NAME}")
    if not wanted.fullmatch(text):
        plain = re.sub(r"[\s\\]+", lambda found: "/" if "\\" in found[0] else "-", text.strip().strip("/").lower())
        plain += "/" if like.endswith("/") else ""
        hint = f"; did you mean `{plain}`" if plain != text and wanted.fullmatch(plain) else ""
        raise CommandRefused(
            f"name `{shown(text)}` is not like `{like}`: words of lower-case letters, digits, `.`, `_`, `-`, "
            f"with `/` between them{hint}"
        )
    if text.rstrip("/").count("/") >= MAX_DEPTH:
        raise CommandRefused(f"name `{shown(text)}` lies in too many folders, at most {MAX_DEPTH - 1}")
    return text
