"""One bastion for all end-to-end tests of a pytest worker; its log is shown beside a test that fails."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chaos import STALL, FaultSite, Load
from tests.support.evidence import Evidence, watch
from tests.support.net import tail
from tests.support.site import ENTRIES, Site

DIAL = 5.0  # seconds to reach a target, instead of 15: tests wait for it


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"), {"ssh": ["channels = 64", "startups_per_source = 100"]})
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(params=ENTRIES)
def entry(request: pytest.FixtureRequest) -> str:
    """The way to the target: with nothing in between, `account@target@bastion`, `-J bastion`."""
    return str(request.param)


@pytest.fixture
def evidence(site: Site, entry: str) -> Iterator[Evidence]:
    yield from watch(site, entry)


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 MiB that do not compress and do not repeat."""
    path = tmp_path_factory.mktemp("big") / "big"
    path.write_bytes(os.urandom(64 << 20))
    return path


@pytest.fixture(scope="session")
def fault_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultSite]:
    """One that tests may hurt: each leaves it working. Limits before login are the shipped ones."""
    made = FaultSite(tmp_path_factory.mktemp("faults"), {"ssh": [f"dial = {DIAL}", f"stall = {STALL}"]})
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def load(site: FaultSite, tmp_path: Path) -> Iterator[Load]:
    """People at work in the `site` of the test's own file, while something is done to it."""
    with Load(site, tmp_path) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    found = getattr(item, "funcargs", {}).get("site")
    if report.failed and isinstance(found, Site):
        report.sections.append(("bastion log", tail(found.log, 12)))
    return report
