"""One-time passwords by time (RFC 6238): SHA-1, 6 digits, 30 seconds, because every app can do these. Pure."""

import base64
import hmac
from typing import Final

import pyotp

SECRET_BYTES: Final = 20  # 160 bits, RFC 4226 section 4 R6
STEP: Final = 30  # seconds
DIGITS: Final = 6
WINDOW: Final = 1  # steps to either side: RFC 6238 section 5.2 asks for at most one of transmission delay


def new_secret(entropy: bytes) -> str:
    """An enrolment secret in base32 from 20 random bytes."""
    if len(entropy) != SECRET_BYTES:
        raise ValueError(f"got {len(entropy)} bytes of entropy, want {SECRET_BYTES}")
    return base64.b32encode(entropy).decode()


def otpauth_uri(secret: str, person: str, issuer: str = "bastion") -> str:
    """What authenticator apps read (Google's Key Uri Format). It holds the secret: show it once, log it never."""
    return pyotp.TOTP(secret, digits=DIGITS, interval=STEP).provisioning_uri(name=person, issuer_name=issuer)


def check(secret: str, code: str, now: float, last_step: int | None) -> int | None:
    """The time step that `code` proves at `now` (Unix seconds), or None.

    `last_step` is the newest step already used. A step counts once (RFC 6238 section 5.2), so the caller stores the
    returned one by compare-and-set and takes a lost race for a refusal.
    """
    if not (len(code) == DIGITS and code.isascii() and code.isdigit()):
        return None
    totp = pyotp.TOTP(secret, digits=DIGITS, interval=STEP)
    current = int(now) // STEP
    accepted: int | None = None
    for step in range(current - WINDOW, current + WINDOW + 1):
        # No early end: time tells neither which step fitted nor that one did. The newest is taken, so that of two
        # equal codes the later cannot be replayed.
        fits = step >= 0 and hmac.compare_digest(totp.generate_otp(max(step, 0)), code)
        if fits and (last_step is None or step > last_step):
            accepted = step
    return accepted
