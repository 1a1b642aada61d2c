"""How sessions end, for their persons: an exit code, and what to do next. No asyncio."""

from typing import Final

from bastion.errors import BastionError, ExitCode

EXIT_OF: Final = {
    "killed": 143,  # 128 + SIGTERM, as a process that was told to go
    "expired": 143,
    "idle": 143,
    "shutdown": 143,
    "failed": int(ExitCode.RECORDING_FAILED),
    "target-lost": int(ExitCode.UNREACHABLE),
    "policy-lost": int(ExitCode.UNREACHABLE),
}


HINT_OF: Final = {
    "killed": "ask who ended it before you log in again",
    "expired": "log in again if you need more time",
    "idle": "log in again",
    "shutdown": "log in again in a moment",
    "failed": "log in again, or tell the people who run this bastion",
    "target-lost": "log in again, or ask whoever runs that machine",
    "policy-lost": "log in again in a moment, or tell the people who run this bastion",
}


WORDS_OF: Final = {"expired": "the time granted for this session is over", "idle": "nothing was typed for too long"}


class SessionOver(BastionError):
    """How a session ended, for its person."""

    def __init__(self, reason: str, text: str, session: str) -> None:
        super().__init__(f"session ended: {text or reason}", HINT_OF.get(reason, ""), ref=session)
        self.code = EXIT_OF.get(reason, int(ExitCode.UNREACHABLE))
