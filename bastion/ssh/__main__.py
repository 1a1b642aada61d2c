"""`python -m bastion.ssh --config FILE --worker N`: one worker of the SSH gateway."""

import argparse
import asyncio
import logging
import random
import sys
from pathlib import Path

from bastion import config
from bastion.errors import BastionError
from bastion.logs import log_json
from bastion.memory import hide_memory


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM; the exit status."""
    parser = argparse.ArgumentParser(prog="bastion-ssh", description="A worker of the SSH gateway.")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="bastion.toml")
    parser.add_argument("--worker", required=True, type=int, metavar="N", help="its number, from 0")
    arguments = parser.parse_args(argv)
    log_json()
    logging.basicConfig(handlers=[_Library()], level=logging.WARNING, force=True)  # what asyncio and asyncssh say
    from bastion.ssh.worker import Worker
    from bastion.startups import Startups

    try:
        hide_memory()
        settings = config.load(arguments.config)
        admission = Startups(settings.ssh, random.SystemRandom().random)
        asyncio.run(Worker(settings=settings, number=arguments.worker, admission=admission).run())
    except BastionError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return int(error.code)
    except RuntimeError as error:
        print(f"bastion: {error}\nbastion: install what requirements.txt says", file=sys.stderr)
        return 78
    return 0


class _Library(logging.Handler):
    """Warnings of asyncio and asyncssh as events of ours, without tracebacks: those may quote what passed."""

    def emit(self, record: logging.LogRecord) -> None:
        import structlog

        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        structlog.get_logger().warning("library", library=record.name, text=record.getMessage()[:500], error=error)


if __name__ == "__main__":
    sys.exit(main())
