"""Text from outside made safe to show, and figures made easy to read. Pure."""

import unicodedata
from datetime import UTC, datetime


def neutral(text: str | bytes, limit: int = 4096) -> str:
    """Text from targets, users and files on one line: control and format characters become escapes.

    A file name with `ESC ] 52` would otherwise write the auditor's clipboard, U+202E would turn a line around.
    Bytes that are not UTF-8 show as `\\xff`. Longer than `limit` characters is cut, so that no name floods a table.
    """
    if isinstance(text, bytes):
        text = text[: limit * 4].decode("utf-8", "surrogateescape")
    cut = len(text) > limit
    shown = "".join(char if unicodedata.category(char)[0] not in "CZ" or char == " " else _escape(char)
                    for char in text[:limit])  # fmt: skip
    return shown + ("…" if cut else "")


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that was not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    if unicodedata.category(char) == "Zs":  # a wide or no-break space shows as a space, and spoofs nothing
        return " "
    return char.encode("unicode_escape", "backslashreplace").decode()


def size(count: int) -> str:
    """Bytes for people: `812 B`, `1.4 KiB`, `20 MiB`."""
    if count < 1024:
        return f"{count} B"
    amount, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"


def span(ms: int) -> str:
    """A length: `0.4s`, `12s`, `3m05s`, `2h10m`."""
    seconds = ms // 1000
    if ms < 10_000:
        return f"{ms / 1000:.1f}s"
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds // 3600}h{seconds // 60 % 60:02}m"


def clock(ms: int, *, fine: bool = False) -> str:
    """A place in a recording: `1:02`, `1:00:00`; with `fine` also milliseconds."""
    seconds = ms // 1000
    hours, minutes = seconds // 3600, seconds // 60 % 60
    text = f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
    return f"{text}.{ms % 1000:03}" if fine else text


def wall(us: int) -> str:
    """Microseconds since 1970 as local time, `2026-11-25 16:47:03`; a time no calendar has shows as a number."""
    try:
        return datetime.fromtimestamp(us / 1_000_000).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{us} us"


def iso(us: int) -> str:
    """The same in UTC, for machines; empty if no calendar has it."""
    try:
        return datetime.fromtimestamp(us / 1_000_000, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return ""


def moment(text: str) -> int | None:
    """`90`, `1:30`, `1:00:00`, `2.5` -> milliseconds; None if it is no place in a recording."""
    parts = text.strip().split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return None
    if len(parts) > 3 or not all(0 <= number < 1e7 for number in numbers):
        return None
    seconds = 0.0
    for number in numbers:
        seconds = seconds * 60 + number
    return round(seconds * 1000)
