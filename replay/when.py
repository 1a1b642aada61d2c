"""Times as people write them in `--since` and `--until`. Pure."""

import re
from datetime import datetime, timedelta
from typing import Final

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def instant(text: str, now: datetime) -> int | None:
    """`2026-11-25`, `2026-11-25T16:00`, `16:00`, `3d`, `2h ago` -> microseconds since 1970; None if it is no time.

    Without a zone it is local time, which is `now`'s.
    """
    text = text.strip().lower().removesuffix(" ago")
    if ago := re.fullmatch(r"(\d{1,4})([smhdw])", text):
        return _us(now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}))
    if text in ("today", "yesterday"):
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return _us(midnight - timedelta(days=text == "yesterday"))
    if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text):
        text = f"{now:%Y-%m-%d}T{text:0>5}"
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    return _us(moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo))


def _us(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)
