"""One bastion for all end-to-end tests of a pytest worker; its log is shown beside a test that fails."""

from collections.abc import Iterator

import pytest

from tests.support.net import tail
from tests.support.site import Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"), {"ssh": ["channels = 64", "startups_per_source = 100"]})
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
