"""`bastion-policyd`: the policy authority of a bastion."""

import argparse
import getpass
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from policy import memory
from policy.errors import PolicyError

if TYPE_CHECKING:
    from policy.configuration import Configuration
    from policy.vault.secret import Secret

MAX_PASSPHRASE: Final = 4 * 1024  # bytes; policy.vault.masters.passphrase counts characters
_MAX_KEYS: Final = 64 * 1024  # characters of keys on standard input: 32 of the longest
EXIT_USAGE: Final = 64
EXIT_MISCONFIGURED: Final = 78


def main(argv: list[str] | None = None) -> None:
    """Run one of `serve`, `init`, `check`, `test`, `diff`, `db upgrade`, `db status`, `db accept-trail`."""
    try:
        memory.protect()
    except OSError as error:
        _fail(str(error.strerror).lower(), "")
    arguments = _parser().parse_args(argv)
    _log_json()
    from policy.configuration import BadConfiguration

    try:
        arguments.run(arguments)
    except BadConfiguration as error:
        if arguments.run in (_check, _test, _diff):  # a list of problems is what was asked for
            print("\n".join(error.problems), file=sys.stderr)
            sys.exit(EXIT_MISCONFIGURED)
        _fail("\n".join(error.problems), "put it right, then: bastion check-config && bastion policy check")
    except PolicyError as error:
        _fail(error.cause, error.hint)
    except OSError as error:
        where = error.filename or "system"
        _fail(
            f"{where}: {(error.strerror or str(error)).lower()}",
            f"look at it: ls -ld {where}" if error.filename else "",
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bastion-policyd", description="The policy authority of a bastion.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="decide, until SIGTERM")
    serve.set_defaults(run=_serve)
    init = commands.add_parser("init", help="make the database, the master key, the CAs and the first administrator")
    init.add_argument("--admin", default="", metavar="NAME")
    init.add_argument(
        "--admin-key", action="append", default=[], metavar="LINE", help="authorized_keys line; - reads them"
    )
    init.set_defaults(run=_init)
    database = commands.add_parser("db", help="the database").add_subparsers(required=True, metavar="COMMAND")
    upgrade = database.add_parser("upgrade", help="bring it to the version of this program")
    upgrade.set_defaults(run=_upgrade)
    status = database.add_parser("status", help="show its version")
    status.set_defaults(run=_status)
    accept = database.add_parser("accept-trail", help="go on from a damaged audit trail; keeps that as an event")
    accept.set_defaults(run=_accept)
    for command in (init, accept):
        command.add_argument(
            "--passphrase-stdin", action="store_true", help="the vault's passphrase is the first line of standard input"
        )
    check = commands.add_parser("check", help="show everything that is wrong with the rules and the files beside them")
    check.add_argument("file", nargs="?", type=Path, help="rules to check in place of those in force")
    check.set_defaults(run=_check)
    test = commands.add_parser("test", help="what the rules say to the cases of a file, as JSON")
    test.add_argument("cases", type=Path)
    test.add_argument("--rules", type=Path, help="rules to try in place of those in force")
    test.set_defaults(run=_test)
    diff = commands.add_parser("diff", help="who gains or loses what by other rules, as JSON")
    diff.add_argument("old", type=Path)
    diff.add_argument("new", type=Path, nargs="?", help="the rules in force when left out")
    diff.set_defaults(run=_diff)
    for command in (serve, init, upgrade, status, accept, check, test, diff):
        command.add_argument("--config", required=True, type=Path, metavar="FILE", help="bastion.toml")
    return parser


def _serve(arguments: argparse.Namespace) -> None:
    import trio

    from policy.configuration import read_configuration
    from policy.daemon import serve

    trio.run(serve, read_configuration(arguments.config))


def _init(arguments: argparse.Namespace) -> None:
    import trio

    from policy.configuration import read_configuration
    from policy.setup import make_state

    config = read_configuration(arguments.config)
    passphrase = _passphrase(config, arguments, new=True)
    keys = [line for line in arguments.admin_key if line != "-"]
    if "-" in arguments.admin_key:
        keys += [line for line in sys.stdin.read(_MAX_KEYS).splitlines() if line.strip()]
    for line in trio.run(make_state, config, arguments.admin, keys, passphrase):
        print(f"made {line}")


def _check(arguments: argparse.Namespace) -> None:
    from policy.configuration import BadConfiguration, read_all, read_configuration, read_rules
    from policy.outside.secrets import missing

    config = read_configuration(arguments.config)
    path = arguments.file or config.rules
    rules = read_rules(path) if arguments.file else read_all(config)[0]
    if problems := [f"{path}: {problem}" for problem in missing(rules, config.path.parent)]:
        raise BadConfiguration(problems)
    print(f"{path}: {len(rules.rules)} rule{'' if len(rules.rules) == 1 else 's'}, all fine")


def _test(arguments: argparse.Namespace) -> None:
    from policy.configuration import read_configuration
    from policy.rules.rehearsal import test

    print(json.dumps(test(read_configuration(arguments.config), arguments.cases, arguments.rules)))


def _diff(arguments: argparse.Namespace) -> None:
    from policy.configuration import read_configuration
    from policy.rules.rehearsal import diff

    print(json.dumps(diff(read_configuration(arguments.config), arguments.old, arguments.new)))


def _upgrade(arguments: argparse.Namespace) -> None:
    from policy import store
    from policy.configuration import read_configuration

    config = read_configuration(arguments.config)
    before, wanted = store.status(config.policy.database, config.state)
    if before is None:
        raise store.StoreError("the database is empty", "run `bastion-policyd init`")
    store.create(config.policy.database, config.state).close()
    print(f"database schema {wanted}" if before == wanted else f"database schema {before} -> {wanted}")


def _status(arguments: argparse.Namespace) -> None:
    from policy import store
    from policy.configuration import read_configuration

    config = read_configuration(arguments.config)
    found, wanted = store.status(config.policy.database, config.state)
    print(f"database schema {found or 'none'}, this program needs {wanted}")
    if found != wanted:
        raise store.StoreError("the versions differ", "run `bastion-policyd db upgrade`")


def _accept(arguments: argparse.Namespace) -> None:
    import trio

    from policy.configuration import read_configuration
    from policy.setup import accept_trail

    config = read_configuration(arguments.config)
    print(trio.run(accept_trail, config, _passphrase(config, arguments, new=False)))


def _passphrase(config: "Configuration", arguments: argparse.Namespace, *, new: bool) -> "Secret | None":
    """What opens, or is to open, a vault with `master_key = "passphrase:"`. Typed, or the first line of standard input:
    never in argv, which everybody on the machine may read."""
    from policy.vault.secret import Secret, VaultError

    if config.policy.master_key != "passphrase:":
        return None
    if not arguments.passphrase_stdin and not sys.stdin.isatty():
        return None  # what is piped in may be keys, and a key that is public must not become the passphrase
    if arguments.passphrase_stdin:
        return Secret(sys.stdin.buffer.readline(MAX_PASSPHRASE + 2).rstrip(b"\r\n"))
    typed = getpass.getpass("passphrase of the vault: ")
    if new and getpass.getpass("once more: ") != typed:
        raise VaultError("they differ: nothing was made", "try again")
    return Secret(typed.encode())


def _log_json() -> None:
    """One event, one line of JSON on standard error. Exceptions never bring values along."""
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
