"""One policyd with one broker for a whole file of tests; those that stop one of them make their own."""

from collections.abc import Iterator

import pytest

from tests.broker.place import Place
from tests.policy.conftest import _fill
from tests.policy.policyd import Policyd


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    daemon = _fill(Policyd(tmp_path_factory.mktemp("b")))
    daemon.start()
    place = Place(daemon).start()
    try:
        yield place
    finally:
        place.stop()
        daemon.stop()
