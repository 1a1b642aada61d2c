"""Commands on targets: what is stored about them, and what is answered. No secret comes back."""

import time

from policy import naming
from policy.authority import Authority, ended_note
from policy.conversation import Conversation
from policy.keys import sshkeys
from policy.leave.grants import void
from policy.leave.requests import text
from policy.messages import Done, Rows, TargetAdd, TargetHostkey, TargetList, TargetRemove, TargetSet, TargetShow
from policy.naming import CommandRefused, counted
from policy.paging import paged
from policy.persons.ownership import check_tends, tended
from policy.records import Target
from policy.sessions.access import recheck
from policy.store import Conflict, Tables


async def target_add(desk: Authority, talk: Conversation, request: TargetAdd) -> Done:
    name = naming.target_name(request.name)
    if desk.roster.target(name) is not None:
        raise CommandRefused(f"target `{name}` exists already", f"see `bastion target show {name}`")
    if request.protocol != "ssh":
        raise CommandRefused(f"protocol `{request.protocol[:16]}` is not supported, want ssh")
    why = text(request.reason, "reason")
    host, port = naming.address(request.address)
    pins = naming.host_keys(request.host_keys)
    if request.scan:
        pins = naming.checked_pins(pins | await desk.workers.scan(host, port))
    if not pins:
        raise CommandRefused(f"target `{name}` would have no pinned host key", "give one: `--pin FILE` or `--pin scan`")
    now = time.time_ns()
    target = Target(
        name=name, address=host, port=port, protocol="ssh", labels=naming.labels(request.labels), created=now
    )

    def change(t: Tables) -> None:
        t.add_target(target)
        for fingerprint, blob in pins.items():
            t.pin(name, fingerprint, blob, now)

    detail = {"address": f"{host}:{port}", "host_keys": " ".join(pins), "pinned": "scan" if request.scan else "given"}
    detail |= {f"label {key}": value for key, value in target.labels.items()}
    try:
        await desk.change_target(name, change, talk.event("target-add", name, detail, why=why))
    except Conflict:
        raise taken(f"target `{name}`", f"see `bastion target show {name}`") from None
    how = "found by a scan, compare them" if request.scan else "pinned"
    lines = "".join(f"\n  {naming.key_type(blob)} {fingerprint}" for fingerprint, blob in pins.items())
    return Done(
        text=f"added target `{name}` at {host}:{port}, {counted(len(pins), 'host key')} {how}:{lines}",
        data={"target": name, "address": f"{host}:{port}", "host_keys": " ".join(pins)},
    )


async def target_remove(desk: Authority, talk: Conversation, request: TargetRemove) -> Done:
    target = the_target(desk, request.name)
    why = text(request.reason, "reason")
    accounts = len(desk.roster.accounts(target.name))
    await _disown(desk, talk, target.name)
    await desk.change_target(
        target.name,
        lambda t: t.remove_target(target.name),
        talk.event("target-remove", target.name, {"accounts": str(accounts)}, why=why),
    )
    await void(desk, talk, "target removed", lambda one: one.target == target.name)
    ended = await desk.end_target(target.name, talk.who, "target removed")
    said = f"removed target `{target.name}` and {counted(accounts, 'account')}{ended_note(ended)}"
    return Done(text=said, data={"target": target.name, "accounts": str(accounts), "sessions_ended": str(ended)})


async def target_set(desk: Authority, talk: Conversation, request: TargetSet) -> Done:
    """For administrators alone: labels decide which rules and owners a target has, its address where people arrive."""
    target = the_target(desk, request.name)
    why = text(request.reason, "reason")
    host, port = naming.address(request.address) if request.address else (target.address, target.port)
    if missing := set(request.remove_labels) - set(target.labels):
        raise CommandRefused(f"target `{target.name}` has no label `{min(missing)[:64]}`")
    kept = {key: value for key, value in target.labels.items() if key not in request.remove_labels}
    labels = naming.labels(kept | request.set_labels)
    pinned = {sshkeys.fingerprint(blob): blob for blob in target.host_keys}
    if missing := set(request.remove_host_keys) - set(pinned):
        raise CommandRefused(f"target `{target.name}` has no host key `{min(missing)[:64]}`")
    new = {print_: blob for print_, blob in naming.host_keys(request.add_host_keys).items() if print_ not in pinned}
    left = naming.checked_pins({key: blob for key, blob in pinned.items() if key not in request.remove_host_keys} | new)
    if not left:
        raise CommandRefused(f"target `{target.name}` would have no pinned host key", "add the new one first")
    detail: dict[str, str] = {}
    if (host, port) != (target.address, target.port):
        detail |= {"address before": f"{target.address}:{target.port}", "address after": f"{host}:{port}"}
    if labels != target.labels:
        detail |= {"labels before": _labelled(target.labels) or "none", "labels after": _labelled(labels) or "none"}
    if left != pinned:
        detail |= {"host keys before": " ".join(pinned), "host keys after": " ".join(left)}
    if not detail:
        raise CommandRefused(f"nothing to change about target `{target.name}`")
    now = time.time_ns()

    def change(t: Tables) -> None:
        t.set_target(target.name, host, port, labels)
        for fingerprint in request.remove_host_keys:
            t.unpin(target.name, fingerprint)
        for fingerprint, blob in new.items():
            t.pin(target.name, fingerprint, blob, now)

    try:
        await desk.change_target(target.name, change, talk.event("target-set", target.name, detail, why=why))
    except Conflict:
        raise CommandRefused(f"target `{target.name}` was changed meanwhile", "look again, and repeat it") from None
    ended = await recheck(desk, by=talk.who) if labels != target.labels else 0
    said = "; ".join(f"{key} {value}" for key, value in detail.items() if key.endswith("after"))
    return Done(
        text=f"changed target `{target.name}`: {said}{ended_note(ended)}", data={"target": target.name} | detail
    )


