"""What came of a password changed in a directory, in the words of a gateway worker's answers. Pure."""

from typing import Final

from policy.messages import Called, Worked
from policy.messages.rotation import DONE, REFUSED, UNKNOWN, UNREACHABLE
from policy.outside.couriers import TOO_BUSY

TOLD: Final = "told"
INVALID_CREDENTIALS: Final = 49
_NOT_NOW: Final = frozenset((51, 52))  # busy, unavailable (RFC 4511 appendix A.2)
_CODES: Final = {
    19: "it breaks a rule of the directory for passwords", 32: "there is no such entry",
    INVALID_CREDENTIALS: "the login does not open", 50: "the login may not do this",
    53: "the directory is not willing to",
}  # fmt: skip


def judged(answer: Called) -> Worked:
    """Of an LdapPassword. Without a word of the courier nobody knows what it did."""
    told = answer.values[:1] == [TOLD]
    text = "".join(char for char in "; ".join(answer.values[1:2]) if char.isprintable())
    if answer.error:
        # INVARIANT: only a courier that says so itself has told nothing; no answer is no such word.
        asked = not answer.task and answer.error != TOO_BUSY
        return Worked(task=0, outcome=UNKNOWN if told or asked else UNREACHABLE, detail=answer.error)
    if not answer.status:
        return Worked(task=0, outcome=DONE if told else UNREACHABLE)
    why = _CODES.get(answer.status, f"LDAP result {answer.status}")
    if told and answer.status in _NOT_NOW:
        return Worked(task=0, outcome=UNKNOWN, detail=text or why)
    return Worked(task=0, outcome=REFUSED, detail=f"{why}: {text}" if text else why)


def verified(answer: Called) -> Worked:
    """Of an LdapCall that only binds. What is neither a yes nor a no to the password proves nothing."""
    if answer.error:
        return Worked(task=0, outcome=UNREACHABLE, detail=answer.error)
    if not answer.status:
        return Worked(task=0, outcome=DONE)
    why = _CODES.get(answer.status, f"LDAP result {answer.status}")
    return Worked(task=0, outcome=REFUSED if answer.status == INVALID_CREDENTIALS else UNREACHABLE, detail=why)
