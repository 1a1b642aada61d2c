"""The menu as a person uses it: filter, move, choose, leave; and what hostile names do to its screen: nothing."""

import pytest

from bastion.menu import Choice, Menu, Outcome

TARGETS = [Choice("root", "web1", "env=prod"), Choice("deploy", "web1"), Choice("postgres", "db7", "env=test")]
UP, DOWN, ENTER = b"\x1b[A", b"\x1b[B", b"\r"


def test_arrows_and_enter_choose() -> None:
    menu = Menu(TARGETS)
    assert menu.key(DOWN) is Outcome.OPEN
    assert menu.key(ENTER) is Outcome.PICKED
    assert menu.picked.name == "deploy@web1"


def test_typing_filters_by_every_word_and_the_choice_is_among_what_is_shown() -> None:
    menu = Menu(TARGETS)
    assert menu.key(b"env TEST") is Outcome.OPEN
    assert [one.name for one in menu.shown] == ["postgres@db7"]
    assert menu.key(b"\r") is Outcome.PICKED
    assert menu.picked.name == "postgres@db7"


def test_nothing_can_be_chosen_where_nothing_matches() -> None:
    menu = Menu(TARGETS)
    menu.key(b"nowhere")
    assert menu.key(ENTER) is Outcome.OPEN
    for _ in "nowhere":
        menu.key(b"\x7f")
    assert len(menu.shown) == 3


@pytest.mark.parametrize("key", [b"\x03", b"\x04", b"\x1b"])
def test_three_keys_leave(key: bytes) -> None:
    assert Menu(TARGETS).key(key) is Outcome.LEFT


def test_movement_stops_at_both_ends_and_unknown_keys_do_nothing() -> None:
    menu = Menu(TARGETS)
    menu.key(UP * 5 + DOWN * 50 + b"\x1b[1;5C\x00\x1b[15~")
    assert menu.picked.name == "postgres@db7"
    menu.key(UP * 50)
    assert menu.picked.name == "root@web1"


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (20, 4), (1, 1), (0, 0), (500, 200)])
def test_it_fits_any_terminal(columns: int, rows: int) -> None:
    drawn = Menu(TARGETS * 100).render(columns, rows)
    assert drawn.count("\r\n") <= max(rows, 4)


def test_names_cannot_draw_on_the_screen() -> None:
    """A label with an escape sequence would write to the terminal of everybody who opens the menu."""
    menu = Menu([Choice("root", "web\x1b]52;c;evil\x07", "\x9b2Jlabel\u202e")])
    menu.key("\u202ex\x9b".encode())
    drawn = menu.render(80, 24) + Menu([Choice("a", "b\x1b]52;c;evil\x07")]).render(80, 24)
    assert "\x1b]" not in drawn
    assert "\x9b" not in drawn
    assert "\u202e" not in drawn


def test_what_is_typed_behind_the_choice_is_for_the_target() -> None:
    menu = Menu(TARGETS)
    assert menu.key(b"db7\rwhoami\r") is Outcome.PICKED
    assert menu.rest == b"whoami\r"
