"""`passwd` and `chpasswd` on a target. Pure: see `deeds`.

`passwd` is talked to: whoever answers before it asks may be overheard by an echo, or answer another question. It asks
for the old password, the new one, and the new one again, in words that differ from system to system and are English
under LC_ALL=C. It is run without a terminal first, and on one if it ends without having asked anything (BSD, an
account that has to change its password at once).
"""

import re
from typing import Final

from bastion.ssh.hands.deeds import (
    Deed,
    Effects,
    EndInput,
    HangUp,
    Hearing,
    Result,
    Type,
    check_account,
    check_password,
    refused,
)
from policy.messages.rotation import DONE, UNKNOWN, UNREACHABLE

MAX_OUTPUT: Final = 64 * 1024
"""Bytes that either may say: a long message of the day, and no flood."""
NOT_FOUND: Final = 127  # exit status of every shell for a command that is not there

_LINE: Final = 512  # bytes of a line that may be a prompt
# Shared by RHEL, Debian, SUSE, Alpine and busybox, the BSDs, Solaris, AIX, SSSD and Kerberos.
_COLOUR: Final = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_AGAIN: Final = re.compile(rb"\b(re-?type|re-?enter|again|repeat|confirm|verify)", re.IGNORECASE)
_OLD: Final = re.compile(rb"\b(current|old|existing|present)\b", re.IGNORECASE)
_NEW: Final = re.compile(rb"\bnew\b", re.IGNORECASE)
_OTHER: Final = re.compile(rb"password|passphrase|passcode|otp|token", re.IGNORECASE)
_TROUBLE: Final = re.compile(rb"BAD PASSWORD|error", re.IGNORECASE)

_LOST: Final = "the line broke after the new password was said"


class Passwd:
    """The account changes its own password. `old` may be empty: then a target that asks for it is refused."""

    command = b"exec env LC_ALL=C LANGUAGE=C passwd"
    limit = MAX_OUTPUT

    def __init__(self, old: bytes, new: bytes, *, terminal: bool = False) -> None:
        self._old, self._new = old and check_password(old), check_password(new)
        self.terminal = terminal
        self.told = False
        self.secrets: tuple[bytes, ...] = (new, old)
        self._hearing = Hearing(self.secrets)
        self._line = b""
        self._asked: set[str] = set()
        self._failed = ""  # why we left

    def begun(self) -> Effects:
        return ()

    def heard(self, data: bytes, *, error: bool) -> Effects:
        self._hearing.add(data)
        line = (self._line + data)[-_LINE:]
        self._line = line[max(line.rfind(b"\n"), line.rfind(b"\r")) + 1 :]
        # No expression that looks for the end from each beginning: fuzzing found what that costs.
        prompt = _COLOUR.sub(b"", self._line).rstrip(b" \t")
        if self._failed or not prompt.endswith(b":"):
            return ()
        return self._answer(prompt[:-1])

    def _answer(self, prompt: bytes) -> Effects:
        last = prompt.rpartition(b":")[2]
        if _TROUBLE.search(last):
            return ()  # `BAD PASSWORD:` and half a sentence
        if _AGAIN.search(prompt):
            kind, secret = "again", self._new if "new" in self._asked else b""
        elif _OLD.search(prompt):
            kind, secret = "old", b"" if "new" in self._asked else self._old
        elif _NEW.search(prompt):
            kind, secret = "new", self._new
        elif _OTHER.search(last):
            return self._leave("it asks for something else")
        else:
            return ()  # no prompt for a secret: part of a message
        if kind in self._asked:
            return self._leave("it did not take what was said")  # the same question again: PAM starts over
        if not secret:
            return self._leave("it asks for the password in force" if kind == "old" else "it asks in another order")
        self._asked.add(kind)
        self.told = self.told or kind == "new"
        self._line = b""
        self._hearing.drop_line()
        return (Type(secret, secret=True), Type(b"\n"))

    def _leave(self, why: str) -> Effects:
        self._failed = why
        self._hearing.drop_line()
        return (Type(b"\x03"), HangUp()) if self.terminal else (EndInput(),)

    def ended(self, status: int | None) -> "Result | Deed":
        detail = self._hearing.detail
        if self._failed:
            return refused(detail(self._failed))
        if status is None:
            return Result(UNKNOWN, detail(_LOST)) if self.told else Result(UNREACHABLE, detail("it said nothing"))
        if not self._asked and not self.terminal and status not in (0, NOT_FOUND):
            return Passwd(self._old, self._new, terminal=True)
        if status == 0 and self.told:
            return Result(DONE, detail(""))
        return refused(detail("it asked for no new password" if status == 0 else f"passwd ended with {status}"))


class Chpasswd:
    """A privileged account sets another's password: root by right, anybody else by a sudo that asks for nothing."""

    # /usr/sbin is not in everybody's PATH; the words are the same in sh, csh and fish.
    command = (
        b"exec env LC_ALL=C sh -c "
        b"'PATH=$PATH:/usr/sbin:/sbin; if [ $(id -u) = 0 ]; then exec chpasswd; else exec sudo -n chpasswd; fi'"
    )
    terminal = False
    limit = MAX_OUTPUT

    def __init__(self, account: str, new: bytes) -> None:
        self._account, self._new = check_account(account), check_password(new, forbidden=b":")
        self.told = False
        self.secrets: tuple[bytes, ...] = (new,)
        self._hearing = Hearing(self.secrets)

    def begun(self) -> Effects:
        self.told = True
        return (Type(self._account.encode("ascii") + b":"), Type(self._new, secret=True), Type(b"\n"), EndInput())

    def heard(self, data: bytes, *, error: bool) -> Effects:
        self._hearing.add(data)
        return ()

    def ended(self, status: int | None) -> Result:
        if status is None:
            return Result(UNKNOWN if self.told else UNREACHABLE, self._hearing.detail(_LOST))
        if status == 0:
            return Result(DONE, self._hearing.detail(""))
        return refused(self._hearing.detail(f"chpasswd ended with {status}"))
