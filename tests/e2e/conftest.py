"""One bastion for all end-to-end tests of a pytest worker; its log is shown beside a test that fails."""

from collections.abc import Iterator

import pytest

from tests.support.chaos import FaultSite
from tests.support.net import tail
from tests.support.site import Site

DIAL = 5.0  # seconds to reach a target, instead of 15: tests wait for it


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"), {"ssh": ["channels = 64", "startups_per_source = 100"]})
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="session")
def fault_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultSite]:
    """One that tests may hurt: each leaves it working. Limits before login are the shipped ones."""
    made = FaultSite(tmp_path_factory.mktemp("faults"), {"ssh": [f"dial = {DIAL}"]})
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    found = getattr(item, "funcargs", {}).get("site")
    if report.failed and isinstance(found, Site):
        report.sections.append(("bastion log", tail(found.log)))
    return report
