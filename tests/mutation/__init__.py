"""Whether the tests notice when a guard is taken out: `python -m tests.mutation [--only PATTERN] [--json FILE]`.

One list per package (`policy.py`, `bastion.py`, `gateway.py`, `recorder.py`, `replay.py`): each entry names a guard
by its exact source text, what is put in its place, the attack it stops, and the tests that must fail. `runner.py`
imports pytest and the libraries once and forks a child per guard; `mutant.py` gives the child the mutated module
without touching a file. A guard that can be removed without a failing test is an error of the run.
"""
