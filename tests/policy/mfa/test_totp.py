"""One-time codes (RFC 6238): right once, for a while, in ASCII."""

import pyotp
import pytest

from policy.mfa import totp

SECRET = totp.new_secret(b"12345678901234567890")  # of RFC 6238 appendix B
NOW = 1111111111.0


def code(at: float) -> str:
    return pyotp.TOTP(SECRET).at(int(at))


def test_the_vectors_of_rfc_6238():
    """Its SHA-1 rows; ours have the last six of their eight digits."""
    for at, wanted in ((59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")):
        assert totp.check(SECRET, wanted, at, None) == at // 30


@pytest.mark.parametrize(("seconds", "fits"), [(-61, False), (-30, True), (0, True), (30, True), (62, False)])
def test_the_window_is_one_step_to_either_side(seconds, fits):
    assert (totp.check(SECRET, code(NOW + seconds), NOW, None) is not None) is fits


def test_a_step_counts_once():
    step = totp.check(SECRET, code(NOW), NOW, None)
    assert step == NOW // 30
    assert totp.check(SECRET, code(NOW), NOW, step) is None
    assert totp.check(SECRET, code(NOW - 30), NOW, step) is None, "older after newer"
    assert totp.check(SECRET, code(NOW + 30), NOW, step) == step + 1


def test_a_clock_that_went_back_proves_nothing():
    assert totp.check(SECRET, code(NOW - 86400), NOW - 86400, int(NOW) // 30) is None


@pytest.mark.parametrize(
    "text", ["", "12345", "1234567", "٢٨٧٠٨٢", "28708²", " 287082", "287082\n", "+87082", "0x7082", "２８７０８２"]
)
def test_what_is_no_code(text):
    assert totp.check(SECRET, text, 59, None) is None


def test_before_the_epoch_of_steps():
    assert totp.check(SECRET, code(0), 0, None) == 0


def test_enrolment():
    with pytest.raises(ValueError, match="entropy"):
        totp.new_secret(b"short")
    uri = totp.otpauth_uri(SECRET, "alice@example.org")
    assert uri.startswith("otpauth://totp/bastion:alice%40example.org?secret=")
