"""Secrets as people bring them and as they are shown: bytes that come in, bytes that a terminal must not obey. Pure."""

import base64
from typing import Final

from bastion.errors import MisuseError
from bastion.text import neutral
from policy.messages import Revealed

MAX_VALUE: Final = 60 * 1024
"""Bytes of a secret: with all that is said about it, one message to policyd."""


def brought(data: bytes, *, binary: bool) -> bytes:
    """A secret that was piped in: every byte of it, or text without its last line break. MisuseError for none."""
    if len(data) > MAX_VALUE:
        raise MisuseError(f"the secret is longer than {MAX_VALUE // 1024} KiB")
    if not binary:
        try:
            data.decode()
        except UnicodeDecodeError:
            raise MisuseError("the secret is not text", "if it is right so: --binary") from None
        data = data.removesuffix(b"\n").removesuffix(b"\r")
    if not data:
        raise MisuseError("no secret came", "pipe it in: ... vault add NAME < FILE")
    return data


def for_terminal(answer: Revealed) -> str:
    """A secret as a person reads it, ending with a line break.

    Attack: a secret with escapes in it, which the terminal of whoever views it obeys.
    """
    try:
        text = answer.value.decode()
    except UnicodeDecodeError:
        text = "\x1b"
    if neutral(text, keep_lines=True) != text:
        return f"not plain text, so in base64: {base64.b64encode(answer.value).decode()}\n"
    return text if text.endswith("\n") else f"{text}\n"


def fields(answer: Revealed) -> dict[str, str]:
    """For JSON."""
    shown = {"name": answer.name, "kind": answer.kind, "version": str(answer.version)}
    try:
        shown["value"] = answer.value.decode()
    except UnicodeDecodeError:
        shown["value_base64"] = base64.b64encode(answer.value).decode()
    return shown | {"text": answer.text} | answer.data
