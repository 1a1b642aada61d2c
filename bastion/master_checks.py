"""What `[policy] master_key` says against what is there. policyd reads it for itself; this is for people, before."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

WANT: Final = "`file:PATH`, `credential:NAME`, `passphrase:`, `pkcs11:...` or `transit:https://...`"
TOKEN: Final = "`pkcs11:token=LABEL;object=LABEL?module-path=/MODULE.so&pin-source=file:PATH`"
TRANSIT: Final = "`transit:https://HOST/v1/transit/keys/NAME?token=file:PATH&share=file:PATH`"

Found = tuple[str, str, str]
"""What is wrong, got, want."""
Private = Callable[[Path], Found | None]
"""What is wrong with a file that others must not read."""


def problems(where: str, state: Path, private: Private) -> Iterator[Found]:
    """`where`'s paths count from `state`. Of credentials nothing can be said: they exist inside the unit alone."""
    kind, _, rest = where.partition(":")
    match kind:
        case "file" if rest:
            yield from _secrets([where], state, private)
        case "credential" if rest:
            pass
        case "passphrase" if not rest:
            pass
        case "pkcs11":
            path, _, query = rest.partition("?")
            parts = dict(part.partition("=")[::2] for part in (*path.split(";"), *query.split("&")))
            if sorted(parts) != ["module-path", "object", "pin-source", "token"] or not all(parts.values()):
                yield "no key on a token", _shown(where), TOKEN
                return
            module = Path(unquote(parts["module-path"]))
            if not module.is_file():
                yield f"`{module}` is not there", "", "the module of the token's maker"
            yield from _secrets([unquote(parts["pin-source"])], state, private)
        case "transit":
            url = urlsplit(rest)
            options = dict(parse_qsl(url.query, keep_blank_values=True))
            known = {"token", "share"} <= set(options) <= {"token", "share", "ca", "namespace"}
            if url.scheme != "https" or not re.fullmatch(r"/v1/[\w./-]+/keys/[\w.-]+", url.path) or not known:
                yield "no key of a transit server", _shown(where), TRANSIT
                return
            yield from _secrets([options["token"], options["share"]], state, private)
            if (ca := options.get("ca")) and not (state / ca).is_file():
                yield f"`{state / ca}` is not there", "", "CAs in PEM"
        case _:
            yield "unknown source", f"`{kind[:20]}:`", WANT


def _secrets(places: list[str], state: Path, private: Private) -> Iterator[Found]:
    for place in places:
        kind, _, name = place.partition(":")
        if kind == "file" and name:
            if (found := private(state / name)) is not None:
                yield found
        elif kind != "credential" or not name:
            yield "unknown source of a secret", _shown(place), "`file:PATH` or `credential:NAME`"


def _shown(text: str) -> str:
    return f"`{text[:60]}`"
