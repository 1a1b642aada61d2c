"""`python -m bastion.broker --config FILE`: the door for applications."""

import argparse
import sys
from pathlib import Path

from bastion import config
from bastion.errors import BastionError
from bastion.logs import log_json
from bastion.memory import hide_memory


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM; the exit status."""
    parser = argparse.ArgumentParser(prog="bastion-broker", description="The door for applications.")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="bastion.toml")
    arguments = parser.parse_args(argv)
    log_json()
    import trio

    from bastion.broker.service import Service

    try:
        hide_memory()
        settings = config.load(arguments.config)
        trio.run(Service(settings).run)
    except BastionError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return int(error.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
