"""Text from outside, made safe to show. Pure."""

import unicodedata


def neutral(text: str, *, keep_lines: bool = False) -> str:
    """Text from targets, users and files, safe on a terminal: control and format characters become escapes.

    A host name with `ESC ] 52` would otherwise write the operator's clipboard, U+202E would turn a line around.
    """
    return "".join(
        char
        if not _acts(unicodedata.category(char)) or (keep_lines and char == "\n")
        else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def _acts(category: str) -> bool:
    """Controls, formats, surrogates, unassigned; line and paragraph separators, which browsers and editors obey."""
    return category[0] == "C" or category in ("Zl", "Zp")
