"""The pure parts: who is who, how often, what is asked, what /proc says."""

import re
from dataclasses import replace

import pytest

from bastion.broker import api
from bastion.broker.api import Self, Wrong
from bastion.broker.crowd import Crowd, host_of, plain
from bastion.broker.traces import started_of, unit_of
from policy.applications.judging import Known, Registry, Unknown, digest_of, within
from policy.applications.rates import BURST_SECONDS, MAX_SOURCES, SAY_AGAIN_SECONDS, Rates, Turn
from policy.messages import Applicant, EndLease, Leased, ReadSecret, Refused, RenewLease
from policy.records import Application, BrokerToken

SHOP = Application(
    name="shop", uid=1000, unit="shop.service", executable="/usr/bin/shop", rate=10, created=0, made_by="t"
)
HERE = Applicant(uid=1000, pid=7, unit="shop.service", executable="/usr/bin/shop")
CRON = Application(name="cron", addresses=("10.0.0.0/8",), rate=10, created=0, made_by="t")
TOKEN = BrokerToken(id="t1", application="cron", digest=digest_of("app-x"), addresses=("10.1.0.0/16",), made=0,
                    made_by="t", expires=100, first="t1", since=0, seconds=100)  # fmt: skip
THERE = Applicant(local=False, address="10.1.2.3", token="app-x")


def judged(seen: Applicant, *applications: Application, token: BrokerToken | None = None, now: int = 50) -> str:
    """The name of who it is, or why nobody."""
    found = Registry(applications or (SHOP,), [token] if token else []).judge(seen, now)
    return found.application.name if isinstance(found, Known) else found.why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, "shop"),
        ({"uid": 0}, "fits no application"),
        ({"unit": ""}, "fits no application"),
        ({"executable": "/tmp/shop"}, "fits no application"),
        ({"name": "shop"}, "shop"),
        ({"name": "shop", "uid": 0}, "not bound so: another uid"),
        ({"name": "shop", "unit": "x.service"}, "not bound so: another unit"),
        ({"name": "shop", "executable": ""}, "not bound so: another executable"),
        ({"name": "nobody"}, "no such application"),
        ({"local": False}, "no token"),
    ],
)
def test_all_bindings_hold_on_this_machine(change: dict[str, object], why: str) -> None:
    seen = Applicant(**{name: change.get(name, getattr(HERE, name)) for name in HERE.__struct_fields__})
    assert judged(seen) == why


def test_an_application_without_a_binding_is_nobody() -> None:
    assert (
        judged(Applicant(name="shop"), replace(SHOP, uid=None, unit="", executable=""))
        == "not bound so: it has no binding"
    )


def test_bindings_of_https_do_not_hold_on_this_machine() -> None:
    for one in (replace(CRON, name="shop"), replace(CRON, name="shop", addresses=(), certificate="ab")):
        seen = Applicant(name="shop", address="10.1.2.3", certificate="ab")
        assert judged(seen, one).startswith("not bound so: another")


def test_what_became_of_the_old_one_holds_for_the_new_one() -> None:
    """Whatever happens in memory while the row of a renewed token is written."""
    new = replace(TOKEN, id="t2", digest=digest_of("app-y"), made=50, expires=150)
    then = Applicant(local=False, address="10.1.2.3", token="app-y")

    def after(happens: str) -> tuple[str, str]:
        registry = Registry([CRON], [TOKEN])
        match happens:
            case "revoked":
                assert [one.id for one in registry.revoke("cron", 50, "t1")] == ["t1"]
            case "removed":
                registry.remove("cron")
            case "removed and back":
                registry = Registry([], [TOKEN])
        registry.renewed(TOKEN, new, 60)
        old, found = registry.judge(THERE, 70), registry.judge(then, 70)
        return tuple(one.token.id if isinstance(one, Known) and one.token else one.why for one in (old, found))  # type: ignore[union-attr]

    assert after("nothing") == ("token t1 has expired", "t2")
    assert after("revoked") == ("token t1 was revoked", "token t2 was revoked")
    assert after("removed")[1] == "no such token, or one that is over"
    assert after("removed and back")[1] == "no such token, or one that is over"


def test_taken_back_by_any_of_a_row() -> None:
    row = [replace(TOKEN, id=f"t{n}", digest=digest_of(f"app-{n}")) for n in (1, 2, 3)]
    other = replace(TOKEN, id="t4", first="t4", digest=digest_of("app-4"))
    strange = replace(TOKEN, id="t5", first="t1", application="shop", digest=digest_of("app-5"))
    for ident in ("t1", "t2", "t3"):
        registry = Registry([CRON, SHOP], [*row, other, strange])
        assert [one.id for one in registry.revoke("cron", 50, ident)] == ["t1", "t2", "t3"]
        assert [one.id for one in registry.tokens("cron", 50)] == ["t4"]
        assert [one.id for one in registry.tokens("shop", 50)] == ["t5"]
    assert Registry([CRON], row).revoke("cron", 50, "t9") == []
    assert len(Registry([CRON], [*row, other]).revoke("cron", 50)) == 4


