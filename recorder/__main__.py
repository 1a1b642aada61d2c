"""`bastion-recorderd`: the recorder of a bastion."""

import argparse
import ctypes
import logging
import os
import resource
import sys
from pathlib import Path
from typing import Final, NoReturn

_PR_SET_DUMPABLE: Final = 4
EXIT_MISCONFIGURED: Final = 78


def main(argv: list[str] | None = None) -> None:
    """`serve`: record, until SIGTERM."""
    _hide_memory()
    parser = argparse.ArgumentParser(prog="bastion-recorderd", description="The recorder of a bastion.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="record, until SIGTERM")
    serve.add_argument("--config", required=True, type=Path, metavar="FILE", help="bastion.toml")
    arguments = parser.parse_args(argv)
    _log_json()
    from recorder import daemon
    from recorder.configuration import BadConfiguration, read_configuration
    from recorder.durable import Unusable
    from recorder.quick import QuickLoop
    from recorder.sockets import SocketError

    try:
        QuickLoop().run(daemon.serve, read_configuration(arguments.config))
    except BadConfiguration as error:
        _fail("\n".join(error.problems), f"edit `{arguments.config}`, then: bastion check-config {arguments.config}")
    except Unusable as error:
        _fail(str(error), error.hint)
    except SocketError as error:
        _fail(str(error), "see who has it: ss -xlp")
    except OSError as error:
        where = error.filename or "system"
        _fail(
            f"{where}: {(error.strerror or str(error)).lower()}",
            f"look at it: ls -ld {where}" if error.filename else "",
        )


def _hide_memory() -> None:
    """No core dump and no ptrace by others of our user: this memory holds the keys of what is being recorded."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _fail(f"prctl: {os.strerror(ctypes.get_errno()).lower()}", "")
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _log_json() -> None:
    """One event, one line of JSON on standard error."""
    # structlog would load rich, for tracebacks on a terminal: 6.6 MiB and 0.15 s of every daemon, and values shown.
    sys.modules["rich.console"] = sys.modules["rich.pretty"] = None  # type: ignore[assignment]
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _fail(cause: str, hint: str) -> NoReturn:
    for line in (*cause.splitlines(), hint):
        if line:
            print(f"bastion: {line}", file=sys.stderr)
    sys.exit(EXIT_MISCONFIGURED)


if __name__ == "__main__":
    main()
