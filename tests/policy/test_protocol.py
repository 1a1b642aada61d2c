"""PROTOCOL.md says what the program does: its examples, its table, its messages."""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from policy import messages as m
from policy.conversation import State
from policy.model import Method, Outcome, ViewVerb
from policy.monitor import COMMANDS, TABLE

TEXT = (Path(__file__).parents[2] / "policy" / "PROTOCOL.md").read_text()
EXAMPLES: dict[str, tuple[int, Any]] = {
    "Worker": (1, m.Worker(pid=4711)),
    "Done": (1, m.Done(text="")),
    "OfferKey": (2, m.OfferKey(person="alice", blob=b"\x00\x00\x00\x0bssh-ed25519")),
    "Acceptable": (2, m.Acceptable(ok=True)),
    "Verdict": (3, m.Verdict(outcome=Outcome.MORE, next=[Method.CODE])),
    "OpenChannel": (7, m.OpenChannel(session="0" * 32, kind="exec", detail="uptime")),
    "Refused": (7, m.Refused(code=77, cause="no", hint="ask", ref="1f2e3d4c")),
    "EndSession": (0, m.EndSession(session="0" * 32, by="sue", reason="odd")),
    "Viewing": (1, m.Viewing(verb=ViewVerb.PLAY, recordings=["0" * 32], range="from 1:30", reason="odd")),
    "Noted": (1, m.Noted(event=4711, who="uid sue")),
}


def hex_of(name: str) -> bytes:
    found = re.search(rf"^### {name}\n\n```hex\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"no example of {name}"
    digits = re.sub(r"#.*", "", found[1])
    return bytes.fromhex(digits)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_what_is_sent(name):
    ident, body = EXAMPLES[name]
    data = hex_of(name)
    assert data == m.encode(ident, body)
    decode = m.decode_request if isinstance(body, get_args(m.Request)) else m.decode_reply
    assert decode(data) == (ident, body)


def test_the_table_is_that_of_the_monitor():
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*?) \|$", TEXT, re.MULTILINE)
    written = {state: {*re.findall(r"`(\w+)`", names), *["*"] * ("commands" in names)} for state, names in rows}
    commands = {kind.__name__ for kind in COMMANDS}
    for state in State:
        names = {kind.__name__ for kind in TABLE[state]}
        if commands <= names:
            names = names - commands | {"*"}
        assert written[state] == names, state


def described(kind: type[msgspec.Struct]) -> str:
    """`Name(field: type = default)` of one message."""
    fields = []
    for field in msgspec.structs.fields(kind):
        shown = re.sub(r"(\w+\.)+", "", getattr(field.type, "__name__", str(field.type)))
        if "[" in str(field.type) or "|" in str(field.type):
            shown = re.sub(r"(\w+\.)+", "", str(field.type))
        default = ""
        if field.default is not msgspec.NODEFAULT:
            default = f" = {field.default!r}"
        elif field.default_factory is not msgspec.NODEFAULT:
            default = f" = {field.default_factory()!r}"
        fields.append(f"{field.name}: {shown}{default}")
    return f"{kind.__name__}({', '.join(fields)})"


def test_the_messages_are_those_of_the_program():
    found = re.search(r"^```messages\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    wanted = [described(kind) for kind in (*get_args(m.Request), *get_args(m.Reply))]
    assert found[1].splitlines() == wanted, "\n" + "\n".join(wanted)


def test_every_command_says_who_may():
    rows = re.findall(r"^\| ([^|]*`\w+`[^|]*) \| (nobody's leave|`[a-z-]+`) \|$", TEXT, re.MULTILINE)
    written = {name: right.strip("`") for names, right in rows for name in re.findall(r"`(\w+)`", names)}
    assert written == {kind.__name__: entry.right or "nobody's leave" for kind, entry in COMMANDS.items()}
