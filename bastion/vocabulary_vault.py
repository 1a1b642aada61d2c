"""What can be said about secrets: kept, lent, viewed, checked out. Pure.

A value is never a word of a command, which shells and the audit trail keep: it is typed unseen, or comes on standard
input (`bastion.ssh.secrets`, `bastion.cli.values`).
"""

from typing import Any, Final

from bastion.errors import MisuseError
from bastion.words import ALL, Given, Option, Takes, Word
from policy.messages import (
    CheckoutList,
    CheckoutReturn,
    CheckoutTake,
    SecretAdd,
    SecretChown,
    SecretList,
    SecretRemove,
    SecretSet,
    SecretShare,
    SecretShares,
    SecretShow,
    SecretUnshare,
    SecretView,
    VaultRekey,
    VaultRestore,
    VaultStatus,
    VaultVersions,
)

BINARY: Final = "--binary"
_BINARY: Final = Option(BINARY, "keep every byte; else it is text, and its last line break is left out", Takes.NOTHING)
_NOTE: Final = Option("--note", "what it is for; who may use it reads this", Takes.TEXT, "TEXT")


def _why(about: str = "the audit trail keeps it", *, needed: bool = False) -> Option:
    return Option("--reason", about, Takes.TEXT, "TEXT", needed=needed)


def _add(given: Given) -> SecretAdd:
    return SecretAdd(
        name=given.rest[0], value=b"", kind=given.text("--kind") or "generic", owner=given.text("--owner"),
        note=given.text("--note"), shared=given.has("--shared"), reason=given.text("--reason"),
    )  # fmt: skip


def _set(given: Given) -> SecretSet:
    note = given.text("--note") if given.has("--note") else None
    value = None if note is not None and not given.has("--value") else b""
    return SecretSet(name=given.rest[0], value=value, note=note, reason=given.text("--reason"))


def _share(given: Given) -> SecretShare:
    return SecretShare(
        scope=given.rest[0], subject=given.rest[1], rights=given.names("--rights"), seconds=given.seconds("--for"),
        reason=given.text("--reason"),
    )  # fmt: skip


def _restore(given: Given) -> VaultRestore:
    if not given.rest[1].isascii() or not given.rest[1].isdigit():
        raise MisuseError(f"`{given.rest[1][:20]}` is no version", f"bastion vault versions {given.rest[0]}")
    return VaultRestore(name=given.rest[0], version=int(given.rest[1][:9]), reason=given.text("--reason"))


def _checkout(given: Given) -> Any:
    account, target = given.place()
    return CheckoutTake(
        account=account, target=target, seconds=given.seconds("--for"), ticket=given.text("--ticket"),
        reason=given.text("--reason"),
    )  # fmt: skip


VAULT: Final = (
    Word(name="vault ls", arguments="[FOLDER/]", about="secrets that you may use, passwords to check out", here=True,
         ask=lambda given: SecretList(folder=given.word(0), all=given.has("--all")),
         options=(Option("--all", "every name (administrators, auditors)", Takes.NOTHING),)),
    Word(name="vault show", arguments="NAME", about="all that is known of a secret but its value", here=True,
         ask=lambda given: SecretShow(name=given.rest[0])),
    Word(name="vault add", arguments="NAME", about="keep a secret, typed unseen or piped in; NAME: folder/name",
         ask=_add, here=True,
         options=(Option("--kind", "generic, password or key; generic when left out", value="KIND"), _BINARY, _NOTE,
                  Option("--shared", "whoever its folder is shared with may have it, too", Takes.NOTHING),
                  Option("--owner", "whose it is (operators)", value="PERSON"), _why())),
    Word(name="vault set", arguments="NAME", about="a new version of one of yours, typed unseen or piped in; or a note",
         ask=_set, here=True,
         options=(_BINARY, _NOTE, Option("--value", "beside --note: the value, too", Takes.NOTHING), _why())),
    Word(name="vault view", arguments="NAME", about="show its value; to a pipe every byte, and nothing else",
         ask=lambda given: SecretView(name=given.rest[0], reason=given.text("--reason"),
                                      version=given.number("--version")), here=True,
         options=(Option("--version", "an older one (owners)", value="N"),
                  _why("the owner may ask for it, and the audit trail keeps it", needed=True))),
    Word(name="vault rm", arguments="NAME", about="remove one of yours, with all of its versions", here=True,
         ask=lambda given: SecretRemove(name=given.rest[0], reason=given.text("--reason")), options=(_why(),)),
    Word(name="vault chown", arguments="NAME PERSON", about="make it another person's", here=True,
         ask=lambda given: SecretChown(name=given.rest[0], owner=given.rest[1], reason=given.text("--reason")),
         options=(_why(),)),
    Word(name="vault share", arguments="SCOPE WITH", here=True, ask=_share,
         about="lend a secret, a folder/ or root@web1; WITH: alice, role:dba, application:x",
         options=(Option("--rights", "of use, view, share", value="view,use", needed=True, repeats=True),
                  Option("--for", "how long; as long as you have it when left out", value="8h"), _why())),
    Word(name="vault unshare", arguments="SHARE", about="take it back, and what was passed on from it", here=True,
         ask=lambda given: SecretUnshare(share=given.rest[0], reason=given.text("--reason")), options=(_why(),)),
    Word(name="vault shares", arguments="[SCOPE]", about="what is lent to whom", options=(ALL,), here=True,
         ask=lambda given: SecretShares(scope=given.word(0), all=given.has("--all"))),
    Word(name="vault checkout", arguments="ACCOUNT@TARGET", about="have its password for a time; shown once",
         ask=_checkout, here=True,
         options=(Option("--for", "how long: 2h, 90m; the most that is allowed when left out", value="1h"),
                  Option("--ticket", "a ticket that says so", value="ID"),
                  _why("asked for on a terminal when left out; the audit trail keeps it"))),
    Word(name="vault checkin", arguments="CHECKOUT", about="bring a password back; its id or place", here=True,
         ask=lambda given: CheckoutReturn(checkout=given.rest[0], force=given.has("--force"),
                                          reason=given.text("--reason")),
         options=(Option("--force", "somebody else's (security)", Takes.NOTHING), _why())),
    Word(name="vault versions", arguments="NAME", about="versions of a secret, or of ACCOUNT@TARGET's", here=True,
         ask=lambda given: VaultVersions(name=given.rest[0])),
    Word(name="vault restore-version", arguments="NAME VERSION", about="an earlier version is in force again",
         ask=_restore, options=(_why(needed=True),), here=True),
    Word(name="vault status", about="how the vault stands: keys, counts, what is sealed anew", here=True,
         ask=lambda _: VaultStatus()),
    Word(name="vault rekey", about="seal everything anew, while all goes on (administrators)",
         ask=lambda given: VaultRekey(reason=given.text("--reason")), options=(_why(needed=True),)),
    Word(name="vault checkouts", about="who has which password until when", options=(ALL,), here=True,
         ask=lambda given: CheckoutList(all=given.has("--all"))),
)  # fmt: skip
