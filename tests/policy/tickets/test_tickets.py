"""Tickets: one table per provider with answers as its documentation shows them, then each check and hostile answers."""

import json
import tomllib
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bastion.courier.pointers import pick
from policy.messages import Called
from policy.rules.conditions import TicketFact
from policy.rules.ruleset import BadRules, parse_rules
from policy.rules.windows import parse_zone
from policy.tickets.judging import judge
from policy.tickets.model import Place, System, TicketProblem
from policy.tickets.reading import moment, pointers, read, request
from policy.tickets.settings import parse_tickets
from policy.tickets.ticketfile import find
from policy.toml_lines import key_lines
from policy.toml_tables import Reading, Table

NOW = datetime(2026, 11, 25, 20, 0, tzinfo=UTC)
ALICE = Place(person="alice", account="root", target="web1", labels={"service": "Shop"})


def system(text: str) -> System:
    reading = Reading("policy.toml", key_lines(f"[tickets.it]\n{text}"))
    found = parse_tickets(Table(reading, {"it": tomllib.loads(text)}, "tickets"))
    assert not reading.problems, [str(problem) for problem in reading.problems]
    return found["it"]


def answered(it: System, document: Any, status: int = 200) -> Called:
    """What the courier makes of an HTTP answer."""
    wanted = pointers(it)
    return Called(task=1, status=status, values=pick(json.dumps(document).encode(), wanted) if status == 200 else [])


def fact(
    it: System, document: Any, ticket: str, place: Place = ALICE, now: datetime = NOW, status: int = 200
) -> TicketFact:
    return judge(it, ticket, place, read(it, ticket, answered(it, document, status)), now)


JIRA = """
kind   = "jira"
url    = "https://jira.example.org/"
token  = "file:token"
status = ["Approved", "In Progress"]
target = { at = "customfield_10042" }
window = { start = "customfield_10050", end = "customfield_10051" }
"""


def jira_issue(**fields: Any) -> dict[str, Any]:
    """Jira Server 9, GET /rest/api/2/issue/OPS-7, shortened."""
    return {
        "expand": "renderedFields,names,schema,operations",
        "id": "10002",
        "self": "https://jira.example.org/rest/api/2/issue/10002",
        "key": "OPS-7",
        "fields": {
            "summary": "disk of web1 is full",
            "status": {"self": "https://jira.example.org/rest/api/2/status/3", "name": "In Progress", "id": "3",
                       "statusCategory": {"id": 4, "key": "indeterminate", "name": "In Progress"}},
            "assignee": {"name": "alice", "key": "JIRAUSER10100", "emailAddress": "alice@example.org",
                         "displayName": "Alice A.", "active": True, "timeZone": "Europe/Berlin"},
            "customfield_10042": "web1",
            "customfield_10050": "2026-11-25T20:00:00.000+0100",
            "customfield_10051": "2026-11-25T23:00:00.000+0100",
            **fields,
        },
    }  # fmt: skip


def servicenow_change(**fields: Any) -> dict[str, Any]:
    """ServiceNow Table API with sysparm_display_value=all: each field has a value and what people see."""
    record = {
        "number": {"display_value": "CHG0030001", "value": "CHG0030001"},
        "short_description": {"display_value": "disk of web1", "value": "disk of web1"},
        "state": {"display_value": "Implement", "value": "-1"},
        "assigned_to.user_name": {"display_value": "alice", "value": "alice"},
        "assigned_to.email": {"display_value": "alice@example.org", "value": "alice@example.org"},
        "cmdb_ci.name": {"display_value": "web1", "value": "web1"},
        "start_date": {"display_value": "2026-11-25 20:00:00", "value": "2026-11-25 19:00:00"},
        "end_date": {"display_value": "2026-11-25 22:00:00", "value": "2026-11-25 21:00:00"},
    }
    return {"result": [{**record, **fields}]}


