"""A token changed for a newer one: by who has it, from where it is good, as long as an administrator lets it be."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bastion.broker.client import Broker, BrokerError
from policy import messages as m
from tests.broker.place import Answer, Place
from tests.support.net import LOOPBACK

SECRET = "/v1/secrets/deploy@web1"
RENEW = "/v1/token/renew"
ELSEWHERE = "127.0.0.2"
DAY = 24 * 3600


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def renew(place: Place, token: str, client: str = "", source: str = LOOPBACK) -> Answer:
    with place.remote(client, source) as talk:
        return talk.get(RENEW, bearer(token), method="POST")


def reads(place: Place, token: str, client: str = "", source: str = LOOPBACK) -> int:
    with place.remote(client, source) as talk:
        return talk.get(SECRET, bearer(token)).status


def ids(place: Place, name: str) -> list[str]:
    rows = place.policyd.done(m.ApplicationShow(name=name)).rows
    return [row[0].split()[1] for row in rows if row[0].startswith("token ")]


def test_a_token_is_changed_for_a_newer_one(place: Place) -> None:
    place.application("renews", "deploy@web1", addresses=[LOOPBACK], renewable=30 * DAY)
    old = place.token("renews", seconds=3600)
    answer = renew(place, old)
    assert answer.status == 200, answer.body
    told = answer.told
    assert (told["expires_in"], told["old_expires_in"]) == (3600, 300)
    assert 30 * DAY - 60 < told["renewable_for"] < 30 * DAY
    new = told["token"]
    assert new != old
    assert (reads(place, new), reads(place, old)) == (200, 200), "an answer that was lost costs nothing"
    with place.remote() as talk:
        assert talk.get("/v1/self", bearer(old)).told["token_expires_in"] <= 300
        assert talk.get("/v1/self", bearer(new)).told["token_expires_in"] > 3500
    event = place.policyd.audit("application-token-renew")[0]
    first, second = ids(place, "renews")
    assert (event["who"], event["what"]) == ("application renews", "renews")
    assert f"token={first}" in event["detail"]
    assert f"new token={second}" in event["detail"]
    assert new not in place.policyd.log()
    assert answer.headers["cache-control"] == "no-store"
    place.policyd.restart()
    assert reads(place, new) == 200
    with place.remote() as talk:
        assert talk.get("/v1/self", bearer(old)).told["token_expires_in"] <= 300, "its end is kept, too"


def test_the_overlap_is_no_longer_than_the_old_one_had(place: Place) -> None:
    place.application("short", "deploy@web1", addresses=[LOOPBACK], renewable=DAY)
    old = place.token("short", seconds=60)
    told = renew(place, old).told
    assert told["old_expires_in"] <= 60
    assert told["expires_in"] == 60


def test_a_stolen_token_is_not_renewed(place: Place) -> None:
    """From another address, without its certificate, with another's: as for every other request, nobody is known."""
    place.application("robbed", "deploy@web1", addresses=[f"{LOOPBACK}/32", ELSEWHERE], renewable=DAY)
    token = place.token("robbed", addresses=[LOOPBACK])
    assert renew(place, token, source=ELSEWHERE).status == 401
    place.application("certified", "deploy@web1", certificate=place.fingerprint("shop"), renewable=DAY)
    token = place.token("certified")
    for client in ("thief", ""):
        assert renew(place, token, client).status == 401
    new = renew(place, token, "shop").told["token"]
    # and what came of it is good from where that was
    assert reads(place, new, "shop") == 200
    assert reads(place, new, "thief") == 401
    assert reads(place, new) == 401


def test_taken_back_with_all_that_came_of_it(place: Place) -> None:
    """Attack: a thief renews what they stole, and the owner takes back what was stolen."""
    place.application("taken", "deploy@web1", addresses=[LOOPBACK], renewable=DAY)
    first, other = place.token("taken"), place.token("taken")
    ident = ids(place, "taken")[0]
    second = renew(place, first).told["token"]
    third = renew(place, second).told["token"]
    done = place.policyd.done(m.ApplicationRevoke(name="taken", ident=ident))
    assert done.data["tokens"] == "3"
    for token in (first, second, third):
        assert reads(place, token) in (401, 429)
        assert renew(place, token).status in (401, 429)
    assert reads(place, other) in (200, 429)
    place.policyd.restart()
    assert [reads(place, token) for token in (first, second, third, other)] == [401, 401, 401, 200]


def test_taken_back_by_the_id_of_what_is_long_over(place: Place) -> None:
    place.application("chain", "deploy@web1", addresses=[LOOPBACK], renewable=DAY)
    first = place.token("chain")
    (ident,) = ids(place, "chain")
    second = renew(place, first).told["token"]
    third = renew(place, second).told["token"]
    place.sql("DELETE FROM application_token WHERE id = ?", (ident,))  # over, and made room
    place.policyd.restart()
    place.policyd.done(m.ApplicationRevoke(name="chain", ident=ident))
    place.policyd.restart()
    assert reads(place, third) == 401


