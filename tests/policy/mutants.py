"""Whether the tests notice when a check is taken out: `python -m tests.policy.mutants [WORD]`.

Each mutant is one guard removed from a pure core. The tests of that core run against a copy of the repository; a mutant
that survives is a guard without a test. Some seconds each.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
MUTANTS: Final[list[tuple[str, str, str, str]]] = [  # tests, module, what stands there, what is put in its place
    ("test_login", "login", "if event.source_locked:", "if False:"),
    ("test_login", "login", "if login.requests > MAX_REQUESTS:", "if False:"),
    ("test_login", "login", 'if login.person and event.claim not in ("", login.claim, login.person):', "if False:"),
    ("test_login", "login", "in (Phase.CHECKING_PASSWORD, Phase.CHECKING_CODE, Phase.DONE):", "in ():"),
    ("test_login", "login", "if not event.valid:", "if False:"),
    ("test_login", "login", "event.claimed.name != owner.name", "False"),
    ("test_login", "login", 'return "person is disabled" if owner.disabled else ""', 'return ""'),
    ("test_login", "login", "if not 0 < event.size <= MAX_PASSWORD:", "if False:"),
    (
        "test_login",
        "login",
        'if not event.ok:\n        return _fail(login, event, "password',
        'if False:\n        return _fail(login, event, "password',
    ),
    (
        "test_login",
        "login",
        'if not event.ok:\n        return _fail(login, event, "code',
        'if False:\n        return _fail(login, event, "code',
    ),
    ("test_login", "login", "if person is None or person.name != login.person:", "if person is None:"),
    ("test_login", "login", "if len(event.answers) != 1:", "if not event.answers:"),
    ("test_login", "login", "if person.has_code:", "if False:"),
    ("test_login", "login", "if person.needs_code and kind is not FactorKind.VERIFIED_KEY:", "if False:"),
    ("test_login", "login", "if login.failures >= MAX_FAILURES:", "if False:"),
    ("test_login", "login", "failures=login.failures + 1", "failures=login.failures"),
    (
        "test_login",
        "login",
        "return replace(login, phase=Phase.CLOSED, trying=None)",
        "return replace(login, trying=None)",
    ),
    ("test_login", "login", "locked=person.code_locked", "locked=False"),
    ("test_login", "login", "if not person.has_password:\n", "if False:\n"),
    ("test_decide", "decide", "if facts.disabled:", "if False:"),
    ("test_decide", "decide", "if not facts.known:", "if False:"),
    ("test_decide", "decide", "if facts.now.utcoffset() is None:", "if False:"),
    ("test_decide", "decide", "if not (left := offered - forbidden):", "if not (left := offered):"),
    ("test_decide", "decide", "left := left - facts.withheld", "left := left"),
    ("test_decide", "decide", "missing.values())", "missing.values()) or True"),
    ("test_decide", "decide", "if all(check.ok for check in checks)]", "]"),
    ("test_decide", "conditions", "factor.kind in SECOND_FACTORS and factor.age >= timedelta()", "True"),
    ("test_decide", "conditions", "if factor.age <= need.max_age", ""),
    ("test_decide", "conditions", "if factor.here]", "]"),
    ("test_decide", "conditions", "bool(facts.reason.strip())", "bool(facts.reason)"),
    ("test_decide", "conditions", "and facts.account != OWN_ACCOUNT", ""),
    ("test_credentials", "credentials", "if certificate.kind != USER:", "if False:"),
    ("test_credentials", "credentials", "if certificate.ca.blob not in trusted:", "if False:"),
    ("test_credentials", "credentials", "if certificate.key.blob in trusted:", "if False:"),
    ("test_credentials", "credentials", "verify(certificate.ca, certificate.signature, certificate.signed)", "pass"),
    ("test_credentials", "credentials", "if not principals:", "if False:"),
    ("test_credentials", "credentials", "if len(set(principals)) != len(principals):", "if False:"),
    ("test_credentials", "credentials", "check_person_name(principal)", "pass"),
    ("test_credentials", "credentials", "if len(principals) > 1:", "if False:"),
    ("test_credentials", "credentials", "if claim not in principals:", "if False:"),
    ("test_credentials", "credentials", "if now < after:", "if False:"),
    ("test_credentials", "credentials", "if now >= before:", "if now > before:"),
    ("test_credentials", "credentials", "if before - after > max_life:", "if False:"),
    ("test_credentials", "credentials", "first >= second", "first > second"),
    ("test_credentials", "credentials", "critical.keys() - _CRITICAL", "set()"),
    ("test_credentials", "credentials", 'if not value or "" in words:', "if False:"),
    ("test_credentials", "credentials", "if not any(address in network for network in networks):", "if False:"),
    ("test_credentials", "credentials", "if not force_command.strip():", "if False:"),
    ("test_credentials", "credentials", "if critical.get(name) or extensions.get(name):", "if False:"),
    ("test_credentials", "credentials", "if verify_required and not certificate.key.is_security_key:", "if False:"),
    ("test_credentials", "credentials", "if revoked(", "if False and revoked("),
    ("test_credentials", "certificates", 'if reader.string("reserved"):', 'if reader.string("reserved") is None:'),
    ("test_credentials", "certificates", 'reader.end("certificate")', "pass"),
    ("test_credentials", "certificates", "inner.end(what)", "pass"),
    ("test_credentials", "certificates", "if not principal:", "if False:"),
    ("test_sshkeys", "signatures", "if not session or request.session != session:", "if False:"),
    ("test_sshkeys", "signatures", "if not session or request.session != session:", "if request.session != session:"),
    ("test_sshkeys", "signatures", "if request.blob != blob:", "if False:"),
    ("test_sshkeys", "signatures", "if is_certificate(blob) != algorithm.endswith(CERTIFICATE):", "if False:"),
    ("test_sshkeys", "signatures", "if blob != key.blob and not is_certificate(blob):", "if False:"),
    ("test_sshkeys", "signatures", "if not flags & _Flag.PRESENT:", "if False:"),
    ("test_sshkeys", "signatures", "or (algorithm and used != algorithm)", ""),
    ("test_sshkeys", "signatures", 'if reader.byte("message") != 50:', 'if not reader.byte("message"):'),
    ("test_sshkeys", "signatures", 'if reader.byte("has signature") != 1:', 'if reader.byte("has signature") > 9:'),
    ("test_sshkeys", "signatures", 'reader.end("signed data")', "pass"),
    ("test_sshkeys", "sshkeys", "if not least <= n.bit_length() <= MAX_RSA_BITS:", "if False:"),
    ("test_sshkeys", "sshkeys", "e.bit_length() > 32", "False"),
    ("test_sshkeys", "sshkeys", "or y in _SMALL_ORDER", ""),
    ("test_sshkeys", "sshkeys", "y >= _P or", ""),
    ("test_sshkeys", "sshkeys", 'if point[:1] != b"\\x04":', "if False:"),
    ("test_sshkeys", "sshkeys", 'if not application.startswith("ssh:"):', "if False:"),
    ("test_sshkeys", "sshkeys", 'if option != "verify-required":', "if False:"),
    ("test_sshkeys", "sshwire", "if not data or data[0] & 0x80:", "if not data:"),
    ("test_sshkeys", "sshwire", "if data[0] == 0 and (len(data) == 1 or not data[1] & 0x80):", "if False:"),
    ("test_totp", "mfa/totp", "code.isascii() and code.isdigit()", "True"),
    ("test_totp", "mfa/totp", "last_step is None or step > last_step", "True"),
    ("test_totp", "mfa/totp", "WINDOW: Final = 1", "WINDOW: Final = 2"),
    ("test_vault", "vault", "stat.S_IMODE(status.st_mode) not in (0o600, 0o400)", "False"),
    ("test_vault", "vault", "os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_NONBLOCK"),
    ("test_vault", "vault", 'return f"{purpose}|{record}|{version}".encode()', 'return f"{purpose}|{record}".encode()'),
    (
        "test_vault",
        "vault",
        'return f"{purpose}|{record}|{version}".encode()',
        'return f"{purpose}|{version}".encode()',
    ),
    ("test_vault", "vault", "if check is None or not", "if check is not None and not"),
    (
        "test_lockouts",
        "lockouts",
        "if self._locked(key, now):\n            return False",
        "if False:\n            return False",
    ),
    ("test_lockouts", "lockouts", "recent[0] <= now - self.window", "False"),
    ("test_audit", "audit", "if not met_kept:", "if False:"),
    ("test_audit", "audit", "if not hmac.compare_digest(kept.hash, row.hash):", "if False:"),
    ("test_audit", "audit", "if row.seq != head.seq + 1:", "if False:"),
    ("test_audit", "audit", "if hmac.compare_digest(mac, self._mac(head)):", "if True:"),
    ("test_audit", "audit", "return head if anchored else None", "return head"),
    ("test_store", "store/tables", "if step <= self.last_step(authenticator):", "if False:"),
    ("test_store", "store/tables", "s.session.c.ended.is_(None))\n_SECRET", "True)\n_SECRET"),
    ("test_rules", "rules", "if key not in entry:", "if False:"),
]


def main(word: str = "") -> None:
    chosen = [mutant for mutant in MUTANTS if word in mutant[1]]
    alive = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("policy", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for tests, module, old, new in chosen:
            path = copy / "policy" / f"{module}.py"
            text = path.read_text()
            if text.count(old) < 1:
                alive.append(f"{module}: `{old}` is not there any more")
                continue
            path.write_text(text.replace(old, new, 1))
            if not _noticed(copy, tests):
                alive.append(f"{module}: `{old}` -> `{new}`")
                print("survives", alive[-1], flush=True)
            path.write_text(text)
    print("\n".join(["survivors:", *alive] if alive else [f"all {len(chosen)} mutants were noticed"]))
    sys.exit(bool(alive))


def _noticed(copy: Path, tests: str) -> bool:
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/policy/{tests}.py"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, check=False, timeout=120)
    if done.returncode not in (0, 1):
        raise SystemExit(f"the tests of {tests} did not run: {done.stdout.decode()[-400:]}")
    return done.returncode == 1


if __name__ == "__main__":
    main(*sys.argv[1:2])
