"""Guards of what auditors look through: no escape reaches their terminal, no damaged recording passes for whole."""

# fmt: off
from typing import Final

from tests.mutation.mutant import Mutant, guards

GUARDS: Final[list[Mutant]] = [
    *guards(
        "replay/safe.py", "tests/replay/test_safe.py",
        ('return f"\\x1b[{body}m" if _COLOURS.fullmatch(body) else ""', 'return f"\\x1b[{body}m"',
         "private parameters of colours", "test_hostile_sequences_do_nothing"),
        ('if not _NUMBERS.fullmatch(body):\n            return ""', "", "numbers that crash a terminal",
         "test_hostile_sequences_do_nothing"),
        ('return f"\\x1b[{final}" if not body else ""', 'return f"\\x1b[{body}{final}"',
         "margins of the auditor's terminal", "test_hostile_sequences_do_nothing"),
        ('return f"\\x1b[{body}T" if ";" not in body else ""', 'return f"\\x1b[{body}T"', "mouse tracking",
         "test_hostile_sequences_do_nothing"),
        ('if final == "J" and body not in ("", "0", "1", "2"):', "if False:", "the auditor's scrollback is erased",
         "test_hostile_sequences_do_nothing"),
        ('if final not in _PLAIN:\n            return ""', "",
         "a terminal answers into the auditor's shell (CVE-2022-45063)", "test_hostile_sequences_do_nothing"),
        ('for mode in body[1:].split(";") if mode in _PRIVATE_MODES]', 'for mode in body[1:].split(";")]',
         "mouse, paste and focus modes", "test_hostile_sequences_do_nothing"),
        ('return f"\\x1b[4{final}" if body == "4" else ""', 'return f"\\x1b[{body}{final}"', "the auditor's Enter key",
         "test_hostile_sequences_do_nothing"),
        ('if final == "c":', "if False:", "a full reset of the auditor's terminal",
         "test_a_full_reset_becomes_an_empty_picture"),
        ('return f"\\x1b{final}" if final in _ESCAPES else ""', 'return f"\\x1b{final}"',
         "escapes that answer or change keys", "test_hostile_sequences_do_nothing"),
        ('if between in ("(", ")") and final in _CHARSETS:', 'if between in ("(", ")", "*", "+", "-", ".", "/"):',
         "character sets that stay", "test_hostile_sequences_do_nothing"),
        ("return self._placed(body, final) if self._rows else", "return", "the picture leaves its rows",
         "test_rows_hold_the_picture"),
    ),
    *guards(
        "replay/escapes.py", "tests/replay/test_safe.py",
        ('_BIDI = "\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069"', '_BIDI = "\\u061c"',
         "CVE-2021-42574: text that is turned around", "test_hostile_sequences_do_nothing"),
        ('elif char in "]PX^_":', 'elif char in "]PX^":', "an APC string reaches the terminal",
         "test_hostile_sequences_do_nothing"),
        ('elif char in "]PX^_":', 'elif char in "PX^_":', "ESC ] 52 writes the clipboard",
         "test_hostile_sequences_do_nothing"),
        ('elif char == "k":\n            self._enter(_TITLE)', "elif False:\n            self._enter(_TITLE)",
         "a title of screen and tmux", "test_hostile_sequences_do_nothing"),
    ),
    *guards(
        "replay/judge.py", "tests/replay/test_verify.py",
        ("codes = {finding.code for finding in findings}", "codes = {finding.code for finding in [*findings][:1]}",
         "one good recording hides the others", "test_the_gravest_finding_is_the_exit_code"),
        ('        status = "altered" if log.exists() else "missing"', '        status = "ok"', "an altered list",
         "test_an_altered_list_is_found"),
        ("    for session in gone:", "    for session in []:", "a recording that was removed",
         "test_a_missing_recording_is_named"),
        ("verdict = verify(path, node_key, progress)", "verdict = verify(path, None, progress)",
         "another node's recording", "test_recordings_of_another_node_are_refused"),
    ),
]