def test_a_disabled_application_renews_nothing(place: Place) -> None:
    place.application("stopped", "deploy@web1", addresses=[LOOPBACK], renewable=DAY)
    token = place.token("stopped")
    with place.remote() as talk:
        assert talk.get(RENEW, bearer(token), method="POST").status == 200
        place.policyd.done(m.ApplicationSet(name="stopped", disabled=True))
        assert talk.get(RENEW, bearer(token), method="POST").status == 401, "nor on a connection that was open before"
    assert renew(place, token).status == 401
    place.policyd.done(m.ApplicationRemove(name="stopped"))
    assert renew(place, token).status == 401


def test_not_past_the_bound_of_the_first_one(place: Place) -> None:
    place.application("bound", "deploy@web1", addresses=[LOOPBACK], renewable=5400)
    token = place.token("bound", seconds=3600)
    place.sql("UPDATE application_token SET since = since - 1800000000000 WHERE application = 'bound'")
    place.policyd.restart()
    answer = renew(place, token)  # the first one was made half an hour ago, and may last for one hour more
    assert answer.status == 403, "it ends as late as it may"
    assert answer.told["error"] == "this token is not renewed any more"
    assert "as late as" in place.policyd.audit("application-token-refused")[0]["why"]
    place.policyd.done(m.ApplicationSet(name="bound", renewable=7200))
    told = renew(place, token).told
    assert told["expires_in"] == 3600
    assert told["renewable_for"] < 5401
    # an administrator who takes it back is obeyed at once, by those that were renewed as well
    place.policyd.done(m.ApplicationSet(name="bound", renewable=0))
    assert renew(place, told["token"]).status == 403
    assert "not renewable" in place.policyd.audit("application-token-refused")[0]["why"]
    assert reads(place, told["token"]) == 200, "and it goes on until its end"


def test_without_leave_of_an_administrator_nothing_is_renewed(place: Place) -> None:
    place.application("plain", "deploy@web1", addresses=[LOOPBACK])
    assert renew(place, place.token("plain")).status == 403
    place.application("local", "deploy@web1", uid=os.getuid(), renewable=DAY)
    with place.local() as talk:
        answer = talk.get(RENEW, "Bastion-Application: local", method="POST")
        assert (answer.status, answer.told["error"]) == (403, "this token is not renewed any more")
        assert talk.get(RENEW, "Bastion-Application: local").status == 405


def test_for_how_long_is_not_its_owners_to_set(place: Place) -> None:
    """Attack: the owner, on the last day, makes a token that lasts for months."""
    place.application("owned", addresses=[LOOPBACK], owner="alice")
    with place.policyd.login("alice") as alice:
        refused = alice.ask(m.ApplicationSet(name="owned", renewable=DAY))
        assert isinstance(refused, m.Refused)
        assert "not its owner's" in refused.cause
    assert "at most 90 days" in place.policyd.command(m.ApplicationSet(name="owned", renewable=91 * DAY)).cause
    place.policyd.done(m.ApplicationSet(name="owned", renewable=90 * DAY))
    shown = dict(place.policyd.done(m.ApplicationShow(name="owned")).rows)
    assert shown["renewable"] == "2160h"


def test_what_is_renewed_ends_when_its_maker_leaves(place: Place) -> None:
    place.policyd.person("mia", "engineer")
    place.application("left", "deploy@web1", addresses=[LOOPBACK], owner="mia", renewable=DAY)
    with place.policyd.login("mia") as mia:
        token = str(mia.ask(m.ApplicationToken(name="left")).data["token"])
    new = renew(place, token).told["token"]
    place.policyd.done(m.PersonOffboard(name="mia", heir="alice"))
    assert [reads(place, one) for one in (token, new)] == [401, 401]
    place.policyd.restart()
    assert [reads(place, one) for one in (token, new)] == [401, 401]


def test_there_are_never_more_than_so_many(place: Place) -> None:
    place.application("many", "deploy@web1", addresses=[LOOPBACK], renewable=DAY)
    token = place.token("many")
    with place.remote() as talk:
        statuses = [talk.get(RENEW, bearer(token), method="POST").status for _ in range(66)]
    assert statuses == [200] * 63 + [403] * 3
    assert "64 tokens" in place.policyd.audit("application-token-refused")[0]["why"]


