"""Read by every Python that a mutation child starts (its folder is on PYTHONPATH there, and nowhere else)."""

import os
import runpy
from pathlib import Path

if "BASTION_TEST_MUTANT" in os.environ:
    runpy.run_path(str(Path(__file__).parents[1] / "mutant.py"))["install_from"](os.environ)
