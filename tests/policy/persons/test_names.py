"""Names that are stored: no two look alike, none has an end that is not seen, and none is a common account's."""

import ipaddress

import pytest

from policy.names import (
    COMMON_ACCOUNTS,
    BadName,
    check_account_name,
    check_mail,
    check_person_name,
    check_target_name,
    plain_address,
)

LOOK_ALIKE = [
    "аlice",
    "Alice",
    "alice\u200b",
    "ａlice",
    "alice ",
    " alice",
    "al ice",
    "alice\n",
    "-alice",
    "..",
    "",
    "*",
]


@pytest.mark.parametrize("name", [*LOOK_ALIKE, "a@b@c", "a" * 65, *sorted(COMMON_ACCOUNTS)])
def test_persons(name):
    with pytest.raises(BadName):
        check_person_name(name)


@pytest.mark.parametrize("name", [*LOOK_ALIKE, "web1@x", "web#1", "w" * 129])
def test_targets(name):
    with pytest.raises(BadName):
        check_target_name(name)


@pytest.mark.parametrize("name", ["root@x", "röot", "ro ot", "root\n", "-oProxyCommand=x", "", "r" * 65, "$person"])
def test_accounts(name):
    with pytest.raises(BadName):
        check_account_name(name)


@pytest.mark.parametrize(
    "address",
    [
        "", "alice", "@example.org", "alice@", "a@b@c", "alice@example.org, bob@example.org", "a@b c", "Al <a@b>",
        "a@b>", "a@b\nRCPT TO:<c@d>", "a@b\r", "a@b\x00", "älice@example.org", "a`x`@b", "$person", '"a"@b',
        "a" * 251 + "@b.c",
    ],
)  # fmt: skip
def test_addresses_that_are_more_than_one_mailbox_or_none(address):
    with pytest.raises(BadName, match="want an address like"):
        check_mail(address)


def test_names_that_are_good():
    assert check_mail("a.b+c@mail.example.org") == "a.b+c@mail.example.org"
    assert check_person_name("alice@example.org") == "alice@example.org"
    assert check_target_name("web-1.example") == "web-1.example"
    assert check_account_name("DOMAIN\\svc$") == "DOMAIN\\svc$"


@pytest.mark.parametrize(
    ("text", "address"),
    [("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1"), ("::1", "::1")],
)
def test_addresses(text, address):
    """A rule for 10.0.0.0/8 has to hold whatever socket the connection came through."""
    found = plain_address(text)
    assert str(found) == address
    assert getattr(found, "scope_id", None) is None
    assert isinstance(found, ipaddress.IPv4Address | ipaddress.IPv6Address)
