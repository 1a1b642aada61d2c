"""One line of `replay ls` for a recording, and which recordings are meant."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from recorder.reader import Recording
from replay.facts import gather
from replay.text import iso

SCANNED: Final = 20_000
"""Events read of each recording for the list: some minutes of a busy screen, a hundredth of a second here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the list says about one recording. `kinds_partial`: only its first events were read."""

    session: str
    file: Path
    t0_us: int
    duration_ms: int
    private: dict[str, str] | None  # None: encrypted, no key
    public: dict[str, str]
    kinds: list[str]
    kinds_partial: bool
    denied: bool
    state: str  # complete | open
    reason: str  # how it ended, if that was read
    size: int

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        private = self.private or {}
        return {
            "session": self.session,
            "start": iso(self.t0_us),
            "seconds": self.duration_ms / 1000,
            "person": private.get("person", ""),
            "account": private.get("account", ""),
            "target": private.get("target", ""),
            "source": private.get("source", ""),
            "kinds": self.kinds,
            "denied": self.denied,
            "state": self.state,
            "ended": self.reason,
            "size": self.size,
            "encrypted": self.private is None,
            "file": str(self.file),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Filters; empty or None: all. Times in microseconds since 1970."""

    person: str = ""
    target: str = ""
    account: str = ""
    since: int | None = None
    until: int | None = None

    def header(self, recording: Recording) -> bool:
        """True if the header of `recording` fits. What cannot be read cannot be told to fit."""
        if self.since is not None and recording.t0_us < self.since:
            return False
        if self.until is not None and recording.t0_us >= self.until:
            return False
        private = recording.private or {}
        return all(
            not wanted or private.get(name) == wanted
            for name, wanted in (("person", self.person), ("target", self.target), ("account", self.account))
        )


def row(recording: Recording, file: Path, *, whole: bool) -> Row:
    """Read what the list needs; `whole`: every event, because a filter asks about them."""
    events = recording.events() if recording.private is not None else iter(())
    facts = gather(events if whole else islice(events, SCANNED))
    return Row(
        session=recording.session,
        file=file,
        t0_us=recording.t0_us,
        duration_ms=recording.duration_ms,
        private=recording.private,
        public=recording.public,
        kinds=facts.kinds,
        kinds_partial=not whole and facts.events == SCANNED,
        denied=facts.denied,
        state="complete" if recording.complete else "open",
        reason=facts.end[1].reason if facts.end else "",
        size=recording.size,
    )
