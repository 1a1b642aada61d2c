"""The folder of recordings, for those who read it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from recorder import nodelog
from recorder.codec import FormatError
from recorder.nodelog import Entry, What
from recorder.reader import RecordingError

_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_FILE: Final = re.compile(r"([0-9a-f]{32})\.brec")
_PREFIX: Final = re.compile(r"[0-9a-f]{1,32}")
SHOWN: Final = 5
"""Candidates named when a prefix fits several."""


class Store:
    """Recordings below `directory`. Ignores what is no recording; follows no link."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def recordings(self) -> Iterator[Path]:
        """Newest first, as their ids sort."""
        for day in self._names(self.directory, _DAY):
            for name in self._names(self.directory / day, _FILE):
                yield self.directory / day / name

    def find(self, prefix: str) -> Path:
        """The one recording whose session begins so. RecordingError."""
        text = prefix.lower().replace("-", "")
        if not _PREFIX.fullmatch(text):
            raise RecordingError("a session id is hexadecimal, or a beginning of it", "list them: replay ls")
        found = [path for path in self.recordings() if path.name.startswith(text)]
        if not found:
            raise RecordingError(f"no recording begins with `{text}`", "list what is there: replay ls")
        if len(found) > 1:
            some = ", ".join(path.stem for path in found[:SHOWN])
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise RecordingError(f"`{text}` fits {len(found)} recordings: {some}{more}", "give more of the id")
        return found[0]

    def log(self, node_key: bytes | None = None) -> list[Entry]:
        """What the node says it has recorded; RecordingError if its log cannot be believed."""
        path = self.directory / nodelog.LOG
        try:
            return list(nodelog.entries(path, node_key))
        except FileNotFoundError:
            raise RecordingError(
                f"`{path}` is not there", "restore it: without it nobody knows what is missing"
            ) from None
        except OSError as error:
            raise RecordingError(
                f"`{path}`: {(error.strerror or str(error)).lower()}", "ask for access to it"
            ) from None
        except FormatError as error:
            raise RecordingError(f"`{path}`: {error}", "compare it with a copy kept elsewhere") from None

    def missing(self, node_key: bytes | None = None) -> list[str]:
        """Sessions that the log knows and the folder does not have, oldest first; those removed on purpose apart."""
        opened = {}
        for entry in self.log(node_key):
            if entry.what == What.OPENED:
                opened[entry.session] = entry.file
            elif entry.what == What.REMOVED:
                opened.pop(entry.session, None)
        return [session for session, file in opened.items() if not self._has(session, file)]

    def _has(self, session: str, file: str) -> bool:
        day, _, name = file.partition("/")
        return bool(_DAY.fullmatch(day)) and name == f"{session}.brec" and (self.directory / day / name).is_file()

    @staticmethod
    def _names(folder: Path, shape: re.Pattern[str]) -> list[str]:
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if shape.fullmatch(entry.name) and not entry.is_symlink()]
        except NotADirectoryError:
            return []
        except FileNotFoundError:
            raise RecordingError(f"`{folder}` is not there", "name the folder of recordings: --directory DIR") from None
        except PermissionError:
            raise RecordingError(f"`{folder}` may not be read by you", "ask for membership in its group") from None
        return sorted(names, reverse=True)