def test_who_is_disabled_is_nobody() -> None:
    off = replace(SHOP, disabled=True)
    assert judged(HERE, off) == "fits no application"
    assert judged(Applicant(name="shop", uid=1000), off) == "disabled"
    assert judged(THERE, replace(CRON, disabled=True), token=TOKEN) == "disabled"


def test_who_fits_two_is_neither() -> None:
    assert "does not say which" in judged(HERE, SHOP, replace(SHOP, name="shop-2"))


@pytest.mark.parametrize(
    ("token", "seen", "why"),
    [
        ({}, {}, "cron"),
        ({}, {"token": "app-y"}, "no such token"),
        ({}, {"address": "10.2.2.3"}, "came from elsewhere"),
        ({}, {"address": ""}, "came from elsewhere"),
        ({}, {"name": "shop"}, "another than its token"),
        ({"expires": 50}, {}, "has expired"),
        ({"revoked": 1}, {}, "was revoked"),
        ({"addresses": ()}, {}, "bound to nothing"),
        ({"certificate": "ab"}, {}, "without its certificate"),
        ({"certificate": "ab"}, {"certificate": "ab"}, "cron"),
        ({"addresses": ("0.0.0.0/0",)}, {"address": "192.0.2.1"}, "not bound so: another address"),
        ({"application": "gone"}, {}, "application is gone"),
    ],
)
def test_a_token_is_good_from_its_own_place(token: dict[str, object], seen: dict[str, object], why: str) -> None:
    one = BrokerToken(**{name: token.get(name, getattr(TOKEN, name)) for name in BrokerToken.__dataclass_fields__})
    asks = Applicant(**{name: seen.get(name, getattr(THERE, name)) for name in THERE.__struct_fields__})
    assert why in judged(asks, CRON, SHOP, token=one)


def test_an_own_certificate_is_wanted_beside_the_tokens() -> None:
    both = replace(CRON, certificate="cd")
    assert judged(THERE, both, token=TOKEN) == "not bound so: another certificate"


def test_networks() -> None:
    assert within("10.1.2.3", ("192.0.2.0/24", "10.0.0.0/8"))
    assert within("2001:db8::1", ("2001:db8::/32",))
    assert not within("2001:db8::1", ("10.0.0.0/8",))
    assert not within("uid 7", ("0.0.0.0/0", "::/0"))


def test_what_was_removed_is_gone_with_its_tokens() -> None:
    registry = Registry([CRON], [TOKEN])
    registry.remove("cron")
    registry.put(CRON)
    assert isinstance(registry.judge(THERE, 50), Unknown)
    assert registry.tokens("cron", 50) == []


def test_a_bucket_fills_at_its_rate() -> None:
    rates = Rates()
    burst = int(10 * BURST_SECONDS)
    assert [rates.take("a", 10, 0.0) for _ in range(burst)] == [Turn.YES] * burst
    assert [rates.take("a", 10, 0.0) for _ in range(3)] == [Turn.NO_SAY_SO, Turn.NO, Turn.NO]
    assert rates.kept_back("a") == 3
    assert rates.take("b", 10, 0.0) is Turn.YES  # another's
    assert [rates.take("a", 10, 0.1) for _ in range(2)] == [Turn.YES, Turn.NO]
    assert rates.take("a", 10, 1000.0) is Turn.YES
    assert [rates.take("a", 10, 1000.0) for _ in range(burst)][-1] is Turn.NO_SAY_SO
    assert SAY_AGAIN_SECONDS < 1000


def test_a_flood_is_said_once_a_minute() -> None:
    rates = Rates()
    said = [now for now in range(600) for _ in range(100) if rates.take("a", 1, float(now)) is Turn.NO_SAY_SO]
    assert said == [*range(0, 600, int(SAY_AGAIN_SECONDS))]


def test_sources_are_forgotten_oldest_first() -> None:
    rates = Rates()
    for _ in range(2):
        rates.take("a", 0.5, 0.0)
    for number in range(MAX_SOURCES - 1):
        rates.take(f"s{number}", 0.5, 0.0)
    assert rates.take("a", 0.5, 0.0) is not Turn.YES
    for number in range(MAX_SOURCES):
        rates.take(f"t{number}", 0.5, 0.0)
    assert rates.take("a", 0.5, 0.0) is Turn.YES


def test_connections_are_counted() -> None:
    crowd = Crowd(most=3, of_one=2)
    assert [crowd.come("a"), crowd.come("a"), crowd.come("a")] == [True, True, False]
    assert [crowd.come("b"), crowd.come("c")] == [True, False]
    crowd.leave("a")
    assert crowd.come("c")


