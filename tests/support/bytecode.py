"""A module is compiled once, not again by each of the thousands of processes that the tests start."""

import os
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[2] / "build/bytecode"


def keep() -> None:
    """Here and in what is started from here. Who forbids byte code beside the sources finds it in FOLDER."""
    if not sys.dont_write_bytecode:
        return
    sys.dont_write_bytecode = False
    sys.pycache_prefix = sys.pycache_prefix or str(FOLDER)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
