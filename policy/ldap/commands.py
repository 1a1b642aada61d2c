"""Commands on the directory that persons come from: sync now, show how it is."""

from policy.authority import Authority
from policy.conversation import Conversation
from policy.ldap.planning import Step
from policy.ldap.sync import MAX_REFUSED, sync_now
from policy.ldap.synced import Outcome
from policy.messages import DirectoryStatus, DirectorySync, Rows
from policy.naming import CommandRefused, counted, shown_time


async def directory_sync(desk: Authority, talk: Conversation, request: DirectorySync) -> Rows:
    if desk.rules.directory is None:
        raise CommandRefused(
            "there is no directory", "write `[directory]` into policy.toml, then `bastion policy reload`", code=78
        )
    outcome = await sync_now(desk, talk.who, talk.source, only_plan=request.plan)
    host = desk.rules.directory.host
    if outcome.stopped:
        raise CommandRefused(
            f"a sync with `{host}` {outcome.stopped}",
            "look: `bastion directory sync --plan`; if it is right, raise `most` in [directory] for this once",
            code=77,
        )  # fmt: skip
    if outcome.problem:
        raise CommandRefused(f"directory `{host}` {outcome.problem}", "see `bastion directory status`", code=69)
    steps = outcome.done
    if request.plan and outcome.plan is not None:
        steps = list(outcome.plan.steps)
    return Rows(columns=["person", "change", "what", "why"], rows=[_row(one) for one in steps], note=_note(outcome))


async def directory_status(desk: Authority, talk: Conversation, _: DirectoryStatus) -> Rows:
    await desk.ledger.note(talk.event("view", "directory"))
    synced, directory = desk.synced, desk.rules.directory
    if directory is None:
        raise CommandRefused("there is no directory", "write `[directory]` into policy.toml", code=78)
    last = synced.last
    rows = [["directory", directory.url]]
    rows += [["last sync", shown_time(int(last.at * 1e9)) if last is not None else "none since the start"]]
    rows += [
        ["last good sync", shown_time(int(synced.good * 1e9)) if synced.good is not None else "none since the start"]
    ]
    if last is not None and last.problem:
        rows += [["problem", last.problem], ["failures in a row", str(synced.failures)]]
    mine = [one for one in desk.roster.persons() if one.origin == "directory"]
    rows += [["persons", f"{len(mine)}, {sum(one.disabled for one in mine)} of them disabled"]]
    if last is not None and last.plan is not None:
        rows += [["not taken", f"{one.dn}: {one.why}"] for one in last.plan.refused[:MAX_REFUSED]]
    return Rows(columns=["field", "value"], rows=rows)


def _row(step: Step) -> list[str]:
    what = [f"+{role}" for role in step.add_roles] + [f"-{role}" for role in step.remove_roles]
    what += [f"+{counted(len(step.add_keys), 'key')}"] * bool(step.add_keys)
    what += [f"-{counted(len(step.remove_keys), 'key')}"] * bool(step.remove_keys)
    what += [f"mail {step.mail or 'none'}"] if step.mail is not None else []
    return [step.name, step.kind, " ".join(what), step.why]


def _note(outcome: Outcome) -> str:
    if outcome.plan is None:
        return ""
    refused = len(outcome.plan.refused)
    entries = "1 entry" if refused == 1 else f"{refused} entries"
    return f"{entries} not taken: `bastion directory status`" if refused else ""