async def target_list(desk: Authority, talk: Conversation, request: TargetList) -> Rows:
    targets = tended(desk, talk, desk.roster.targets())
    await desk.ledger.note(talk.event("view", "targets", {"after": request.after}))
    return paged(
        ["target", "address", "protocol", "labels", "accounts", "host keys"],
        (
            (
                one.name,
                [
                    one.name, f"{one.address}:{one.port}", one.protocol, _labelled(one.labels),
                    " ".join(account.name for account in desk.roster.accounts(one.name)), str(len(one.host_keys)),
                ],
            )
            for one in targets
            if one.name > request.after
        ),
        request.after,
        request.limit,
    )  # fmt: skip


async def target_show(desk: Authority, talk: Conversation, request: TargetShow) -> Rows:
    check_tends(desk, talk, request.name)
    one = the_target(desk, request.name)
    await desk.ledger.note(talk.event("view", f"target {one.name}", {}))
    rows = [["name", one.name], ["address", f"{one.address}:{one.port}"], ["protocol", one.protocol]]
    rows += [["label", f"{key}={value}"] for key, value in sorted(one.labels.items())]
    rows += [["host key", f"{naming.key_type(blob)} {sshkeys.fingerprint(blob)}"] for blob in one.host_keys]
    rows += [["account", f"{account.name} ({account.kind})"] for account in desk.roster.accounts(one.name)]
    return Rows(columns=["field", "value"], rows=rows)


async def target_hostkey(desk: Authority, talk: Conversation, request: TargetHostkey) -> Done:
    """Pin what a scan finds if it is the very key that was named; stop trusting a named one."""
    check_tends(desk, talk, request.name)
    target = the_target(desk, request.name)
    why = text(request.reason, "reason")
    pinned = {sshkeys.fingerprint(blob): blob for blob in target.host_keys}
    if not request.accept and not request.forget:
        raise CommandRefused("neither a key to accept nor one to forget", f"see `bastion target show {target.name}`")
    if request.forget and request.forget not in pinned:
        raise CommandRefused(f"target `{target.name}` has no host key `{request.forget[:64]}`")
    blob = b""
    if request.accept and request.accept not in pinned:
        found = await desk.workers.scan(target.address, target.port)
        if request.accept not in found:
            shown = ", ".join(f"{naming.key_type(one)} {name}" for name, one in found.items()) or "no key"
            raise CommandRefused(f"target `{target.name}` does not show `{request.accept[:64]}` but {shown}")
        if len(pinned) >= naming.MAX_PINS:
            raise CommandRefused(
                f"target `{target.name}` has {len(pinned)} host keys, at most {naming.MAX_PINS}", "forget one first"
            )
        blob = found[request.accept]
    now = time.time_ns()

    def change(t: Tables) -> None:
        if blob:
            t.pin(target.name, request.accept, blob, now)
        if request.forget:
            t.unpin(target.name, request.forget)

    detail = {"accepted": request.accept, "forgotten": request.forget, "before": " ".join(pinned)}
    try:
        await desk.change_target(target.name, change, talk.event("target-hostkey", target.name, detail, why=why))
    except Conflict:
        raise taken("this host key", f"see `bastion target show {target.name}`") from None
    said = [f"accepted {request.accept}"] * bool(request.accept) + [f"forgot {request.forget}"] * bool(request.forget)
    return Done(text=f"target `{target.name}`: {', '.join(said)}", data={"target": target.name} | detail)


# --- how --------------------------------------------------------------------------------------------


async def _disown(desk: Authority, talk: Conversation, target: str) -> None:
    """Attack: a target that comes back under an old name, and belongs to whom the old one belonged to."""
    if owners := [one.name for one in desk.roster.persons() if target in one.owns]:
        events = [talk.event("owner-remove", name, {"scope": target}, why="target removed") for name in owners]
        await desk.change_persons(owners, lambda t: [t.remove_owner(name, target) for name in owners], *events)


def the_target(desk: Authority, name: str) -> Target:
    if (target := desk.roster.target(name)) is None:
        raise CommandRefused(f"no target `{name[:64]}`", "see `bastion target list`")
    return target


def taken(what: str, hint: str) -> CommandRefused:
    return CommandRefused(f"{what} exists already", hint)


def _labelled(labels: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(labels.items()))