SERVICENOW = """
kind   = "servicenow"
url    = "https://example.service-now.com"
user   = "bastion"
token  = "file:token"
status = ["Implement"]
target = { at = "cmdb_ci.name" }
window = { start = "start_date", end = "end_date" }
"""

GITHUB = """
kind    = "github"
project = "ops/changes"
token   = "file:token"
status  = ["open"]
target  = { at = "/labels/*/name", is = "host:{target}" }
"""


def github_issue(**more: Any) -> dict[str, Any]:
    """GitHub REST, version 2022-11-28."""
    return {
        "id": 1, "node_id": "MDU6SXNzdWUx", "number": 1347, "state": "open", "title": "disk of web1",
        "user": {"login": "octocat", "id": 1},
        "labels": [{"id": 208045946, "name": "bug", "color": "f29513"}, {"id": 2, "name": "host:web1"}],
        "assignee": {"login": "octocat", "id": 1},
        "assignees": [{"login": "octocat", "id": 1}, {"login": "Alice", "id": 2}],
        "locked": True, "closed_at": None, "created_at": "2026-11-22T13:33:48Z",
        **more,
    }  # fmt: skip


GITLAB = """
kind    = "gitlab"
url     = "https://gitlab.example.org"
project = "ops/changes"
token   = "credential:gitlab"
status  = ["opened"]
target  = { at = "labels", is = "{label.service}" }
window  = { end = "due_date", zone = "Europe/Berlin" }
"""


def gitlab_issue(**more: Any) -> dict[str, Any]:
    """GitLab REST v4, GET /projects/:id/issues/:iid."""
    return {
        "id": 76, "iid": 6, "project_id": 1, "title": "disk of web1", "description": "x", "state": "opened",
        "assignees": [{"id": 18, "username": "alice", "state": "active", "name": "Alice A."}],
        "labels": ["urgent", "Shop"], "due_date": "2026-11-25", "type": "ISSUE",
        **more,
    }  # fmt: skip


HTTP = """
kind     = "http"
url      = "https://tickets.example.org/api?n={ticket}&who={person}"
headers  = { X-Api = "1" }
status   = ["ok"]
assignee = "email"
email    = "{person}@example.org"
fields   = { key = "/n", status = "/state", email = "/owners/*/mail", title = "/what" }
target   = { at = "/hosts" }
window   = { start = "/from", end = "/to" }
"""


def http_ticket(**more: Any) -> dict[str, Any]:
    begin = int(NOW.timestamp())
    return {"n": "C-1", "state": "OK", "owners": [{"mail": "Alice@example.org"}], "what": "disk",
            "hosts": ["db1", "web1"], "from": begin - 60, "to": (begin + 60) * 1000, **more}  # fmt: skip