def test_renewed_and_taken_back_at_once(place: Place) -> None:
    """Whichever comes first, nothing that came of a token is good after it was taken back; nor after a restart."""
    place.application("raced", "deploy@web1", addresses=[LOOPBACK], renewable=DAY, rate=10_000)
    born: list[str] = []

    def renewing(token: str, go: threading.Barrier) -> None:
        with place.remote() as talk:
            talk.get("/v1/self", bearer(token))
            go.wait()
            for _ in range(6):
                answer = talk.get(RENEW, bearer(token), method="POST")
                if answer.status != 200:
                    return
                born.append(answer.told["token"])

    for turn in range(60):
        if turn >= 8 and born:
            break
        token = place.token("raced")
        ident = ids(place, "raced")[-1]
        go = threading.Barrier(3)
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(renewing, token, go) for _ in range(2)]
            go.wait()
            place.policyd.done(m.ApplicationRevoke(name="raced", ident=ident))
            for one in both:
                one.result()
        assert ids(place, "raced") == []
    assert born, "none was renewed before it was taken back"
    place.policyd.restart()
    assert ids(place, "raced") == []
    assert all(reads(place, token) in (401, 429) for token in born[-3:])


# --- the client -----------------------------------------------------------------------------------------------------


def remote(place: Place, file: Path, **more: Any) -> Broker:
    return Broker(url=f"https://localhost:{place.port}", ca=str(place.pki / "ca.crt"), token_file=str(file), **more)


def test_the_client_renews_in_one_call_and_writes_the_file(place: Place, tmp_path: Path) -> None:
    place.application("client", "deploy@web1", addresses=[LOOPBACK], renewable=DAY)
    file = tmp_path / "token"
    file.write_text(place.token("client"))
    file.chmod(0o640)
    old = file.read_text()
    with remote(place, file) as broker:
        told = broker.renew_token()
        assert "token" not in told
        assert told["expires_in"] == 3600
        assert file.read_text().strip() != old
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        assert list(tmp_path.iterdir()) == [file], "nothing is left beside it"
        assert broker.get("deploy@web1").value
    with Broker(
        url=f"https://localhost:{place.port}", ca=str(place.pki / "ca.crt"), token=file.read_text().strip()
    ) as one:
        one.renew_token()
        assert one.get("deploy@web1").value


def test_bastion_broker_renew(place: Place, tmp_path: Path) -> None:
    place.application("timer", "deploy@web1", addresses=[LOOPBACK], renewable=DAY)
    place.application("timeless", addresses=[LOOPBACK])
    file = tmp_path / "token"
    file.write_text(old := place.token("timer"))

    def bastion(*words: str) -> "subprocess.CompletedProcess[str]":
        where = ("--url", f"https://localhost:{place.port}", "--ca", str(place.pki / "ca.crt"), "--patience", "0")
        command = [sys.executable, "-m", "bastion", "broker", "renew", *where, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    done = bastion("--token-file", str(file))
    assert (done.returncode, done.stdout) == (0, f"renewed for 3600 seconds: {file}\n")
    assert file.read_text().strip() not in (old, done.stdout + done.stderr)
    told = json.loads(bastion("--token-file", str(file), "--json").stdout)
    assert sorted(told) == ["expires_in", "old_expires_in", "renewable_for"]
    assert bastion().returncode == 64
    file.write_text(place.token("timeless"))
    done = bastion("--token-file", str(file))
    assert done.returncode == 77
    assert "not renewed any more" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_client_renews_by_itself_when_half_is_over(place: Place, tmp_path: Path) -> None:
    place.application("itself", "deploy@web1", addresses=[LOOPBACK], renewable=DAY)
    file = tmp_path / "token"
    file.write_text(place.token("itself", seconds=6))
    seen = {file.read_text()}
    with remote(place, file, renew=True) as broker:
        end = time.monotonic() + 10  # longer than one of them lasts
        while time.monotonic() < end:
            assert broker.get("deploy@web1").value
            seen.add(file.read_text().strip())
            time.sleep(0.1)
    assert 3 <= len(seen) <= 6


def test_the_client_goes_on_with_what_is_not_renewed(place: Place, tmp_path: Path) -> None:
    place.application("stuck", "deploy@web1", addresses=[LOOPBACK])
    file = tmp_path / "token"
    file.write_text(place.token("stuck", seconds=3600))
    before = len(place.policyd.audit("application-token-refused"))
    with remote(place, file, renew=True) as broker:
        assert broker.get("deploy@web1").value
        broker._renewing = (file.read_text(), 0.0)
        for _ in range(3):
            assert broker.get("deploy@web1").value
    assert len(place.policyd.audit("application-token-refused")) == before + 1, "asked once a minute, and not each time"
    with remote(place, file) as broker, pytest.raises(BrokerError) as error:
        broker.renew_token()
    assert error.value.status == 403
