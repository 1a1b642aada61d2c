"""Words on applications, which read secrets by the broker: for administrators, and for their owners. Pure."""

from typing import Final

from bastion.errors import MisuseError
from bastion.words import Given, Option, Takes, Word
from policy.messages import (
    ApplicationAdd,
    ApplicationList,
    ApplicationRemove,
    ApplicationRevoke,
    ApplicationSet,
    ApplicationShow,
    ApplicationToken,
    LeaseList,
)

_WHY: Final = Option("--reason", "why, for the audit trail", Takes.TEXT, "TEXT")
_BINDINGS: Final = (
    Option("--uid", "runs as this user (a number)", value="UID"),
    Option("--unit", "runs in this systemd unit", value="FOO.service"),
    Option("--executable", "is this program", value="/PATH"),
    Option("--certificate", "shows this client certificate", value="SHA256"),
    Option("--address", "comes from there; may be repeated", value="NETWORK", repeats=True),
)
_RATE: Final = Option("--rate", "reads a second; 100 when left out", value="N")
_RENEWABLE: Final = Option("--renewable", "its tokens last so long by renewing, 30d; 0m: they do not", value="TIME")
_OWNER: Final = Option("--owner", "whose it is", value="PERSON")
_NAMES: Final = ("uid", "unit", "executable", "certificate", "address")


def _add(given: Given) -> ApplicationAdd:
    return ApplicationAdd(
        name=given.rest[0], uid=_uid(given), unit=given.text("--unit"), executable=given.text("--executable"),
        certificate=given.text("--certificate"), addresses=given.names("--address"), rate=_rate(given),
        renewable=given.seconds("--renewable"), owner=given.text("--owner"), reason=given.text("--reason"),
    )  # fmt: skip


def _set(given: Given) -> ApplicationSet:
    gone = given.names("--unbind")
    for name in gone:
        if name not in _NAMES:
            raise MisuseError(f"`--unbind {name[:64]}` is no binding", f"one of {', '.join(_NAMES)}")
    return ApplicationSet(
        name=given.rest[0],
        uid=-1 if "uid" in gone else _uid(given) if given.has("--uid") else None,
        unit=_changed(given, gone, "unit"), executable=_changed(given, gone, "executable"),
        certificate=_changed(given, gone, "certificate"),
        addresses=[] if "address" in gone else given.names("--address") if given.has("--address") else None,
        rate=_rate(given), renewable=given.seconds("--renewable") if given.has("--renewable") else None,
        owner=given.text("--owner"), reason=given.text("--reason"),
    )  # fmt: skip


def _changed(given: Given, gone: list[str], name: str) -> str | None:
    if name in gone:
        return ""
    return given.text(f"--{name}") if given.has(f"--{name}") else None


def _uid(given: Given) -> int:
    return given.number("--uid", -1)


def _rate(given: Given) -> int:
    return int(given.text("--rate").removesuffix("/s")) if _is_rate(given.text("--rate")) else given.number("--rate")


def _is_rate(text: str) -> bool:
    """`50/s`, as people write it."""
    number = text.removesuffix("/s")
    return text != number and number.isascii() and number.isdigit() and len(number) <= 6


def _token(given: Given) -> ApplicationToken:
    return ApplicationToken(
        name=given.rest[0], seconds=given.seconds("--for", 3600), certificate=given.text("--certificate"),
        addresses=given.names("--address"), reason=given.text("--reason"),
    )  # fmt: skip


APPLICATIONS: Final = (
    Word(name="application list", about="programs that read secrets by the broker; yours, if you own some", here=True,
         ask=lambda _: ApplicationList()),
    Word(name="application show", arguments="NAME", about="what binds it, its tokens, how much it holds", here=True,
         ask=lambda given: ApplicationShow(name=given.rest[0])),
    Word(name="application add", arguments="NAME", about="one more; all bindings given must hold (administrators)",
         ask=_add, options=(*_BINDINGS, _RATE, _RENEWABLE, _OWNER, _WHY), here=True),
    Word(name="application set", arguments="NAME", about="other bindings (its owner), rate or owner", ask=_set,
         options=(*_BINDINGS, Option("--unbind", "take this binding away", value="WHICH", repeats=True), _RATE,
                  _RENEWABLE, _OWNER, _WHY), here=True),
    Word(name="application disable", arguments="NAME", about="it reads nothing any more, and its leases end", here=True,
         ask=lambda given: ApplicationSet(name=given.rest[0], disabled=True, reason=given.text("--reason")),
         options=(_WHY,)),
    Word(name="application enable", arguments="NAME", about="it may read again", here=True,
         ask=lambda given: ApplicationSet(name=given.rest[0], disabled=False, reason=given.text("--reason")),
         options=(_WHY,)),
    Word(name="application remove", arguments="NAME", about="with its tokens and what is shared with it", here=True,
         ask=lambda given: ApplicationRemove(name=given.rest[0], reason=given.text("--reason")), options=(_WHY,)),
    Word(name="application token", arguments="NAME", about="a token for HTTPS, bound to one place; shown once",
         ask=_token, here=True,
         options=(Option("--for", "how long; 1h when left out", value="1h"),
                  Option("--address", "good from there alone; may be repeated", value="NETWORK", repeats=True),
                  Option("--certificate", "good with this client certificate alone", value="SHA256"), _WHY)),
    Word(name="application revoke", arguments="NAME [ID]", about="take back a token or a lease, or all of them",
         ask=lambda given: ApplicationRevoke(name=given.rest[0], ident=given.word(1), reason=given.text("--reason")),
         options=(_WHY,), here=True),
    Word(name="application leases", arguments="[NAME]", about="what was read, and may be used for now", here=True,
         ask=lambda given: LeaseList(name=given.word(0))),
)  # fmt: skip
