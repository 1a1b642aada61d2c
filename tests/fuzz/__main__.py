"""`python -m tests.fuzz N [--seed S] [--only TARGET]`: N inputs, shared out among the targets."""

import argparse
import hashlib
import secrets
import sys
import time

from tests.fuzz.engine import run
from tests.fuzz.registry import CORPUS, load


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="the one a former run printed")
    parser.add_argument("--only", default="", help="one target")
    options = parser.parse_args()
    targets = [target for name, target in load().items() if options.only in ("", name)]
    if not targets:
        parser.error(f"no target `{options.only}`, there are: {', '.join(load())}")
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}, {options.count} inputs at {len(targets)} parsers", flush=True)
    findings = 0
    for target in targets:
        begin = time.monotonic()
        finding = run(target, options.count // len(targets), seed)
        print(f"{target.name:24} {'FAILED' if finding else 'ok':8} {time.monotonic() - begin:6.1f} s", flush=True)
        if finding:
            findings += 1
            folder = CORPUS / target.name
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / hashlib.sha256(finding.data).hexdigest()[:16]
            path.write_bytes(finding.data)
            print(f"  {finding.error[:500]!r}\n  kept as {path}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
