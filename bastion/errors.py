"""Four families of errors, by who is to blame, and the exit codes people meet.

PeerError      they broke the protocol, or cannot be reached
MisuseError    we called something wrongly: a bug of ours, never shown as theirs
Denied         policy said no, with a reason for the person
RecorderLost   the recording cannot go on: everything stops
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the bastion itself; 255 stays ssh's own. ansible reads 255 as unreachable, these as failed."""

    USAGE = 64
    UNREACHABLE = 69
    PENDING = 75
    RECORDING_FAILED = 76
    DENIED = 77
    MISCONFIGURED = 78


class BastionError(Exception):
    """`cause` says what happened; `hint` is the exact next command, or empty."""

    code: int = ExitCode.MISCONFIGURED

    def __init__(self, cause: str, hint: str = "", *, ref: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint
        self.ref = ref

    def lines(self) -> list[str]:
        """What a person sees, on standard error."""
        tail = f"  [{self.ref}]" if self.ref else ""
        return [f"bastion: {self.cause}{'' if self.hint else tail}"] + (
            [f"bastion: {self.hint}{tail}"] if self.hint else []
        )


class PeerError(BastionError):
    code = ExitCode.UNREACHABLE


class MisuseError(BastionError):
    code = ExitCode.USAGE


class Denied(BastionError):
    """`need` is what would turn it into leave: mfa, reason, ticket or approval; empty: nothing of these."""

    code = ExitCode.DENIED

    def __init__(
        self, cause: str, hint: str = "", *, ref: str = "", code: ExitCode = ExitCode.DENIED, need: str = ""
    ) -> None:
        super().__init__(cause, hint, ref=ref)
        self.code = code
        self.need = need


class RecorderLost(BastionError):
    code = ExitCode.RECORDING_FAILED
