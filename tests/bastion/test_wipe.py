"""What is overwritten, and what must never be."""

from bastion.ssh.wipe import wipe


def test_the_content_of_bytes_and_texts_is_overwritten_in_place() -> None:
    data, text = b"".join([b"pass", b"word"]), "".join(["pass", "word"])
    wipe(data, text)
    assert data == bytes(8)
    assert [ord(one) for one in text] == [0] * 8


def test_what_python_shares_or_nobody_meant_is_left_alone() -> None:
    one, empty = bytes([97]), b""
    letter, wide = chr(97), "".join(["p", "\N{EURO SIGN}"])
    wipe(one, empty, letter, wide, None, 7)
    assert (one, b"a", empty, letter, "a", wide) == (b"a", b"a", b"", "a", "a", "p\N{EURO SIGN}")
