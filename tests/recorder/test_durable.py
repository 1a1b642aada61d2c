"""The writer of files after an error: what is torn goes, and a file that failed is dead."""

import errno
import os
from pathlib import Path

import pytest

from recorder.durable import Dead, Files
from tests.recorder.studio import SESSION, T0, folder


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return folder(tmp_path / "recordings").create(SESSION, T0, b"tail header", b"header")


def test_a_file_that_failed_to_sync_is_dead(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsyncgate: after a failed sync the kernel has dropped the pages, and the next one says that all is well."""
    failing = [OSError(errno.EIO, "input/output error")]
    real = os.fdatasync

    def fdatasync(handle: int) -> None:
        if failing:
            raise failing.pop()
        real(handle)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    files.append_main(b"a segment")
    with pytest.raises(OSError, match="input/output"):
        files.sync_main()
    for again in (files.sync_main, lambda: files.append_main(b"more"), lambda: files.write_tail(b"more")):
        with pytest.raises(Dead):
            again()


def test_what_a_full_disk_tore_goes(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a record in the middle of a tail would take everything behind it along."""
    files.write_tail(b"first ")
    real, left = os.write, [5]

    def write(handle: int, data: bytes) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "no space left on device")
        return real(handle, data[: left.pop()])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="no space"):
        files.write_tail(b"torn record")
    monkeypatch.setattr(os, "write", real)
    files.write_tail(b"second")
    [tail] = tmp_path.rglob("*.brec.tail")
    assert tail.read_bytes() == b"tail headerfirst second"