PROVIDERS = {
    "jira": (JIRA, "OPS-7", jira_issue, datetime(2026, 11, 25, 22, tzinfo=UTC)),
    "servicenow": (SERVICENOW, "CHG0030001", servicenow_change, datetime(2026, 11, 25, 21, tzinfo=UTC)),
    "github": (GITHUB, "1347", github_issue, None),
    "gitlab": (GITLAB, "#6", gitlab_issue, datetime(2026, 11, 25, 23, tzinfo=UTC)),
    "http": (HTTP, "C-1", http_ticket, NOW + timedelta(seconds=60)),
}

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("jira", {"status": {"name": "Open"}}, "is `Open`, wants"),
    ("jira", {"status": None}, "is `without status`, wants"),
    ("jira", {"assignee": None}, "not assigned to alice"),
    ("jira", {"assignee": {"name": "mallory", "displayName": "alice"}}, "not assigned to alice"),
    ("jira", {"assignee": {"name": "al\u0456ce"}}, "not assigned to alice"),  # a Cyrillic letter
    ("jira", {"assignee": {"name": "alice\u200b"}}, "not assigned to alice"),
    ("jira", {"customfield_10042": "web2"}, "is not for `web1`"),
    ("jira", {"customfield_10042": None}, "is not for `web1`"),
    ("jira", {"customfield_10051": None}, "has no change window"),
    ("jira", {"customfield_10050": "2026-11-25T22:00:00.000+0100"}, "opens 2026-11-25 21:00 UTC"),
    ("jira", {"customfield_10051": "2026-11-25T21:00:00.000+0100"}, "closed 2026-11-25 20:00 UTC"),
    ("servicenow", {"state": {"display_value": "Closed", "value": "Implement"}}, "is `Closed`"),
    ("servicenow", {"assigned_to.user_name": {"display_value": "alice", "value": "bob"}}, "not assigned to alice"),
    ("servicenow", {"cmdb_ci.name": {"display_value": "web1", "value": ""}}, "is not for `web1`"),
    ("servicenow", {"end_date": {"display_value": "", "value": ""}}, "has no change window"),
    ("github", {"state": "closed"}, "is `closed`"),
    ("github", {"assignees": [], "assignee": {"login": "alice"}}, "not assigned to alice"),
    ("github", {"labels": [{"name": "host:web12"}, {"name": "host:db1"}]}, "is not for `host:web1`"),
    ("gitlab", {"state": "closed"}, "is `closed`"),
    ("gitlab", {"assignees": [{"username": "alice.b"}]}, "not assigned to alice"),
    ("gitlab", {"labels": ["Shopping"]}, "is not for `Shop`"),
    ("gitlab", {"due_date": "2026-11-24"}, "closed 2026-11-24 23:00 UTC"),
    ("http", {"state": "no"}, "is `no`"),
    ("http", {"owners": [{"mail": "alice@example.org.evil"}]}, "not assigned to alice@example.org"),
    ("http", {"hosts": []}, "is not for `web1`"),
    ("http", {"to": int(NOW.timestamp())}, "closed"),
]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_good_ticket(provider: str) -> None:
    text, ticket, make, closes = PROVIDERS[provider]
    found = fact(system(text), make(), ticket)
    assert (found.ok, found.system, found.ticket, found.closes) == (True, "it", ticket, closes), found.detail
    assert "disk" in found.detail


@pytest.mark.parametrize(("provider", "fields", "why"), WRONG)
def test_each_check_holds_by_itself(provider: str, fields: dict[str, Any], why: str) -> None:
    text, ticket, make, _ = PROVIDERS[provider]
    found = fact(system(text), make(**fields), ticket)
    assert not found.ok
    assert why in found.detail


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "why"),
    [
        (401, "does not let this bastion look"), (403, "does not let this bastion look"), (404, "has no ticket"),
        (410, "has no ticket"), (429, "asked too often"), (301, "points elsewhere"), (302, "points elsewhere"),
        (500, "fault of its own"), (503, "fault of its own"), (204, "fault of its own"), (0, "fault of its own"),
    ],
)  # fmt: skip
def test_other_answers_are_no_ticket(provider: str, status: int, why: str) -> None:
    text, ticket, make, _ = PROVIDERS[provider]
    with pytest.raises(TicketProblem, match=why):
        fact(system(text), make(), ticket, status=status)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("document", [{}, [], None, "x", 1, {"result": []}, {"fields": []}, {"key": {"key": "OPS-7"}}])
def test_an_answer_of_another_shape_is_no_ticket(provider: str, document: Any) -> None:
    text, ticket, _, _ = PROVIDERS[provider]
    with pytest.raises(TicketProblem):
        fact(system(text), document, ticket)


def test_the_answer_must_be_of_the_ticket_that_was_asked_for() -> None:
    """A moved issue, or a system that lies: both answer with another key."""
    for provider, fields in (("github", {"number": 1348}), ("gitlab", {"iid": 7}), ("http", {"n": "C-2"})):
        text, ticket, make, _ = PROVIDERS[provider]
        with pytest.raises(TicketProblem, match="another ticket"):
            fact(system(text), make(**fields), ticket)
    with pytest.raises(TicketProblem, match="another ticket"):
        fact(system(JIRA), {**jira_issue(), "key": "OPS-8"}, "OPS-7")
    with pytest.raises(TicketProblem, match="another ticket"):
        fact(system(SERVICENOW), servicenow_change(number={"value": "CHG0030002"}), "CHG0030001")


