"""What can go wrong for an auditor, in two lines: the cause, then the exact next command."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command but `verify`, which has its own (see `replay.judge`)."""

    USAGE = 64
    UNREACHABLE = 69  # there is no such recording, or it cannot be read
    DENIED = 77  # policyd does not let this user view recordings
    MISCONFIGURED = 78


class ReplayError(Exception):
    """`cause` says what happened; `hint` is the exact next command, or empty."""

    code = ExitCode.UNREACHABLE

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint

    def lines(self) -> list[str]:
        return [f"replay: {self.cause}"] + ([f"replay: {self.hint}"] if self.hint else [])


class MisuseError(ReplayError):
    """They called us wrongly."""

    code = ExitCode.USAGE


class PlaceError(ReplayError):
    """The configuration or the folder of recordings is not what it should be."""

    code = ExitCode.MISCONFIGURED
