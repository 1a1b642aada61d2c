"""`python -m bastion.courier --config FILE`: the process that makes policyd's calls to the outside."""

import argparse
import sys
from pathlib import Path

from bastion import config
from bastion.errors import BastionError
from bastion.logs import log_json
from bastion.memory import hide_memory


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM; the exit status."""
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
        hide_memory()
        settings = config.load(arguments.config)
        service = Service(settings, reach_of(settings))
        trio.run(service.run) if arguments.socket is None else trio.run(service.run_for, arguments.socket)
    except BastionError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return int(error.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
