"""Random inputs at every parser of bytes from outside: `python -m tests.fuzz N`.

A target is a function in a module of `tests.fuzz.targets`, marked with `@target(...)`; a new file there is found
by itself. Inputs that once failed stay in `tests/corpus/TARGET/` and are tried first, and mutated, for ever.
"""