def test_a_number_that_two_records_have_is_none() -> None:
    twice = servicenow_change()
    twice["result"] *= 2
    with pytest.raises(TicketProblem, match="is not one ticket"):
        fact(system(SERVICENOW), twice, "CHG0030001")


def test_a_pull_request_is_no_issue() -> None:
    """Anybody may open one in a public repository, and assign nobody needs to."""
    pulled = github_issue(pull_request={"url": "https://api.github.com/repos/ops/changes/pulls/1347"})
    with pytest.raises(TicketProblem, match="is not one ticket"):
        fact(system(GITHUB), pulled, "1347")


@pytest.mark.parametrize("values", [[], [""], ["{"] * 8, ["[" * 100_000] * 8, ['"x"'] * 9])
def test_a_courier_that_lies_gives_no_ticket(values: list[str]) -> None:
    it = system(JIRA)
    assert len(pointers(it)) == 8
    with pytest.raises(TicketProblem):
        read(it, "OPS-7", Called(task=1, status=200, values=values))


def test_what_a_ticket_says_is_shown_harmless() -> None:
    found = fact(system(JIRA), jira_issue(summary="a\x1b]52;c;x\x07\u202e`b`\n" + "x" * 1000), "OPS-7")
    assert found.ok
    assert found.detail.isprintable()
    assert len(found.detail) < 120
    assert fact(system(JIRA), jira_issue(status={"name": "\x1b[2J"}), "OPS-7").detail.isprintable()


# --- what is asked ------------------------------------------------------------------------------------


def test_how_jira_is_asked() -> None:
    call = request(system(JIRA), "OPS-7", ALICE, token="secret", trust="PEM")
    url = urlsplit(call.url)
    assert (url.netloc, url.path) == ("jira.example.org", "/rest/api/2/issue/OPS-7")
    fields = parse_qs(url.query)["fields"][0].split(",")
    assert fields == ["assignee", "customfield_10042", "customfield_10050", "customfield_10051", "status", "summary"]
    assert call.headers["Authorization"] == "Bearer secret"
    assert (call.method, call.trust, call.seconds, call.body) == ("GET", "PEM", 5.0, b"")
    assert "secret" not in repr(call)


def test_how_servicenow_is_asked() -> None:
    call = request(system(SERVICENOW), "CHG0030001", ALICE, token="secret")
    query = parse_qs(urlsplit(call.url).query)
    assert urlsplit(call.url).path == "/api/now/table/change_request"
    assert query["sysparm_query"] == ["number=CHG0030001"]
    assert "assigned_to.user_name" in query["sysparm_fields"][0].split(",")
    assert call.headers["Authorization"] == "Basic YmFzdGlvbjpzZWNyZXQ="  # bastion:secret


def test_how_github_and_gitlab_are_asked() -> None:
    call = request(system(GITHUB), "#1347", ALICE, token="secret")
    assert call.url == "https://api.github.com/repos/ops/changes/issues/1347"
    assert call.headers["X-GitHub-Api-Version"] == "2022-11-28"
    call = request(system(GITLAB), "6", ALICE, token="secret")
    assert call.url == "https://gitlab.example.org/api/v4/projects/ops%2Fchanges/issues/6"
    assert call.headers == {"PRIVATE-TOKEN": "secret"}


