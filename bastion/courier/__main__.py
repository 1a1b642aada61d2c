"""`python -m bastion.courier --config FILE`: the process that makes policyd's calls to the outside."""

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
    # No core dump and no ptrace by others of our user: tokens and passwords pass through this memory.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    parser = argparse.ArgumentParser(prog="bastion-courier", description="Makes policyd's calls to the outside.")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="bastion.toml")
    parser.add_argument(
        "--socket", type=int, metavar="FD", help="serve the command that handed this connection over, and end with it"
    )
    arguments = parser.parse_args(argv)
    log_json()
    import trio

    from bastion.courier.service import Service, reach_of

    try:
        settings = config.load(arguments.config)
        service = Service(settings, reach_of(settings))
        trio.run(service.run) if arguments.socket is None else trio.run(service.run_for, arguments.socket)
    except BastionError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return int(error.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
