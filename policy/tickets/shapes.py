"""What each kind of ticket system looks like: addresses, numbers, proofs, and where things stand in answers. Pure.

Jira        GET /rest/api/2/issue/{key}?fields=...     developer.atlassian.com/server/jira/platform/rest
ServiceNow  GET /api/now/table/{table}?sysparm_query=number=...     docs.servicenow.com, Table API
GitHub      GET /repos/{owner}/{repo}/issues/{number}     docs.github.com/rest/issues/issues
GitLab      GET /api/v4/projects/{project}/issues/{iid}     docs.gitlab.com/api/issues
"""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import quote, urlencode

from policy.tickets.model import Fields, Kind, System

MANY: Final = 20
"""Elements of a list that `*` stands for: GitHub allows 10 assignees, and few tickets have more labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """`short` goes around a plain field name to make it a pointer: `assignee` -> `/fields/assignee`."""

    number: re.Pattern[str]
    example: str
    fields: Fields
    address: Callable[[System, str, Sequence[str]], str]
    short: tuple[str, str] = ("/", "")
    headers: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()  # settings without a default
    takes: tuple[str, ...] = ()  # settings beyond those of all
    url: str = ""  # default

    def pointer(self, text: str) -> str:
        """A pointer, or a plain field name of this system made one."""
        return text if text.startswith("/") or not text else f"{self.short[0]}{text}{self.short[1]}"


def _jira(system: System, ticket: str, pointers: Sequence[str]) -> str:
    wanted = sorted({part[2] for part in (one.split("/") for one in pointers) if len(part) > 2 and part[1] == "fields"})
    return f"{system.url}/rest/api/2/issue/{quote(ticket, safe='')}?{urlencode({'fields': ','.join(wanted)})}"


def _servicenow(system: System, ticket: str, pointers: Sequence[str]) -> str:
    wanted = sorted({part[3] for part in (one.split("/") for one in pointers) if len(part) > 3 and part[1] == "result"})
    query = {
        # `^` and newlines would begin another condition; the number's own pattern has neither
        "sysparm_query": f"number={ticket}",
        "sysparm_fields": ",".join(wanted),
        "sysparm_display_value": "all",
        "sysparm_exclude_reference_link": "true",
        "sysparm_limit": "2",
    }
    return f"{system.url}/api/now/table/{quote(system.table, safe='')}?{urlencode(query)}"


def _github(system: System, ticket: str, _: Sequence[str]) -> str:
    return f"{system.url}/repos/{quote(system.project, safe='/')}/issues/{ticket.lstrip('#')}"


def _gitlab(system: System, ticket: str, _: Sequence[str]) -> str:
    return f"{system.url}/api/v4/projects/{quote(system.project, safe='')}/issues/{ticket.lstrip('#')}"


def _http(system: System, _: str, __: Sequence[str]) -> str:
    return system.url  # its template is filled by whoever knows the person and the place


SHAPES: Final[Mapping[Kind, Shape]] = MappingProxyType(
    {
        Kind.JIRA: Shape(
            number=re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}-[0-9]{1,12}", re.ASCII),
            example="OPS-123",
            fields=Fields(
                key="/key", title="/fields/summary", status="/fields/status/name",
                names=("/fields/assignee/name",), emails=("/fields/assignee/emailAddress",),
            ),
            address=_jira,
            short=("/fields/", ""),
            needs=("url",),
        ),
        Kind.SERVICENOW: Shape(
            number=re.compile(r"[A-Za-z]{2,10}[0-9]{4,12}", re.ASCII),
            example="CHG0030001",
            fields=Fields(
                key="/result/0/number/value", title="/result/0/short_description/value",
                status="/result/0/state/display_value", names=("/result/0/assigned_to.user_name/value",),
                emails=("/result/0/assigned_to.email/value",), single="/result/1/number/value",
            ),
            address=_servicenow,
            short=("/result/0/", "/value"),
            needs=("url",),
            takes=("table",),
        ),
        Kind.GITHUB: Shape(
            number=re.compile(r"#?[0-9]{1,12}", re.ASCII),
            example="123",
            fields=Fields(
                key="/number", title="/title", status="/state", names=("/assignees/*/login",),
                single="/pull_request/url",  # an issue to the API, but anybody may open one
            ),
            address=_github,
            headers=(("Accept", "application/vnd.github+json"), ("X-GitHub-Api-Version", "2022-11-28")),
            needs=("project",),
            takes=("project",),
            url="https://api.github.com",
        ),
        Kind.GITLAB: Shape(
            number=re.compile(r"#?[0-9]{1,12}", re.ASCII),
            example="123",
            fields=Fields(key="/iid", title="/title", status="/state", names=("/assignees/*/username",)),
            address=_gitlab,
            needs=("project",),
            takes=("project",),
            url="https://gitlab.com",
        ),
        Kind.HTTP: Shape(
            number=re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,63}", re.ASCII),
            example="CHG-1",
            fields=Fields(),
            address=_http,
            needs=("url", "fields"),
            takes=("headers",),
        ),
        Kind.FILE: Shape(
            number=re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,63}", re.ASCII),
            example="CHG-1",
            fields=Fields(),
            address=_http,
            needs=("file",),
            takes=("file",),
        ),
    }
)  # fmt: skip


def proof(system: System, token: str) -> dict[str, str]:
    """The header that says who we are; empty without a token."""
    if not token:
        return {}
    if system.user:
        return {"Authorization": "Basic " + b64encode(f"{system.user}:{token}".encode()).decode()}
    if system.kind is Kind.GITLAB:
        return {"PRIVATE-TOKEN": token}
    return {"Authorization": f"Bearer {token}"}


def expand(pointer: str) -> list[str]:
    """`/labels/*/name` -> twenty pointers."""
    if not pointer:
        return []
    head, star, tail = pointer.partition("/*")
    if not star or (tail and not tail.startswith("/")):
        return [pointer]
    return [f"{head}/{index}{tail}" for index in range(MANY)]
