"""`python -m bastion.broker --config FILE`: the door for applications."""

import argparse
import ctypes
import sys
from pathlib import Path
from typing import Final

from bastion import config
from bastion.errors import BastionError
from bastion.logs import log_json

_PR_SET_DUMPABLE: Final = 4


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM; the exit status."""
    # No core dump and no ptrace by others of our user: secrets pass through this memory.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    parser = argparse.ArgumentParser(prog="bastion-broker", description="The door for applications.")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="bastion.toml")
    arguments = parser.parse_args(argv)
    log_json()
    import trio

    from bastion.broker.service import Service

    try:
        settings = config.load(arguments.config)
        trio.run(Service(settings).run)
    except BastionError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return int(error.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
