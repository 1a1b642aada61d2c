"""Secrets as they are brought and shown."""

import base64
import json

import pytest

from bastion.errors import MisuseError
from bastion.present import as_json, as_text
from bastion.values import MAX_VALUE, brought, for_terminal
from policy.messages import Revealed


def secret(value: bytes) -> Revealed:
    return Revealed(name="a/b", kind="generic", version=2, value=value, text="`a/b`", data={"owner": "alice"})


@pytest.mark.parametrize(
    ("data", "binary", "value"),
    [(b"x\n", False, b"x"), (b"x\r\n", False, b"x"), (b"x\n\n", False, b"x\n"), (b" x ", False, b" x "),
     (b"x\n", True, b"x\n"), (b"\xff\0", True, b"\xff\0"), (b"x" * MAX_VALUE, True, b"x" * MAX_VALUE)],
)  # fmt: skip
def test_what_is_brought(data: bytes, binary: bool, value: bytes) -> None:
    assert brought(data, binary=binary) == value
    with pytest.raises(MisuseError):
        brought(data + b"x" * (MAX_VALUE + 1), binary=binary)


@pytest.mark.parametrize(("data", "binary"), [(b"", False), (b"\n", False), (b"", True), (b"\xff", False)])
def test_what_is_none(data: bytes, binary: bool) -> None:
    with pytest.raises(MisuseError):
        brought(data, binary=binary)


@pytest.mark.parametrize("value", [b"\x1b[2J", b"a\rb", "a\u202eb".encode(), b"\xff", b"\x9b2J", b"a\tb"])
def test_a_terminal_obeys_no_secret(value: bytes) -> None:
    shown = for_terminal(secret(value))
    assert shown == f"not plain text, so in base64: {base64.b64encode(value).decode()}\n"
    assert as_text(secret(value), 80) == shown


@pytest.mark.parametrize(("value", "shown"), [(b"x", "x\n"), (b"x\n", "x\n"), ("pä\nß".encode(), "pä\nß\n")])
def test_plain_text_is_shown_as_it_is(value: bytes, shown: str) -> None:
    assert for_terminal(secret(value)) == shown


def test_for_programs() -> None:
    assert json.loads(as_json(secret(b"x"))) == {
        "name": "a/b", "kind": "generic", "version": "2", "value": "x", "text": "`a/b`", "owner": "alice",
    }  # fmt: skip
    assert json.loads(as_json(secret(b"\xff")))["value_base64"] == "/w=="


def test_its_repr_shows_nothing() -> None:
    assert "canary" not in repr(secret(b"canary"))
