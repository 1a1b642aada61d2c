"""Folders that another user may come to, which pytest's own are not."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def public_folder() -> Iterator[Path]:
    """A fresh one that everybody may enter, gone at the end; the folders above it belong to root."""
    with tempfile.TemporaryDirectory(prefix="bastion-test-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
