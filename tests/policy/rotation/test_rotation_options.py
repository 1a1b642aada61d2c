"""Options of `[[rotation]]`: what each driver takes, and names of entries that an account cannot break out of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.rotation.options import entry_of, in_dn, login_of, problems

LDAP = {"url": "ldaps://dc1", "entry": "CN={account},OU=Service,DC=x"}


@pytest.mark.parametrize(
    ("driver", "options", "keys"),
    [
        ("ssh", {}, []),
        ("ssh", {"url": "x"}, ["url"]),
        ("ldap", LDAP, []),
        ("ldap", LDAP | {"way": "unicode", "ca": "ca.pem", "login": "{account}@X", "bind": "b", "secret": "a/b"}, []),
        ("ldap", {}, ["url", "entry"]),
        ("ldap", LDAP | {"url": "http://x"}, ["url"]),
        ("ldap", LDAP | {"way": "magic"}, ["way"]),
        ("ldap", LDAP | {"entry": "CN=all"}, ["entry"]),
        ("ldap", LDAP | {"login": "one-for-all"}, ["login"]),
        ("ldap", LDAP | {"bind": "b"}, ["bind"]),
        ("ldap", LDAP | {"secret": "a/b"}, ["bind"]),
        ("ldap", LDAP | {"script": "x"}, ["script"]),
        ("script", {"script": "oracle"}, []),
        ("script", {}, ["script"]),
    ],
)
def test_what_is_wrong_with_them(driver: str, options: dict[str, str], keys: list[str]) -> None:
    assert [key for key, _ in problems(driver, options)] == keys


def test_names_that_an_account_stands_in() -> None:
    assert entry_of(LDAP, "svc-a") == "CN=svc-a,OU=Service,DC=x"
    assert login_of(LDAP, "svc-a") == "CN=svc-a,OU=Service,DC=x"
    assert login_of(LDAP | {"login": "{account}@X.TEST"}, "svc-a") == "svc-a@X.TEST"
    assert login_of(LDAP | {"login": "uid={account},dc=y"}, "a,b") == "uid=a\\,b,dc=y"


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        ("a,CN=Administrator", "a\\,CN\\=Administrator"), (" a ", "\\ a\\ "), ("#a", "\\#a"), ("a+b", "a\\+b"),
        ('"', '\\"'), ("\\", "\\\\"), ("a\x00b", "a\\00b"), ("ä", "ä"), (" ", "\\ "), ("<a;b>", "\\<a\\;b\\>"),
    ],
)  # fmt: skip
def test_what_is_escaped(value: str, escaped: str) -> None:
    """RFC 4514 section 2.4. The attack: an account called `a,OU=Admins` names somebody else's entry."""
    assert in_dn(value) == escaped


@given(st.text(max_size=20))
def test_it_is_one_value_whatever_is_in_it(value: str) -> None:
    """Read again as RFC 4514 section 3 has it, it is what it was."""
    text, found, at = in_dn(value), bytearray(), 0
    while at < len(text):
        if text[at] != "\\":
            assert text[at] not in ',+"<>;=#'
            found += text[at].encode("utf-8", "surrogatepass")
            at += 1
        elif (
            text[at + 1] in "0123456789abcdef"
            and text[at + 1 : at + 3].strip("0123456789abcdef") == ""
            and (len(text[at + 1 : at + 3]) == 2)
        ):
            found.append(int(text[at + 1 : at + 3], 16))
            at += 3
        else:
            found += text[at + 1].encode("utf-8", "surrogatepass")
            at += 2
    assert found == value.encode("utf-8", "surrogatepass")
