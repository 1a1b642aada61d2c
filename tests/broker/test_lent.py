"""A password that a person has checked out is theirs alone: applications read it when it is back."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bastion.broker.client import Broker, BrokerError
from policy import messages as m
from tests.broker.place import Answer, Place, Talk
from tests.policy.conftest import _fill
from tests.policy.policyd import Policyd
from tests.policy.vaulting import RULES, bring, done, out, revealed, take

SECRET = "/v1/secrets/deploy@web1"
PLACE = "deploy@web1"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    daemon = _fill(Policyd(tmp_path_factory.mktemp("b")))
    daemon.rules = RULES
    daemon.write()
    daemon.start()
    place = Place(daemon).start()
    try:
        place.application("shop", PLACE, "root@web1")
        place.application("other")
        yield place
    finally:
        place.stop()
        daemon.stop()


@pytest.fixture(autouse=True)
def everything_is_back(place: Place) -> Iterator[None]:
    yield
    for one in out(place.policyd):
        place.policyd.done(m.CheckoutReturn(checkout=one["checkout"], force=True, reason="the test is over"))


def asks(talk: Talk, path: str = SECRET, application: str = "shop", method: str = "GET") -> Answer:
    return talk.get(path, f"Bastion-Application: {application}", method=method)


def test_it_is_not_read_while_a_person_has_it(place: Place) -> None:
    with place.policyd.login("alice") as alice, place.local() as talk:
        ident = revealed(take(alice, PLACE, seconds=600)).data["checkout"]
        answer = asks(talk)
        assert (answer.status, answer.told.get("error")) == (423, "a person has this password checked out")
        assert 500 < int(answer.headers["retry-after"]) <= 600
        assert b"alice" not in answer.body, "with whom is not for programs to know"
        assert asks(talk, "/v1/secrets/root@web1").status == 200, "another account of the target"
        event = place.policyd.audit("secret-refused")[0]
        assert (event["what"], event["why"]) == (PLACE, "checked out by alice")
        done(bring(alice, ident))
        assert asks(talk).status == 200


def test_who_may_not_read_it_does_not_hear_that_it_is_out(place: Place) -> None:
    with place.policyd.login("alice") as alice, place.local() as talk:
        before = asks(talk, application="other")
        revealed(take(alice, PLACE))
        after = asks(talk, application="other")
        assert (before.status, after.status) == (403, 403)
        assert before.told["error"] == after.told["error"]
        assert "retry-after" not in after.headers


def test_a_lease_of_it_is_not_renewed_and_goes_on_afterwards(place: Place) -> None:
    with place.policyd.login("alice") as alice, place.local() as talk:
        lease = asks(talk).told["lease"]
        revealed(take(alice, PLACE, seconds=600))
        answer = asks(talk, f"/v1/leases/{lease}/renew", method="POST")
        assert answer.status == 423
        assert 500 < int(answer.headers["retry-after"]) <= 600
        assert place.policyd.audit("lease-refused")[0]["why"] == "checked out by alice"
        with place.local() as stranger:
            assert asks(stranger, f"/v1/leases/{lease}/renew", "other", "POST").status == 410
        done(bring(alice, PLACE))
        assert asks(talk, f"/v1/leases/{lease}/renew", method="POST").status == 200
        revealed(take(alice, PLACE))
        assert asks(talk, f"/v1/leases/{lease}", method="DELETE").status == 200, "given back at any time"


def test_over_and_not_yet_back_is_still_out(place: Place) -> None:
    """Its time is over by the clock, and policyd has not looked: the program waits a second more."""
    with place.policyd.login("alice") as alice, place.local() as talk:
        lease = asks(talk).told["lease"]
        ident = revealed(take(alice, PLACE, seconds=600)).data["checkout"]
        place.sql("UPDATE checkout SET ends = 1 WHERE id = ?", (ident,))
        for answer in (asks(talk), asks(talk, f"/v1/leases/{lease}/renew", method="POST")):
            assert (answer.status, answer.headers.get("retry-after")) == (423, "1")


def test_the_clients_say_so_and_do_not_wait_for_hours(place: Place) -> None:
    with place.policyd.login("alice") as alice, Broker(str(place.socket), application="shop") as broker:
        revealed(take(alice, PLACE, seconds=600))
        with pytest.raises(BrokerError, match="checked out") as error:
            broker.get(PLACE)
        assert error.value.status == 423
        assert error.value.retry_after is not None
        assert 500 < error.value.retry_after <= 600


def test_reads_and_checkouts_at_once(place: Place) -> None:
    """Whoever began first: no read is kept after the checkout, and before its return."""
    stop = threading.Event()
    ((began,),) = place.sql("SELECT max(seq) FROM audit")

    def read() -> set[int]:
        seen = set()
        with place.local() as talk:
            while not stop.is_set():
                seen.add(asks(talk).status)
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        with place.policyd.login("alice") as alice:
            for _ in range(25):
                ident = revealed(take(alice, PLACE)).data["checkout"]
                done(bring(alice, ident))
        stop.set()
        statuses = set().union(*(reader.result() for reader in readers))
    assert statuses <= {200, 423, 429}
    assert {200, 423} <= statuses, "both happened, or nothing was tried"
    rows: list[Any] = place.sql(
        "SELECT event FROM audit WHERE event IN ('checkout', 'checkin', 'secret-read') AND seq > ? ORDER BY seq",
        (began,),
    )
    is_out = False
    for (event,) in rows:
        assert not (is_out and event == "secret-read")
        is_out = event == "checkout" or (is_out and event != "checkin")


def test_a_session_that_was_granted_before_is_not_injected_with_it(place: Place) -> None:
    """Authorised before the checkout, dialled after it: what is done meanwhile has one name."""
    with place.policyd.login("alice") as alice, place.policyd.login("bob") as bob:
        before = bob.ask(m.Authorize(account="deploy", target="web1"))
        own = alice.ask(m.Authorize(account="deploy", target="web1"))
        assert isinstance(before, m.Grant)
        assert isinstance(own, m.Grant)
        revealed(take(alice, PLACE))
        refused = bob.ask(m.Credential(session=before.session, session_key=b""))
        assert isinstance(refused, m.Refused)
        assert (refused.code, "checked out by `alice`" in refused.cause) == (75, True)
        assert isinstance(alice.ask(m.Credential(session=own.session, session_key=b"")), m.UsePassword)
        done(bring(alice, PLACE))
        assert isinstance(bob.ask(m.Credential(session=before.session, session_key=b"")), m.UsePassword), (
            "the try did not count"
        )