def test_how_any_other_is_asked() -> None:
    call = request(system(HTTP), "C-1/../x#y", Place(person="al&ice", account="root", target="web1", labels={}))
    assert call.url == "https://tickets.example.org/api?n=C-1%2F..%2Fx%23y&who=al%26ice"
    assert call.headers == {"X-Api": "1"}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "ticket",
    ["", " ", "../../user", "OPS-7?x=1", "CHG0030001^ORnumber=CHG0030002", "OPS-7\r\nX: y", "1 2",
     "OPS-\u0667", "#", "-1", "OPS-7" * 100, "7\x00", "\u202e7"],
)  # fmt: skip
def test_what_is_no_number_is_not_asked_for(provider: str, ticket: str) -> None:
    """A ticket's text goes into an address: it must not become another request."""
    text = PROVIDERS[provider][0]
    with pytest.raises(TicketProblem, match="is no ticket number"):
        request(system(text), ticket, ALICE)


def test_a_label_that_is_missing_denies() -> None:
    bare = Place(person="alice", account="root", target="web1", labels={})
    found = fact(system(GITLAB), gitlab_issue(), "6", bare)
    assert not found.ok
    assert "has no label `service`" in found.detail


def test_a_person_with_another_name_there() -> None:
    it = system(JIRA + 'persons = { alice = "a.smith", bob = "alice" }\n')
    assert not fact(it, jira_issue(), "OPS-7").ok
    assert fact(it, jira_issue(assignee={"name": "A.Smith"}), "OPS-7").ok


def test_who_need_not_be_assigned() -> None:
    assert fact(system(JIRA + 'assignee = "any"\n'), jira_issue(assignee=None), "OPS-7").ok


# --- times --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "when"),
    [
        ("2026-11-25T10:00:00.000+0100", "2026-11-25T09:00"), ("2026-11-25T10:00:00Z", "2026-11-25T10:00"),
        ("2026-11-25 10:00:00", "2026-11-25T09:00"), ("2026-11-25", "2026-11-24T23:00"),
        (1764064800, "2025-11-25T10:00"), (1764064800000, "2025-11-25T10:00"), (1764064800.5, "2025-11-25T10:00"),
    ],
)  # fmt: skip
def test_times_as_systems_write_them(value: Any, when: str) -> None:
    found = moment(value, parse_zone("Europe/Berlin"), "`it`")
    assert found is not None
    assert found.strftime("%Y-%m-%dT%H:%M") == when


def test_the_last_day_is_open_to_its_end() -> None:
    assert moment("2026-11-25", parse_zone("Europe/Berlin"), "`it`", end=True) == datetime(2026, 11, 25, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    "value", ["soon", "2026-13-01", "9" * 50, 10**400, float("1e300"), True, [], {}, "2026-11-25T"]
)
def test_what_is_no_time_denies(value: Any) -> None:
    with pytest.raises(TicketProblem, match="a time that is none"):
        moment(value, parse_zone("UTC"), "`it`")


# --- a file -------------------------------------------------------------------------------------------

FILE = """
kind = "file"
file = "tickets.toml"
status = ["approved"]
"""

TICKETS = """
[C-1]
status = "Approved"
title = "disk"
assignee = ["alice", "bob"]
targets = ["web1"]
starts = 2026-11-25T19:00:00Z
ends = 2026-11-25
["C-2"]
status = "approved"
assignee = "alice"
[C-3]
status = "approved"
owner = "alice"
[C-4]
status = "approved"
assignee = "alice"
targets = []
"""


def test_tickets_in_a_file() -> None:
    it = system(FILE)
    good = judge(it, "C-1", ALICE, find(it, "C-1", TICKETS), NOW)
    assert good.ok, good.detail
    assert good.closes == datetime(2026, 11, 26, tzinfo=UTC)
    assert judge(it, "C-2", ALICE, find(it, "C-2", TICKETS), NOW).ok
    elsewhere = Place(person="alice", account="root", target="db1", labels={})
    assert "is not for `db1`" in judge(it, "C-1", elsewhere, find(it, "C-1", TICKETS), NOW).detail
    assert "opens" in judge(it, "C-1", ALICE, find(it, "C-1", TICKETS), NOW - timedelta(hours=2)).detail
    assert "is not for" in judge(it, "C-4", ALICE, find(it, "C-4", TICKETS), NOW).detail
    for ticket, text in (
        ("C-3", TICKETS),
        ("C-9", TICKETS),
        ("C-1", "["),
        ("C-1", "x" * 2_000_000),
        ("C-1", "C-1 = 1"),
    ):
        with pytest.raises(TicketProblem):
            find(it, ticket, text)


