"""One module for each part of the product: functions marked with `tests.fuzz.registry.target`."""
