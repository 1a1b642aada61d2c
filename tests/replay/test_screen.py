"""The text on a screen is what libvterm would show."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.cells import MAX_COLUMNS, MAX_ROWS
from replay.screen import Screen
from tests.replay.hostile import HOSTILE
from tests.replay.recordings import performed
from tests.replay.vterm import Vterm, load

LIBRARY = load()
needs_oracle = pytest.mark.skipif(LIBRARY is None, reason="needs libvterm0 (make packages)")


def drawn(data: bytes, columns: int = 20, rows: int = 8) -> list[str]:
    screen = Screen(columns, rows)
    screen.feed(data)
    return screen.lines()


def expected(data: bytes, columns: int = 20, rows: int = 8) -> list[str]:
    assert LIBRARY is not None
    terminal = Vterm(LIBRARY, columns, rows)
    terminal.feed(data)
    lines = terminal.lines()
    terminal.close()
    return lines


ATOMS = [
    b"hello world",
    b"abc",
    b"\r\n",
    b"\n",
    b"\r",
    b"\b",
    b"\t",
    b"x" * 90,
    b"\x1b[H",
    b"\x1b[2J",
    b"\x1b[K",
    b"\x1b[1K",
    b"\x1b[J",
    b"\x1bM",
    b"\x1bD",
    b"\x1bE",
    b"\x1b7",
    b"\x1b8",
    b"\x1b[4h",
    b"\x1b[4l",
    b"\x1b(0lqqk\x1b(B",
    b"\x1b[?7l",
    b"\x1b[?7h",
    b"\x1b[m",
    b"\x1b]0;t\x07",
    b"\x1bP1$r\x1b\\",
    b"\x1bH",
    b"\x1b[g",
    b"\x1b[3g",
]
REGIONS = [b"\x1b[r", b"\x1b[5;10r", b"\x1b[3;6r", b"\x1b[?6h", b"\x1b[?6l"]
ALTERNATE = [b"\x1b[?1049h", b"\x1b[?1049l"]
NUMBERS = [b"", b"1", b"2", b"3", b"5", b"9", b"12", b"3;4", b"20;70"]


def stream(seed: int) -> bytes:
    """Random atoms, without what libvterm does apart from DEC and xterm.

    With margins it lets A, B, E, F, e pass them and confines @ and P to them; ESC 8 does not bring origin mode back;
    ED keeps a pending wrap; half of an overwritten wide character leaves a hole in its text.
    """
    random_ = random.Random(seed)
    regions = random_.random() < 0.5
    atoms = [*ATOMS, *(REGIONS if regions else ALTERNATE)]
    if regions:
        atoms = [atom for atom in atoms if atom not in (b"\x1b7", b"\x1b8")]
    finals = b"CDGHILMSTXZ`adf" if regions else b"ABCDEFGHILMPSTXZ@`adef"
    out = []
    for _ in range(random_.randint(3, 40)):
        if random_.random() < 0.5:
            out.append(random_.choice(atoms))
        else:
            out.append(b"\x1b[%s%c" % (random_.choice(NUMBERS), random_.choice(finals)))
    return b"".join(out)


@needs_oracle
@pytest.mark.parametrize("start", range(0, 1600, 400))
def test_random_streams_look_as_in_libvterm(start: int) -> None:
    for seed in range(start, start + 400):
        data = stream(seed)
        assert drawn(data) == expected(data), f"seed {seed}: {data!r}"


@needs_oracle
@pytest.mark.parametrize(
    "text",
    [
        "日本語 text",
        "日" * 11,
        "e\u0301a\u0308",
        "👍 ok",
        "\U0001f1e6 x",
        "a\u200bb",
        "한국어",
        "ﬀ ½ ✓",
        "x" * 19 + "日",
    ],
)
def test_characters_take_their_columns(text: str) -> None:
    assert drawn(text.encode() + b"\r\nnext") == expected(text.encode() + b"\r\nnext")


@needs_oracle
@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["bash", "--norc", "-i"], [b"ls -la /etc | head -30\r", b"printf '\\033[31mred\\033[m\\n'\r", b"seq 100\r"]),
        (["less", "/etc/services"], [b" ", b" ", b"j", b"k", b"/tcp\r", b"n", b"G", b"g", b"q"]),
        (["top", "-d", "0.3"], [b"1", b"c", b"q"]),
        (["perl", "-e", 'for (1..200) { printf "\\e[%d;%dHx%d", $_ % 24 + 1, $_ % 70 + 1, $_ }'], []),
    ],
    ids=["bash", "less", "top", "perl"],
)
def test_real_programs_look_as_in_libvterm(command: list[str], keys: list[bytes]) -> None:
    events = performed(command, 80, 24, [(0.2, key) for key in keys])
    data = b"".join(event.data for event in events if event.kind == 0)
    assert data
    assert drawn(data, 80, 24) == expected(data, 80, 24)


@given(st.integers(0, 5000), st.lists(st.integers(0, 300), max_size=8))
def test_cuts_change_nothing(seed: int, cuts: list[int]) -> None:
    data, screen, last = stream(seed) + "日本é".encode(), Screen(20, 8), 0
    for cut in sorted(cuts):
        screen.feed(data[last:cut])
        last = max(last, cut)
    screen.feed(data[last:])
    assert screen.lines() == drawn(data)


PIECES = st.one_of(
    st.sampled_from([*HOSTILE.values(), *REGIONS, *ALTERNATE, *ATOMS, "日本".encode(), "e\u0301\u0302\u0303".encode()]),
    st.binary(max_size=8),
    st.builds(
        lambda private, values, final: b"\x1b[%b%b%c" % (private, b";".join(b"%d" % one for one in values), final),
        st.sampled_from([b"", b"?", b">"]), st.lists(st.integers(0, 99_999), max_size=4), st.integers(0x40, 0x7E),
    ),
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(PIECES, max_size=30), st.integers(-5, 40), st.integers(-5, 20))
def test_no_stream_breaks_it(pieces: list[bytes], columns: int, rows: int) -> None:
    screen = Screen(columns, rows)
    for at, piece in enumerate(pieces):
        screen.feed(piece)
        if at % 7 == 3:
            screen.resize(columns + at, rows - at)
        assert len(screen.lines()) == screen.rows
        assert all(len(row) == screen.columns for row in screen._cells)
        assert 0 <= screen.x < screen.columns
        assert 0 <= screen.y < screen.rows


def test_sizes_are_bounded() -> None:
    screen = Screen(10**9, 10**9)
    assert (screen.columns, screen.rows) == (MAX_COLUMNS, MAX_ROWS)
    screen.resize(0, 0)
    assert (screen.columns, screen.rows) == (2, 2)


def test_marks_on_a_character_are_bounded() -> None:
    assert len(drawn(b"a" + "\u0301".encode() * 1000)[0]) < 20


def test_lines_that_leave_are_told() -> None:
    left: list[str] = []
    screen = Screen(20, 3, left.extend)
    screen.feed(b"one\r\ntwo\r\nthree\r\nfour\r\n")
    assert left == ["one", "two"]
    screen.feed(b"\x1b[H\x1b[2J")
    assert left == ["one", "two", "three", "four", ""]
    screen.feed(b"\x1b[?1049hfull screen\x1b[?1049l")
    assert left[5:] == ["full screen", "", ""]


def test_colours_can_be_brought_back() -> None:
    screen = Screen()
    screen.feed(b"\x1b[1m\x1b[31mred")
    assert screen.colours == "\x1b[1m\x1b[31m"
    screen.feed(b"\x1b[0mplain")
    assert screen.colours == ""
