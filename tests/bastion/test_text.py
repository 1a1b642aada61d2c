"""Text from outside is harmless wherever it is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.text import neutral


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;eA==\x07", "\\x1b]52;c;eA==\\x07"),  # writes the clipboard
        ("a\u202eb", "a\\u202eb"),  # turns the reading direction
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),  # is not seen
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),  # begins a line where browsers and editors show it
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\ud800", "\\ud800"),
        ("größe – 密码 `x`", "größe – 密码 `x`"),
    ],
)
def test_what_acts_is_shown_as_its_number(text: str, shown: str) -> None:
    assert neutral(text) == shown


def test_a_new_line_is_kept_where_it_is_wanted() -> None:
    assert neutral("a\nb") == "a\\nb"
    assert neutral("a\nb\r", keep_lines=True) == "a\nb\\r"


@given(st.text())
def test_any_text_is_one_printable_line(text: str) -> None:
    shown = neutral(text)
    assert all(char.isprintable() or char.isspace() for char in shown)
    assert len(shown.splitlines()) <= 1
