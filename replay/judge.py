"""Verify recordings one after the other, and say in one exit code what came out."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from recorder.codec import FormatError
from recorder.reader import RecordingError, open_recording, verify, verify_content
from recorder.store import Store

Progress = Callable[[int], None]

LOG: Final = "node.log"
"""The node's list of its recordings, beside them."""


class Verified(IntEnum):
    """Exit codes of `replay verify`; of several recordings the gravest counts."""

    OK = 0
    ALTERED = 1
    TRUNCATED = 2  # or still open
    MISSING = 3


GRAVEST: Final = (Verified.ALTERED, Verified.MISSING, Verified.TRUNCATED, Verified.OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """About one recording. `status`: ok, open, truncated, altered, missing. `at`: byte where it ceases to be good."""

    session: str
    file: str
    status: str
    at: int | None = None
    problems: list[str] = field(default_factory=list)
    seals: int = 0
    bytes: int = 0
    content: bool = False  # the events were decrypted and compared with the seals, too

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def code(self) -> Verified:
        codes = {"ok": Verified.OK, "altered": Verified.ALTERED, "missing": Verified.MISSING}
        return codes.get(self.status, Verified.TRUNCATED)


def gravest(findings: Iterable[Finding]) -> Verified:
    """The exit code for all of them."""
    codes = {finding.code for finding in findings}
    return next((code for code in GRAVEST if code in codes), Verified.OK)


def judge(path: Path, node_key: bytes | None, keys: list[Any], progress: Progress) -> Finding:
    """One file. With a key for every class the content is compared, too."""
    session = path.name.partition(".")[0]
    try:
        verdict = verify(path, node_key, progress)
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        return Finding(session=session, file=str(path), status="altered", at=0, problems=[f"cannot read it: {cause}"])
    problems, status, content = list(verdict.problems), verdict.status, False
    if keys and status in ("ok", "open"):
        try:
            recording = open_recording(path, keys)
            content = recording.keys is not None and recording.keys.content is not None
            wrong = verify_content(recording) if content else []
        except (RecordingError, FormatError) as error:
            wrong = [str(error)]
        if wrong:
            status, problems = "altered", problems + wrong
    return Finding(
        session=session, file=str(path), status=status, at=verdict.at, problems=problems, seals=verdict.seals,
        bytes=verdict.bytes, content=content,
    )  # fmt: skip


def missing(store: Store, node_key: bytes | None) -> Iterator[Finding]:
    """Recordings that the node's own list knows and the folder lacks; the list itself, if it cannot be believed."""
    log = store.directory / LOG
    try:
        gone = store.missing(node_key)
    except RecordingError as error:
        status = "altered" if log.exists() else "missing"
        yield Finding(session=LOG, file=str(log), status=status, problems=[error.cause, error.hint])
        return
    for session in gone:
        problem = "the node's list has it, the folder does not"
        yield Finding(session=session, file="", status="missing", problems=[problem])
