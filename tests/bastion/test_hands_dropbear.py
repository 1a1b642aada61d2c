"""The hands against another server than OpenSSH: smaller windows, other habits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bastion.aio import asynchronous
from tests.bastion.hands import worker
from tests.bastion.test_authorized import C, blob_of
from tests.support.dropbear import Dropbear, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it can run")


@pytest.fixture(scope="module")
def dropbear(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dropbear]:
    target = Dropbear(tmp_path_factory.mktemp("dropbear") / "home").start()
    yield target
    target.stop()


@asynchronous
async def test_a_file_of_several_windows(dropbear: Dropbear, tmp_path: Path) -> None:
    file = dropbear.home / ".ssh/authorized_keys"
    before = file.read_bytes() + (b"# " + b"x" * 100 + b"\n") * 1000
    file.write_bytes(before)
    async with worker(tmp_path, dropbear) as one:
        answer = await one.change("authorized-keys", "root", new=C)
        assert answer.outcome == "done", answer.detail
        assert file.read_bytes() == before + C + b"\n"
        assert (await one.change("authorized-keys", "root", old=blob_of(C))).outcome == "done"
        assert file.read_bytes() == before
        assert (await one.verify("root")).outcome == "done"
