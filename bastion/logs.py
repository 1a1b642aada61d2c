"""Log lines: one JSON object each for machines, text for a person at a terminal."""

import json
import logging
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

from bastion.text import neutral

_COLOURS = {"error": "\x1b[31m", "critical": "\x1b[31m", "warning": "\x1b[33m"}


def log_json() -> None:
    """For a process of its own: one event, one line of JSON on standard error. Exceptions bring no values along."""
    # structlog would load rich, for tracebacks on a terminal: 6.6 MiB and 0.15 s of every daemon, and values shown.
    sys.modules["rich.console"] = sys.modules["rich.pretty"] = None  # type: ignore[assignment]
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


@dataclass
class Log:
    """Where the supervisor writes its own lines and, on a terminal, those of its children."""

    stream: TextIO
    terminal: bool = field(init=False)

    def __post_init__(self) -> None:
        self.terminal = self.stream.isatty()

    def say(self, level: str, event: str, **fields: object) -> None:
        entry = {"timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                 "level": level, "event": event, "process": "supervisor", **fields}  # fmt: skip
        line = json.dumps(entry)
        self.write(render(line.encode(), "supervisor") if self.terminal else line)

    def write(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()


def render(line: bytes, source: str) -> str:
    """`14:02:11 policyd    login refused  person=alice`; what is no JSON object stays as it is, made harmless."""
    text = line.decode(errors="replace")
    try:
        entry: Any = json.loads(text)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        return f"         {source:<10} {neutral(text)}"
    when = str(entry.pop("timestamp", ""))[11:19]
    level, event = str(entry.pop("level", "")), str(entry.pop("event", ""))
    entry.pop("process", None)
    pairs = " ".join(f"{neutral(str(name))}={neutral(str(value))}" for name, value in entry.items())
    colour = _COLOURS.get(level, "")
    return f"{neutral(when):<8} {source:<10} {colour}{neutral(event)}{colour and chr(27) + '[0m'}" + (
        f"  \x1b[2m{pairs}\x1b[0m" if pairs else ""
    )
