"""HTTPS: a token is good from its own certificate or address alone; whoever is not known hears the same."""

import socket
import ssl
import statistics
import time

import pytest

from policy import messages as m
from tests.broker.place import Place
from tests.support.net import LOOPBACK

SECRET = "/v1/secrets/deploy@web1"
VALUE = "password of deploy"
ELSEWHERE = "127.0.0.2"


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def test_a_token_and_its_certificate(place: Place) -> None:
    place.application("shop", "deploy@web1", certificate=place.fingerprint("shop"))
    token = place.token("shop", seconds=600)
    with place.remote("shop") as talk:
        answer = talk.get(SECRET, bearer(token))
        assert (answer.status, answer.told["value"]) == (200, VALUE)
        assert 500 <= talk.get("/v1/self", bearer(token)).told["token_expires_in"] <= 600
    for client in ("thief", ""):
        with place.remote(client) as talk:
            assert talk.get(SECRET, bearer(token)).status == 401
    # the certificate alone is not enough
    with place.remote("shop") as talk:
        assert talk.get(SECRET).status == 401
        assert talk.is_closed()
    events = place.policyd.audit("secret-read")[0]
    assert (events["who"], events["source"]) == ("application shop", LOOPBACK)
    assert "token=t" in events["detail"]


def test_a_certificate_of_another_ca_ends_the_handshake(place: Place) -> None:
    with pytest.raises((ssl.SSLError, OSError, AssertionError)), place.remote("stranger") as talk:
        talk.get(SECRET)  # with TLS 1.3 the refusal comes with the first answer


def test_a_token_and_its_address(place: Place) -> None:
    place.application("cron", "deploy@web1", addresses=[f"{LOOPBACK}/32", ELSEWHERE])
    token = place.token("cron", addresses=[LOOPBACK])
    with place.remote() as talk:
        assert talk.get(SECRET, bearer(token)).status == 200
    with place.remote(source=ELSEWHERE) as talk:
        assert talk.get(SECRET, bearer(token)).status == 401
    assert "came from elsewhere" in place.policyd.audit("application-refused")[0]["why"]


def test_the_applications_own_bindings_hold_as_well(place: Place) -> None:
    place.application("both", "deploy@web1", certificate=place.fingerprint("shop"), addresses=[ELSEWHERE])
    token = place.token("both", addresses=["127.0.0.0/8"])
    with place.remote("shop", ELSEWHERE) as talk:
        assert talk.get(SECRET, bearer(token)).status == 200
    for client, source in (("shop", LOOPBACK), ("", ELSEWHERE), ("thief", ELSEWHERE)):
        with place.remote(client, source) as talk:
            assert talk.get(SECRET, bearer(token)).status == 401


def test_bindings_of_the_machine_do_not_hold_over_https(place: Place) -> None:
    place.application("here", "deploy@web1")
    refused = place.policyd.command(m.ApplicationToken(name="here", addresses=[LOOPBACK]))
    assert "bound to this machine" in refused.cause
    # nor those of HTTPS on the local socket
    place.application("there", "deploy@web1", addresses=[LOOPBACK])
    token = place.token("there")
    with place.local() as talk:
        assert talk.get(SECRET, "Bastion-Application: there", bearer(token)).status == 401


