"""What there is, as an inventory file says it: for `bastion apply`, which compares, and `bastion export-inventory`."""

from collections.abc import Iterator

from policy.authority import Authority
from policy.conversation import Conversation
from policy.keys import sshkeys
from policy.keys.sshkeys import parse_public_key
from policy.messages import Inventory, Rows
from policy.naming import CommandRefused
from policy.paging import paged

PERSONS = ["person", "state", "origin", "roles", "keys", "owns", "mail"]
TARGETS = ["target", "address", "labels", "host keys"]
ACCOUNTS = ["target", "account", "kind", "key"]


async def inventory(desk: Authority, talk: Conversation, request: Inventory) -> Rows:
    match request.kind:
        case "persons":
            columns, rows = PERSONS, _persons(desk, request.after)
        case "targets":
            columns, rows = TARGETS, _targets(desk, request.after)
        case "accounts":
            columns, rows = ACCOUNTS, _accounts(desk, request.after)
        case _:
            raise CommandRefused(f"no inventory of `{request.kind[:32]}`", "one of persons, targets, accounts")
    await desk.ledger.note(talk.event("view", f"inventory {request.kind}", {"after": request.after}))
    return paged(columns, rows, request.after)


def _persons(desk: Authority, after: str) -> Iterator[tuple[str, list[str]]]:
    for one in filter(lambda one: one.name > after, desk.roster.persons()):
        state = "offboarded" if one.offboarded is not None else "disabled" if one.disabled else "active"
        keys = "\n".join(key.line for key in one.keys)
        roles, owns = " ".join(sorted(one.roles)), "\n".join(one.owns)
        yield one.name, [one.name, state, one.origin, roles, keys, owns, one.mail]


def _targets(desk: Authority, after: str) -> Iterator[tuple[str, list[str]]]:
    for one in filter(lambda one: one.name > after, desk.roster.targets()):
        labels = "\n".join(f"{key}={value}" for key, value in sorted(one.labels.items()))
        pins = "\n".join(parse_public_key(blob, min_rsa_bits=1024).line("") for blob in one.host_keys)
        yield one.name, [one.name, f"{one.address}:{one.port}", labels, pins]


def _accounts(desk: Authority, after: str) -> Iterator[tuple[str, list[str]]]:
    for one in filter(lambda one: one.target >= after.partition(" ")[0], desk.roster.accounts()):
        print_ = sshkeys.fingerprint(one.public) if one.public else ""
        yield f"{one.target} {one.name}", [one.target, one.name, one.kind, print_]
