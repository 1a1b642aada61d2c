"""Passwords of accounts in Active Directory: against Samba's domain controller, as policyd asks for it."""

from collections.abc import Iterator
from typing import Any

import pytest
import trio

from bastion.courier import ldap, ldap_password
from bastion.courier.reach import Reach
from policy.ldap.passwords import judged, verified
from policy.messages import LdapCall, LdapPassword, Worked
from tests.support.samba_ad import ADMINISTRATOR_PASSWORD, REALM, Controller, missing

OLD, NEW = b"first-Password-0815", b"Second-Password-4711"
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it can run")


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    controller = Controller(tmp_path_factory.mktemp("ad") / "home")
    try:
        yield controller.start()
    finally:
        controller.stop()


def change(controller: Controller, entry: str, **more: Any) -> Worked:
    given: dict[str, Any] = {
        "bind": controller.login, "password": ADMINISTRATOR_PASSWORD.encode(), "way": "unicode", "new": NEW,
    } | more  # fmt: skip
    order = LdapPassword(task=3, url=controller.url, trust=controller.ca.pem, entry=entry, **given)
    return judged(trio.run(ldap_password.call, order, Reach()))


def opens(controller: Controller, name: str) -> list[bytes]:
    """Which of the two passwords does."""
    calls = [
        LdapCall(task=1, url=controller.url, bind=f"{name}@{REALM}", password=password, trust=controller.ca.pem)
        for password in (OLD, NEW)
    ]
    return [call.password for call in calls if verified(trio.run(ldap.call, call, Reach())).outcome == "done"]


def test_an_administrator_resets_a_password(controller: Controller) -> None:
    svc = controller.add("svc-reset", OLD.decode())
    assert opens(controller, "svc-reset") == [OLD]
    assert change(controller, svc) == Worked(task=0, outcome="done")
    # A domain takes the password before for an hour more (OldPasswordAllowedPeriod): that it opens proves nothing.
    assert opens(controller, "svc-reset") == [OLD, NEW]


def test_what_the_domain_refuses(controller: Controller) -> None:
    svc = controller.add("svc-refused", OLD.decode())
    weak = change(controller, svc, new=b"short")
    assert weak.outcome == "refused"
    assert "password" in weak.detail.lower()
    assert change(controller, svc.replace("svc-refused", "nobody")).outcome == "refused"
    assert change(controller, svc, password=b"wrong").outcome == "refused"
    stranger = change(controller, svc, bind=f"svc-refused@{REALM}", password=OLD)
    assert stranger.outcome == "refused", "who is no administrator resets nothing"
    assert change(controller, svc, old=b"not the old one", bind=f"svc-refused@{REALM}", password=OLD).outcome == (
        "refused"
    )
    assert opens(controller, "svc-refused") == [OLD]


def test_its_owner_changes_it(controller: Controller) -> None:
    svc = controller.add("svc-change", OLD.decode())
    answer = change(controller, svc, bind=f"svc-change@{REALM}", password=OLD, old=OLD)
    # A domain lets a password be changed once a day, and a new account has used that up.
    assert answer.outcome == "refused"
    assert "too young" in answer.detail
    assert opens(controller, "svc-change") == [OLD]
    controller._tool("domain", "passwordsettings", "set", "--min-pwd-age=0", f"--configfile={controller.configuration}")
    answer = change(controller, svc, bind=f"svc-change@{REALM}", password=OLD, old=OLD)
    assert answer == Worked(task=0, outcome="done")
    assert NEW in opens(controller, "svc-change")
