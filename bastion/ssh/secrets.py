"""A secret for policyd, from a person over ssh: typed unseen, or piped in."""

from typing import Final

import msgspec

from bastion.errors import MisuseError
from bastion.ssh import ask
from bastion.ssh.local import LocalChannel
from policy.messages import AccountAdd

MAX_SECRET: Final = 16 * 1024
"""Bytes of a piped secret; the private key of RSA with 16384 bits takes 13 KiB."""


async def with_secret(channel: LocalChannel, question: AccountAdd) -> AccountAdd:
    """A password typed unseen, or a password or private key piped in; never a word of the command, which is kept."""
    if ask.is_there(channel):
        text = await ask.line(channel, f"password of {question.account}@{question.target}: ", hidden=True) or ""
    else:
        piped = b""
        while len(piped) <= MAX_SECRET and (data := await channel.read()):
            piped += data
        text = piped.decode("utf-8", "replace") if len(piped) <= MAX_SECRET else ""
    if "PRIVATE KEY" in text:
        return msgspec.structs.replace(question, private_key=text)
    if not (password := text.partition("\n")[0].rstrip("\r")):
        raise MisuseError("no secret came", "pipe it in: ssh bastion account add ... < FILE, or say --user-ca")
    return msgspec.structs.replace(question, password=password)
