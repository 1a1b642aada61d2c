"""A secret for policyd, from a person over ssh: typed unseen, or piped in."""

from typing import Final

import msgspec

from bastion.errors import MisuseError
from bastion.ssh import ask
from bastion.ssh.local import LocalChannel
from bastion.values import MAX_VALUE, brought
from policy.messages import AccountAdd, SecretAdd, SecretSet

MAX_SECRET: Final = 16 * 1024
"""Bytes of a piped secret; the private key of RSA with 16384 bits takes 13 KiB."""


async def with_secret(channel: LocalChannel, question: AccountAdd) -> AccountAdd:
    """A password typed unseen, or a password or private key piped in; never a word of the command, which is kept."""
    if ask.is_there(channel):
        text = await ask.line(channel, f"password of {question.account}@{question.target}: ", hidden=True) or ""
    else:
        piped = await _piped(channel, MAX_SECRET)
        text = piped.decode("utf-8", "replace") if len(piped) <= MAX_SECRET else ""
    if "PRIVATE KEY" in text:
        return msgspec.structs.replace(question, private_key=text)
    if not (password := text.partition("\n")[0].rstrip("\r")):
        raise MisuseError("no secret came", "pipe it in: ssh bastion account add ... < FILE, or say --user-ca")
    return msgspec.structs.replace(question, password=password)


async def with_value(channel: LocalChannel, question: SecretAdd | SecretSet, *, binary: bool) -> SecretAdd | SecretSet:
    """The value of a secret that people keep, typed unseen or piped in."""
    if ask.is_there(channel) and not binary:
        data = (await ask.line(channel, f"value of {question.name}: ", hidden=True) or "").encode()
    else:
        data = await _piped(channel, MAX_VALUE)
    return msgspec.structs.replace(question, value=brought(data, binary=binary))


async def _piped(channel: LocalChannel, most: int) -> bytes:
    """Up to the end of input; more than `most` if there was more, and then not all of it."""
    piped = b""
    while len(piped) <= most and (data := await channel.read()):
        piped += data
    return piped
