"""Words on persons, targets and accounts: for administrators, and for owners where it is about what they own. Pure.

The `bastion` command has the same words by click, with files; over ssh there are none, so keys come as text, and an
account's secret is typed or piped in.
"""

from typing import Any, Final

from bastion.errors import MisuseError
from bastion.words import Given, Option, Takes, Word
from policy.messages import (
    AccountAdd,
    AccountList,
    AccountRemove,
    AccountShow,
    DirectoryStatus,
    DirectorySync,
    PersonAdd,
    PersonList,
    PersonOffboard,
    PersonSet,
    PersonShow,
    TargetAdd,
    TargetHostkey,
    TargetList,
    TargetRemove,
    TargetSet,
    TargetShow,
    WhatCan,
    WhoCan,
)

PLACE: Final = "ACCOUNT@TARGET"
_WHY: Final = Option("--reason", "why, for the audit trail", Takes.TEXT, "TEXT")
_ROLE: Final = Option("--role", "role to give; may be repeated", value="ROLE", repeats=True)
_KEY: Final = Option("--key", "a public key, as in its .pub file", Takes.TEXT, "KEY")
_MAIL: Final = Option("--mail", "where they are told of what is theirs, or `none`", value="ADDRESS")
_LABEL: Final = Option("--label", "label to set; may be repeated", value="K=V", repeats=True)


def _person_add(given: Given) -> PersonAdd:
    return PersonAdd(
        name=given.rest[0], roles=given.names("--role"), keys=_key(given), mail=given.text("--mail"),
        reason=given.text("--reason"),
    )  # fmt: skip


def _person_set(given: Given) -> PersonSet:
    return PersonSet(
        name=given.rest[0], add_roles=given.names("--role"), remove_roles=given.names("--remove-role"),
        add_keys=_key(given), remove_keys=given.names("--remove-key"),
        disabled=False if given.has("--enable") else None,
        mail=given.text("--mail") if given.has("--mail") else None, reason=given.text("--reason"),
    )  # fmt: skip


def _target_add(given: Given) -> TargetAdd:
    return TargetAdd(
        name=given.rest[0], address=given.text("--address"), labels=_labels(given), scan=given.has("--scan"),
        host_keys=[text] if (text := given.text("--host-key")) else [], reason=given.text("--reason"),
    )  # fmt: skip


def _target_set(given: Given) -> TargetSet:
    return TargetSet(
        name=given.rest[0], address=given.text("--address"), set_labels=_labels(given),
        remove_labels=given.names("--remove-label"), reason=given.text("--reason"),
    )  # fmt: skip


def _hostkey(given: Given) -> Any:
    if not (given.has("--accept") or given.has("--forget")):
        return TargetShow(name=given.rest[0])
    return TargetHostkey(
        name=given.rest[0], accept=given.text("--accept"), forget=given.text("--forget"),
        reason=given.text("--reason"),
    )  # fmt: skip


def _account(given: Given, ask: Any, **more: Any) -> Any:
    account, target = given.place()
    return ask(account=account, target=target, **more)


def _key(given: Given) -> list[str]:
    return [text] if (text := given.text("--key")) else []


def _labels(given: Given) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in given.options.get("--label", ()):
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise MisuseError(f"`--label {pair[:64]}` is no label", "write it as --label env=prod")
        found[name] = value
    return found


ESTATE: Final = (
    Word(name="person list", about="everybody (administrators)", ask=lambda _: PersonList()),
    Word(name="person show", arguments="NAME", about="roles, keys, factors, what they own (administrators)",
         ask=lambda given: PersonShow(name=given.rest[0])),
    Word(name="person add", arguments="NAME", about="a person, with roles and a key (administrators)",
         ask=_person_add, options=(_ROLE, _KEY, _MAIL, _WHY)),
    Word(name="person set", arguments="NAME", about="other roles, keys or address (administrators)", ask=_person_set,
         options=(_ROLE, Option("--remove-role", "role to take away", value="ROLE", repeats=True), _KEY,
                  Option("--remove-key", "fingerprint of a key", value="SHA256:...", repeats=True), _MAIL,
                  Option("--enable", "let them log in again", Takes.NOTHING), _WHY)),
    Word(name="person disable", arguments="NAME", about="no more logins, and sessions end (administrators)",
         ask=lambda given: PersonSet(name=given.rest[0], disabled=True, reason=given.text("--reason")),
         options=(_WHY,)),
    Word(name="person offboard", arguments="NAME", about="somebody leaves: all of theirs ends (administrators)",
         ask=lambda given: PersonOffboard(name=given.rest[0], heir=given.text("--heir"), reason=given.text("--reason")),
         options=(Option("--heir", "who takes over what they own", value="NAME"), _WHY)),
    Word(name="directory sync", about="read the directory now, and take over who came and left (administrators)",
         ask=lambda given: DirectorySync(plan=given.has("--plan")),
         options=(Option("--plan", "show what would be changed, and change nothing", Takes.NOTHING),)),
    Word(name="directory status", about="when it was read last, and what is wrong with it (administrators)",
         ask=lambda _: DirectoryStatus()),
    Word(name="target list", about="targets, yours if you own some", ask=lambda _: TargetList()),
    Word(name="target show", arguments="NAME", about="address, labels, accounts, pinned keys (owners)",
         ask=lambda given: TargetShow(name=given.rest[0])),
    Word(name="target add", arguments="NAME", about="a target, and what proves it (administrators)", ask=_target_add,
         options=(Option("--address", "where it is", value="HOST[:PORT]", needed=True), _LABEL,
                  Option("--scan", "pin what it shows now", Takes.NOTHING),
                  Option("--host-key", "pin this key", Takes.TEXT, "KEY"), _WHY)),
    Word(name="target set", arguments="NAME", about="another address, other labels (administrators)", ask=_target_set,
         options=(Option("--address", "where it is now", value="HOST[:PORT]"), _LABEL,
                  Option("--remove-label", "label to take away", value="K", repeats=True), _WHY)),
    Word(name="target remove", arguments="NAME", about="a target with its accounts (administrators)",
         ask=lambda given: TargetRemove(name=given.rest[0], reason=given.text("--reason")), options=(_WHY,)),
    Word(name="target hostkey", arguments="NAME", about="pinned host keys, after a target was rebuilt (owners)",
         ask=_hostkey,
         options=(Option("--accept", "scan, and pin the key with this fingerprint", value="SHA256:..."),
                  Option("--forget", "no longer trust this one", value="SHA256:..."), _WHY)),
    Word(name="account list", arguments="[TARGET]", about="accounts, of your targets if you own some",
         ask=lambda given: AccountList(target=given.word(0))),
    Word(name="account show", arguments=PLACE, about="what opens it, and its last use (owners)",
         ask=lambda given: _account(given, AccountShow)),
    Word(name="account add", arguments=PLACE, about="an account; its password or private key is asked for (owners)",
         ask=lambda given: _account(
             given, AccountAdd, user_ca=given.has("--user-ca"), reason=given.text("--reason")),
         options=(Option("--user-ca", "opened by certificates of the bastion instead", Takes.NOTHING), _WHY)),
    Word(name="account remove", arguments=PLACE, about="an account and its credential (owners)",
         ask=lambda given: _account(given, AccountRemove, reason=given.text("--reason")), options=(_WHY,)),
    Word(name="who-can", arguments="TARGET", about="persons who may come there, and how (security)",
         ask=lambda given: WhoCan(target=given.rest[0])),
    Word(name="what-can", arguments="PERSON", about="where a person may come to, and how (security)",
         ask=lambda given: WhatCan(person=given.rest[0])),
)  # fmt: skip
