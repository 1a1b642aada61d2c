"""The node's list of its recordings: by whom it is, and whether its last word is signed."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from recorder.chain import Chain
from recorder.codec import FormatError
from recorder.nodelog import Entry, What, entries, new_header
from tests.recorder.studio import NODE_KEY, NODE_PUBLIC, SESSION, T0

OPENED = Entry(what=What.OPENED, wall_us=T0, session=SESSION, file="2026-09-21/x.brec", state=bytes(32))


def written(path: Path, key: Ed25519PrivateKey) -> Path:
    header = new_header(NODE_PUBLIC)
    chain = Chain(header)
    path.write_bytes(header + chain.frame(What.OPENED, OPENED.encode(chain.state, key.sign)))
    return path


def test_what_the_node_wrote_is_believed(tmp_path: Path) -> None:
    assert list(entries(written(tmp_path / "node.log", NODE_KEY), NODE_PUBLIC)) == [OPENED]


def test_another_nodes_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="another node's"):
        list(entries(written(tmp_path / "node.log", NODE_KEY), bytes(32)))


def test_an_entry_nobody_signed_is_found(tmp_path: Path) -> None:
    """Whoever writes the file can make a chain that fits; not a signature."""
    with pytest.raises(FormatError, match="signature of the last entry"):
        list(entries(written(tmp_path / "node.log", Ed25519PrivateKey.generate()), NODE_PUBLIC))
