"""One of our commands in a process that was forked, not executed: what the parent has imported is there at once."""

import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence

OURS = frozenset({"policy", "recorder", "replay"})


def is_ours(args: object) -> bool:
    """`python -m OURS ...`."""
    words = [str(word) for word in args] if isinstance(args, list | tuple) else []
    return len(words) > 2 and words[:2] == [sys.executable, "-m"] and words[2] in OURS


def become(
    words: Sequence[str], streams: Sequence[int], kept: set[int], cwd: str | None, env: Mapping[str, str] | None
) -> None:
    """The forked child goes on as `words`, with these three streams. Never returns."""
    code = 1
    try:
        held = [os.dup(handle if handle >= 0 else at) for at, handle in enumerate(streams)]
        for at, handle in enumerate(held):
            os.dup2(handle, at)
        for handle in {int(name) for name in os.listdir("/proc/self/fd")} - kept - {0, 1, 2}:
            try:
                os.close(handle)
            except OSError:
                pass
        if cwd is not None:
            os.chdir(cwd)
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        sys.stdin, sys.stdout, sys.stderr = (open(at, mode) for at, mode in enumerate("rww"))  # noqa: SIM115
        sys.stderr.reconfigure(line_buffering=True, errors="backslashreplace")
        for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        sys.argv = [words[2], *words[3:]]
        importlib.import_module(f"{words[2]}.__main__").main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                pass
        os._exit(code)
