"""What waits for a person, in lines for their terminal. Pure."""

from collections import Counter
from typing import Any, Final

from policy.messages import Rows

MOST: Final = 3
"""Lines about what ends soon, or was taken away: more of them would hide what the person came for."""

_COUNTED: Final = {
    "request": ("request", "waits for you", "wait for you", "ssh bastion requests"),
    "review": ("review", "is owed", "are owed", "ssh bastion review list"),
}


def lines(answer: Any) -> list[str]:
    """policyd's answer to Notices; nothing when it is a refusal."""
    if not isinstance(answer, Rows):
        return []
    rows = [dict(zip(answer.columns, cells, strict=False)) for cells in answer.rows]
    counts = Counter(row.get("kind", "") for row in rows)
    said = []
    for kind, (noun, one, many, command) in _COUNTED.items():
        if number := counts[kind]:
            said.append(f"{number} {noun}{'' if number == 1 else 's'} {one if number == 1 else many}: {command}")
    told = {kind: [f"{row.get('text', '')}: {row.get('command', '')}" for row in rows if row.get("kind") == kind]
            for kind in ("recovery", "taken", "checkout", "grant")}  # fmt: skip
    return said + told["recovery"] + (told["checkout"] + told["grant"])[:MOST] + told["taken"][:MOST]
