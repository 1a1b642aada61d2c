"""Stands between a client and a server on standard streams and writes down what passed, in order.

    python -m tests.support.tee LOG COMMAND...

Each piece in LOG: `>` (to the server) or `<` (from it) | u32 length | bytes.
"""

import os
import select
import subprocess
import sys
from pathlib import Path


def read_log(path: Path) -> list[tuple[str, bytes]]:
    """The pieces of a log, in order."""
    data, at, pieces = path.read_bytes(), 0, []
    while at < len(data):
        length = int.from_bytes(data[at + 1 : at + 5], "big")
        pieces.append((chr(data[at]), data[at + 5 : at + 5 + length]))
        at += 5 + length
    return pieces


def main(log: str, *command: str) -> int:
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    ways = {0: (b">", server.stdin.fileno()), server.stdout.fileno(): (b"<", 1)}
    with Path(log).open("wb") as out:
        while server.stdout.fileno() in ways:
            for source in select.select(list(ways), [], [])[0]:
                mark, sink = ways[source]
                data = os.read(source, 32768)
                if not data:
                    del ways[source]
                    if mark == b">":
                        server.stdin.close()
                    continue
                # Written down first: an answer must never stand before its question.
                out.write(mark + len(data).to_bytes(4, "big") + data)
                while data:
                    data = data[os.write(sink, data) :]
    return server.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
