"""`python -m bastion.runner --config FILE`: the process that runs operators' scripts for policyd."""

import argparse
import sys
from pathlib import Path

from bastion import config
from bastion.errors import BastionError
from bastion.logs import log_json
from bastion.memory import hide_memory


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM; the exit status."""
    parser = argparse.ArgumentParser(prog="bastion-runner", description="Runs operators' scripts for policyd.")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="bastion.toml")
    parser.add_argument("--owner", type=int, default=0, metavar="UID", help="whose scripts are run beside root's")
    arguments = parser.parse_args(argv)
    log_json()
    import trio

    from bastion.runner.service import Service, whom_of

    try:
        hide_memory()
        settings = config.load(arguments.config)
        trio.run(Service(settings, arguments.owner, whom_of(settings, arguments.owner)).run)
    except BastionError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return int(error.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
