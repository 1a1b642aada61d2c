"""Hypothesis gives each test the same inputs in every run, at any pace of the machine. New ones are `make fuzz`'s."""

from hypothesis import HealthCheck, settings

from tests.support import bytecode

bytecode.keep()
settings.register_profile(
    "same", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")
