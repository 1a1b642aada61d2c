"""Secrets for calls to the outside, and that policy/OUTSIDE.md says what the program does."""

import re
import time
from pathlib import Path

import pytest

from policy.notices.notify import Topic, signed
from policy.outside.secrets import MAX_SECRET, OutsideError, missing, read_secret, read_trust
from policy.rules.ruleset import parse_rules
from policy.tickets.model import Kind

TEXT = (Path(__file__).parents[3] / "policy/OUTSIDE.md").read_text()


def test_each_example_is_read() -> None:
    *blocks, active_directory = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    found = parse_rules("\n".join(blocks), "OUTSIDE.md")
    assert found.directory is not None
    assert parse_rules(active_directory, "OUTSIDE.md").directory is not None  # a bastion has one
    assert {system.kind for system in found.tickets.values()} == set(Kind)
    assert len(found.notify) == 4
    for topic in Topic:
        assert f"`{topic}`" in TEXT


def test_the_check_of_a_signature_is_right() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    body = b'{"text": "x"}'
    names = {"key": b"k", "headers": signed("k", int(time.time()), body), "body": body}
    exec(f"import hashlib, hmac, time\n{code}", names)
    for wrong in ({"body": b"x"}, {"key": b"j"}, {"headers": signed("k", int(time.time()) - 600, body)}):
        with pytest.raises(AssertionError):
            exec(f"import hashlib, hmac, time\n{code}", names | wrong)


def secret(folder: Path, data: bytes, mode: int = 0o600) -> str:
    path = folder / "secret"
    path.write_bytes(data)
    path.chmod(mode)
    return read_secret("file:secret", folder, {})


def test_a_secret_is_one_line_of_a_file(tmp_path: Path) -> None:
    assert secret(tmp_path, b"  s3cret \n") == "s3cret"
    assert secret(tmp_path, b"s3cret", 0o640) == "s3cret"
    assert read_secret("", tmp_path, {}) == ""
    assert read_secret("credential:secret", Path("/"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "s3cret"


@pytest.mark.parametrize(
    ("data", "mode", "why"),
    [
        (b"s3cret", 0o604, "others may use"), (b"s3cret", 0o602, "others may use"), (b"", 0o600, "no secret"),
        (b" \n", 0o600, "no secret"), (b"a\nb", 0o600, "no secret"), (b"a\r\nX: y", 0o600, "no secret"),
        ("é".encode(), 0o600, "no secret"), (b"\xff", 0o600, "is not UTF-8"),
        (b"x" * (MAX_SECRET + 1), 0o600, "longer"),
    ],
)  # fmt: skip
def test_what_is_no_secret(tmp_path: Path, data: bytes, mode: int, why: str) -> None:
    with pytest.raises(OutsideError, match=why) as caught:
        secret(tmp_path, data, mode)
    assert "s3cret" not in str(caught.value).replace(str(tmp_path), "")


def test_what_rules_name_and_is_not_there(tmp_path: Path) -> None:
    text = (
        '[tickets.jira]\nkind = "jira"\nurl = "https://x"\nstatus = ["x"]\ntoken = "file:none"\nca = "ca.pem"\n'
        '[tickets.small]\nkind = "file"\nfile = "t.toml"\nstatus = ["x"]\n'
        '[[notify]]\nname = "a"\nwebhook = "https://x"\nkey = "file:open"\n'
        '[[notify]]\nname = "b"\nwebhook = "credential:elsewhere"\n'
    )
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o666)
    found = list(missing(parse_rules(text), tmp_path))
    keys = ["tickets.jira.token", "tickets.jira.ca", "tickets.small.file", "notify `a`: key"]
    assert [one.partition(": `")[0].partition(": others")[0] for one in found] == keys
    for name in ("none", "ca.pem", "t.toml", "open"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o600)
    assert list(missing(parse_rules(text), tmp_path)) == []


def test_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match="no such file"):
        read_secret("file:none", tmp_path, {})
    with pytest.raises(OutsideError, match="CREDENTIALS_DIRECTORY is not set"):
        read_secret("credential:none", tmp_path, {})
    with pytest.raises(OutsideError, match="not a regular file"):
        read_secret("file:.", tmp_path, {})
    (tmp_path / "ca").write_bytes(b"x" * 40_000)
    with pytest.raises(OutsideError, match="longer"):
        read_trust("ca", tmp_path)
    assert read_trust("", tmp_path) == ""