def test_nobody_hears_the_same_whatever_is_wrong(place: Place) -> None:
    """Unknown, expired, revoked, disabled, stolen: one answer."""
    place.application("victim", "deploy@web1", addresses=[LOOPBACK])
    place.application("off", "deploy@web1", addresses=[LOOPBACK])
    tokens = {"unknown": "app-" + "a" * 52, "none": ""}
    tokens["expired"] = place.token("victim", seconds=1)
    tokens["revoked"] = place.token("victim")
    shown = place.policyd.done(m.ApplicationShow(name="victim"))
    ident = [row[0].split()[1] for row in shown.rows if row[0].startswith("token")][-1]
    place.policyd.done(m.ApplicationRevoke(name="victim", ident=ident))
    tokens["stolen"] = place.token("victim", addresses=[ELSEWHERE])
    tokens["disabled"] = place.token("off")
    place.policyd.done(m.ApplicationSet(name="off", disabled=True))
    answers = {}
    deadline = time.monotonic() + 20
    for name, token in tokens.items():
        while True:  # until the short-lived one is over, and within the rate that nobody has
            with place.remote() as talk:
                answer = talk.get(SECRET, *([bearer(token)] if token else []))
            if answer.status == 401 or time.monotonic() > deadline:
                break
        answers[name] = (answer.status, {**answer.told, "ref": ""}, sorted(answer.headers))
    assert set(map(str, answers.values())) == {str(answers["unknown"])}
    assert answers["unknown"][0] == 401
    whys = " | ".join(event["why"] for event in place.policyd.audit("application-refused"))
    for why in ("no such token", "no token", "has expired", "was revoked", "came from elsewhere", "disabled"):
        assert why in whys, why


def test_a_wrong_token_takes_as_long_as_another_wrong_token(place: Place) -> None:
    """One way to the refusal: a guess that finds a token waits for the same row of the trail as one that finds none."""
    place.application("timed", "deploy@web1", addresses=[LOOPBACK])
    stolen = place.token("timed", addresses=[ELSEWHERE])

    def alike() -> bool:
        took: dict[str, list[float]] = {stolen: [], "app-" + "b" * 52: []}
        for _ in range(6):
            for token, times in took.items():
                with place.remote() as talk:
                    talk.get("/nothing")
                    began = time.perf_counter()
                    assert talk.get(SECRET, bearer(token)).status in (401, 429)
                    times.append(time.perf_counter() - began)
        first, second = (statistics.median(times) for times in took.values())
        return max(first, second) < 5 * min(first, second)

    assert any(alike() for _ in range(4)), "what is told is told again; what others on the machine do is not"


def test_a_token_that_is_taken_back_ends_on_an_open_connection(place: Place) -> None:
    place.application("open", "deploy@web1", addresses=[LOOPBACK])
    token = place.token("open")
    with place.remote() as talk:
        assert talk.get(SECRET, bearer(token)).status == 200
        place.policyd.done(m.ApplicationRevoke(name="open"))
        assert talk.get(SECRET, bearer(token)).status in (401, 429)  # what other tests tried counts for this address


def test_another_token_on_the_same_connection_is_another_application(place: Place) -> None:
    place.application("first", "deploy@web1", addresses=[LOOPBACK])
    place.application("second", addresses=[LOOPBACK])
    tokens = [place.token(name) for name in ("first", "second")]
    with place.remote() as talk:
        assert [talk.get(SECRET, bearer(token)).status for token in tokens] == [200, 403]
        assert [talk.get("/v1/self", bearer(token)).told["application"] for token in tokens] == ["first", "second"]


def test_tokens_survive_a_restart_by_their_hash_alone(place: Place) -> None:
    place.application("stays", "deploy@web1", addresses=[LOOPBACK])
    token = place.token("stays")
    (digest,) = place.sql("SELECT digest FROM application_token WHERE application = 'stays'")[0]
    assert token.encode() not in digest
    place.policyd.restart()
    with place.remote() as talk:
        assert talk.get(SECRET, bearer(token)).status == 200


def test_old_tls_is_refused(place: Place) -> None:
    context = ssl.create_default_context(cafile=str(place.pki / "ca.crt"))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError), socket.create_connection((LOOPBACK, place.port), timeout=20) as raw:
        context.wrap_socket(raw, server_hostname="localhost")


def test_a_session_is_not_resumed(place: Place) -> None:
    """A resumed session says whose certificate was shown once, not who is there."""
    with place.remote("shop") as talk:
        talk.get("/nothing")
        sock = talk.sock
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.session is None or not sock.session.has_ticket