def test_an_address_counts_for_its_host() -> None:
    assert host_of("2001:db8::1") == host_of("2001:db8::ffff") != host_of("2001:db8:0:1::1")
    assert host_of("192.0.2.1") == "192.0.2.1"
    assert (plain("::ffff:192.0.2.1"), plain("fe80::1%eth0"), plain("192.0.2.1")) == (
        "192.0.2.1",
        "fe80::1",
        "192.0.2.1",
    )


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/shop.service\n", "shop.service"),
        ("0::/system.slice/system-shop.slice/shop@1.service\n", "shop@1.service"),
        ("0::/shop.slice/shop.service/payload\n", "shop.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service\n", "user@1000.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("12:cpu:/x\n1:name=systemd:/system.slice/shop.service\n0::/other.service\n", "shop.service"),
        ("9:name=systemd:/\n8:pids:/\n0::/system.slice/shop.service\n", "shop.service"),  # a container on such a host
        ("0::/evil.service/system.slice/shop.service\n", "evil.service"),
        ("0::/../shop.service\n", ""),
        ("0::/system.slice/shop.service (deleted)\n", ""),
        ("0::/system.slice/shop.service/payload (deleted)\n", ""),
        ("0::/docker/abc/system.slice/shop.service\n", ""),
        ("0::/\n", ""),
        ("4:memory:/system.slice/shop.service\n", ""),
        ("", ""),
    ],
)
def test_the_unit_of_a_control_group(cgroup: str, unit: str) -> None:
    assert unit_of(cgroup) == unit


def test_when_a_process_began() -> None:
    fields = " ".join(str(n) for n in range(4, 30))
    assert started_of(f"7 (sh) S {fields}") == 22
    assert started_of(f"7 (a) b) S 1 2) S {fields}") == 22  # its name is its own to choose
    assert (started_of(""), started_of("7 (sh) S 1 2"), started_of("7 (sh) " + "x " * 30)) == (-1, -1, -1)


HOST = (b"host", b"bastion")


def test_what_is_asked() -> None:
    asked = api.asked(b"GET", b"/v1/secrets/a%2fb@c", [HOST, (b"authorization", b"Bearer app-x")])
    assert (asked.body, asked.token) == (ReadSecret(name="a/b@c"), "app-x")
    lease = "0" * 32
    assert api.asked(b"POST", f"/v1/leases/{lease}/renew".encode(), []).body == RenewLease(lease=lease)
    assert api.asked(b"DELETE", f"/v1/leases/{lease}".encode(), []).body == EndLease(lease=lease)
    asked = api.asked(b"GET", b"/v1/self", [(b"bastion-application", b"shop")])
    assert (asked.body, asked.application) == (Self.SELF, "shop")
    assert "app-x" not in repr(api.asked(b"GET", b"/v1/self", [(b"authorization", b"Bearer app-x")]))


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        (b"GET", b"/v1/self", [(b"content-length", b"1")], 413),
        (b"GET", b"/v1/self", [(b"transfer-encoding", b"chunked")], 413),
        (b"GET", b"/v1/self", [(b"expect", b"100-continue")], 417),
        (b"GET", b"/v1/self", [(b"upgrade", b"h2c")], 417),
        (b"GET", b"/v1/self", [(b"authorization", b"Bearer x")] * 2, 400),
        (b"GET", b"/v1/self", [(b"bastion-application", b"x")] * 2, 400),
        (b"GET", b"/v1/self", [(b"bastion-application", b"X\xff")], 400),
        (b"GET", b"/v1/self", [(b"authorization", b"Bearer " + b"x" * 200)], 401),
        (b"GET", b"http://bastion/v1/self", [], 400),
        (b"GET", b"/v1/self?", [], 400),
        (b"GET", b"/v1/secrets/" + b"a" * 321, [], 400),
        (b"GET", b"/v1/secrets/%", [], 400),
        (b"GET", b"/v1/secrets/\xff", [], 400),
        (b"GET", b"/v1/secrets/a%0ab", [], 400),
        (b"GET", b"/" + b"a" * 1024, [], 400),
        (b"GET", b"/v2/self", [], 404),
        (b"PUT", b"/v1/self", [], 405),
        (b"DELETE", b"/v1/leases/" + b"Z" * 32, [], 410),
    ],
)
def test_what_is_asked_wrongly(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], status: int) -> None:
    with pytest.raises(Wrong) as wrong:
        api.asked(method, target, [HOST, *headers])
    assert wrong.value.answer.status == status


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (Refused(code=77, cause="c"), 403),
        (Refused(code=77, cause="c", need="identity"), 401),
        (Refused(code=75, cause="c", need="rate"), 429),
        (Refused(code=77, cause="c", need="lease"), 410),
        (Refused(code=69, cause="c"), 503),
        (Refused(code=78, cause="c"), 500),
        (None, 503),
    ],
)
def test_what_a_refusal_is_in_http(refused: Refused | None, status: int) -> None:
    answer = api.answer(refused)
    assert answer.status == status
    assert re.fullmatch(rb'\{"error": ".*"\}\n', answer.body)


def test_a_secret_that_is_no_text() -> None:
    reply = Leased(name="n", kind="generic", value=b"\xff", version=1, lease="l", seconds=1, longest=2)
    assert b'"value_base64":"/w=="' in api.answer(reply).body