# --- settings -----------------------------------------------------------------------------------------

JIRA_TABLE = '[tickets.jira]\nkind = "jira"\nstatus = ["x"]\nurl = "https://x"\n'


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[tickets.jira]\nkind = "jirra"', 2, "did you mean `jira`"),
        ('[tickets.jira]\nurl = "https://x"', 1, "kind: missing"),
        ('[tickets.jira]\nkind = "jira"\nurl = "https://x"', 1, "status: missing"),
        ('[tickets.jira]\nkind = "jira"\nstatus = ["x"]', 1, "url: missing"),
        ('[tickets.jira]\nkind = "jira"\nstatus = ["x"]\nurl = "http://jira.example.org"', 4, "want https"),
        ('[tickets.jira]\nkind = "jira"\nstatus = ["x"]\nurl = "https://u:p@jira.example.org"', 4, "a password"),
        ('[tickets.jira]\nkind = "jira"\nstatus = ["x"]\nurl = "file:///etc/passwd"', 4, "want an address"),
        (JIRA_TABLE + 'token = "hunter2"', 5, "do not stand in this"),
        (JIRA_TABLE + 'tokn = "file:x"', 5, "did you mean `token`"),
        (JIRA_TABLE + 'project = "x"', 5, "unknown key"),
        (JIRA_TABLE + 'assignee = "email"', 1, "email: missing"),
        (JIRA_TABLE + "seconds = 60", 5, "a person is waiting"),
        (JIRA_TABLE + 'window = { zone = "UTC" }', 5, "want `start`"),
        (JIRA_TABLE + 'target = { at = "x", is = "{host}" }', 5, "got `{host}`"),
        ('[tickets.gh]\nkind = "github"\nstatus = ["open"]\nproject = "ops/../../user"', 4, "want a project"),
        ('[tickets.gl]\nkind = "gitlab"\nstatus = ["x"]\nproject = "a/b"\nassignee = "email"\nemail = "x"', 5,
         "does not say it"),
        ('[tickets.w]\nkind = "http"\nstatus = ["x"]\nurl = "https://x/{ticket}"', 1, "fields: missing"),
        ('[tickets.w]\nkind = "http"\nstatus = ["x"]\nurl = "https://x/"\nfields = { status = "/s", assignee = "/a" }',
         4, "want {ticket}"),
        ('[tickets.w]\nkind = "file"\nstatus = ["x"]\nfile = "x"\nurl = "https://x"', 5, "no such key"),
        ('[tickets."A B"]\nkind = "file"', 1, "want a name"),
        ("[tickets]\njira = 1", 2, "want a table"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(BadRules) as caught:
        parse_rules(text)
    shown = [str(one) for one in caught.value.problems]
    assert any(one.startswith(f"policy.toml:{line}: ") and problem in one for one in shown), shown
    assert "hunter2" not in str(caught.value)


def test_a_rule_names_a_system_that_there_is() -> None:
    text = (
        '[[rule]]\nname = "r"\nwho = { roles = ["a"] }\nwhere = { targets = ["x"] }\nas = ["*"]\nallow = ["shell"]\n'
        'require = { ticket = "jirra" }\n[tickets.jira]\nkind = "file"\nfile = "f"\nstatus = ["x"]\n'
    )
    with pytest.raises(BadRules) as caught:
        parse_rules(text)
    assert [str(one) for one in caught.value.problems] == [
        'policy.toml:7: rule "r": require.ticket: no ticket system `jirra`; did you mean `jira`'
    ]
    assert list(parse_rules(text.replace("jirra", "jira")).tickets) == ["jira"]
