"""Many at once, on as many connections: floods, leases that end under way, and those who are not hindered."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from policy import messages as m
from tests.broker.place import Place

SECRET = "/v1/secrets/deploy@web1"
MANY = 8


def test_a_flood_from_many_connections_is_one_flood(place: Place) -> None:
    """The rate is the application's, and not each connection's; who stays within theirs has every answer meanwhile."""
    rate = 5
    place.application("horde", "deploy@web1", rate=rate)
    place.application("modest", "deploy@web1", rate=1000)
    over, go = threading.Event(), threading.Barrier(MANY + 1)

    def flood(_: int) -> Counter[int]:
        seen: Counter[int] = Counter()
        with place.local() as talk:
            go.wait()
            while not over.is_set():
                seen[talk.get(SECRET, "Bastion-Application: horde").status] += 1
        return seen

    with ThreadPoolExecutor(MANY) as pool:
        floods = [pool.submit(flood, number) for number in range(MANY)]
        began = time.monotonic()
        go.wait()
        with place.local() as talk:
            mine = [talk.get(SECRET, "Bastion-Application: modest").status for _ in range(60)]
        over.set()
        seen = sum((one.result() for one in floods), Counter[int]())
    took = time.monotonic() - began
    assert mine == [200] * 60
    assert set(seen) == {200, 429}
    assert seen[200] <= rate * 2 + rate * took + 1, "what one connection may, they may together"
    assert seen[429] > seen[200]
    events = [one for one in place.policyd.audit("application-flood", 1000) if one["who"] == "application horde"]
    assert len(events) == 1 + int(took > 60)
    kept = place.sql("SELECT count(*) FROM audit WHERE event = 'secret-read' AND body LIKE '%application horde%'")[0][0]
    assert kept == seen[200], "each answer with a secret has its event"


def test_a_lease_is_not_renewed_beyond_its_longest_by_however_many(place: Place) -> None:
    place.application("lasting", "deploy@web1", rate=10_000)
    field = "Bastion-Application: lasting"
    with place.local() as talk:
        lease = talk.get(SECRET, field).told["lease"]
    longest = time.time_ns() + 4_000_000_000
    place.sql("UPDATE lease SET longest = ? WHERE id = ?", (longest, lease))

    def renew(_: int) -> list[tuple[float, int, int]]:
        seen = []
        with place.local() as talk:
            while not seen or seen[-1][1] == 200:
                asked = time.time_ns()
                answer = talk.get(f"/v1/leases/{lease}/renew", field, method="POST")
                seen.append((asked, answer.status, answer.told.get("expires_in", 0)))
        return seen

    with ThreadPoolExecutor(MANY) as pool:
        seen = [one for found in pool.map(renew, range(MANY)) for one in found]
    assert Counter(status for _, status, _ in seen)[410] == MANY, "over for each of them"
    assert [status for _, status, _ in seen].count(200) > MANY, "and renewed before"
    for asked, status, left in seen:
        assert left <= 4
        assert status == 410 or asked < longest


def test_what_is_given_back_or_taken_back_is_over_for_all(place: Place) -> None:
    """Who ends it among many who renew: whatever is asked after the answer is 410."""
    place.application("ending", "deploy@web1", rate=10_000)
    field = "Bastion-Application: ending"
    for how in ("end", "revoke", "disable") * 2:
        with place.local() as talk:
            lease = talk.get(SECRET, field).told["lease"]
        go, ended = threading.Barrier(MANY + 1), [float("inf")]

        def renew(_: int, lease: str = lease, go: threading.Barrier = go) -> list[tuple[float, int]]:
            seen = []
            with place.local() as talk:
                talk.get("/v1/self", field)
                go.wait()
                while not seen or seen[-1][1] in (200, 429):
                    asked = time.monotonic()
                    seen.append((asked, talk.get(f"/v1/leases/{lease}/renew", field, method="POST").status))
            return seen

        with ThreadPoolExecutor(MANY) as pool:
            renewing = [pool.submit(renew, number) for number in range(MANY)]
            go.wait()
            match how:
                case "end":
                    with place.local() as talk:
                        assert talk.get(f"/v1/leases/{lease}", field, method="DELETE").status == 200
                case "revoke":
                    place.policyd.done(m.ApplicationRevoke(name="ending", ident=lease))
                case _:
                    place.policyd.done(m.ApplicationSet(name="ending", disabled=True))
            ended[0] = time.monotonic()
            seen = [one for found in renewing for one in found.result()]
        assert not [status for asked, status in seen if asked > ended[0] and status == 200], how
        assert {status for _, status in seen} <= {200, 410, 429, *([401] if how == "disable" else [])}
        if how == "disable":
            place.policyd.done(m.ApplicationSet(name="ending", disabled=False))
        assert place.sql("SELECT count(*) FROM lease WHERE id = ? AND ended IS NULL", (lease,))[0][0] == 0


def test_a_share_that_ends_among_many_who_read(place: Place) -> None:
    """No read is kept after the share is over, whoever was under way."""
    place.application("severed", rate=10_000)
    place.policyd.done(m.SecretAdd(name="severed/word", value=b"word", owner="alice"))
    field = "Bastion-Application: severed"
    with place.policyd.login("alice") as alice:
        lent = alice.ask(m.SecretShare(scope="severed/word", subject="application:severed", rights=["use"]))
        assert isinstance(lent, m.Done), getattr(lent, "cause", "")
        reading = threading.Semaphore(0)

        def read(_: int) -> list[tuple[float, int]]:
            seen = []
            with place.local() as talk:
                while not seen or seen[-1][1] == 200:
                    asked = time.monotonic()
                    seen.append((asked, talk.get("/v1/secrets/severed/word", field).status))
                    reading.release()
            return seen

        with ThreadPoolExecutor(MANY) as pool:
            readers = [pool.submit(read, number) for number in range(MANY)]
            for _ in range(3 * MANY):
                reading.acquire()
            assert isinstance(alice.ask(m.SecretUnshare(share=lent.data["share"])), m.Done)
            ended = time.monotonic()
            seen = [one for reader in readers for one in reader.result()]
    assert not [status for asked, status in seen if asked > ended and status == 200]
    assert 200 in {status for _, status in seen}
    kinds = "event IN ('secret-read', 'secret-unshare') AND body LIKE '%severed%'"
    rows = [row[0] for row in place.sql(f"SELECT event FROM audit WHERE {kinds} ORDER BY seq")]
    assert rows.index("secret-unshare") == len(rows) - 1
