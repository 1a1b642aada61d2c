"""`python -m tests.bench.broker`: reads by applications on a local socket, per second of CPU of all our processes.

Several applications with a kept connection each, one request at a time, as they are used: the ledger then writes a few
reads in one transaction. What counts is CPU time of broker and policyd together, clients left out, because a shared
machine's clock on the wall says little; the median of the rounds.
"""

import argparse
import json
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

from tests.bench.machine import cpu
from tests.broker.place import Place
from tests.policy.policyd import Policyd

REQUEST = b"GET /v1/secrets/deploy@web1 HTTP/1.1\r\nHost: bastion\r\nBastion-Application: shop\r\n\r\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--reads", type=int, default=200, help="on each connection, in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder:
        daemon = Policyd(Path(folder) / "p").make().start()
        place = Place(daemon)
        try:
            daemon.target("web1", "deploy")
            place.start()
            place.application("shop", "deploy@web1", rate=10_000)
            rounds = [one_round(place, words.connections, words.reads) for _ in range(words.rounds + 1)][1:]
        finally:
            place.stop()
            daemon.stop()
    reads = words.connections * words.reads
    per_second = [reads / (broker + policyd) for broker, policyd, _ in rounds]
    result = {
        "reads per CPU second": round(statistics.median(per_second)),
        "broker, ms a read": round(statistics.median(one[0] for one in rounds) / reads * 1000, 3),
        "policyd, ms a read": round(statistics.median(one[1] for one in rounds) / reads * 1000, 3),
        "reads per second on the wall": round(statistics.median(reads / one[2] for one in rounds)),
        "connections": words.connections,
    }
    print(json.dumps(result) if words.json else "\n".join(f"{key:<30} {value}" for key, value in result.items()))


def one_round(place: Place, connections: int, reads: int) -> tuple[float, float, float]:
    """CPU seconds of the broker and of policyd, and seconds that passed."""
    assert place.process is not None
    assert place.policyd.process is not None
    pids = place.process.pid, place.policyd.process.pid
    before, began = [cpu(pid) for pid in pids], time.monotonic()
    clients = [threading.Thread(target=read, args=(place.socket, reads)) for _ in range(connections)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    broker, policyd = (cpu(pid) - spent for pid, spent in zip(pids, before, strict=True))
    return broker, policyd, time.monotonic() - began


def read(path: Path, reads: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(path))
        sock.settimeout(60)
        for _ in range(reads):
            sock.sendall(REQUEST)
            answer = sock.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200"), answer


if __name__ == "__main__":
    main()
