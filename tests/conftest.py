"""Hypothesis gives each test the same inputs in every run, at any pace of the machine. New ones are `make fuzz`'s."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import bytecode

bytecode.keep()
settings.register_profile(
    "same", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


@pytest.hookimpl(wrapper=True)  # before xdist's own, which reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """`--dist loadgroup` keeps a file in one worker, so that the bastion of a file is made once."""
    if config.getoption("loadgroup", False):
        for item in items:
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(item.location[0]))
    return (yield)
