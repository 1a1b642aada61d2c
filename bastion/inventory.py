"""What an inventory file wants, what there is, and the steps from one to the other. Pure.

What the file does not say stays as it is: a person without `keys` keeps theirs, and what is not in the file at all goes
only when asked to (`prune`). What it says is said completely: `roles = []` takes every role away.

Steps stand in the order in which they can be done: targets before accounts, what persons gain before what they lose
(so that the right to administer can be handed on), removals last.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from itertools import pairwise

from policy.messages import (
    AccountAdd,
    AccountRemove,
    Command,
    OwnerAdd,
    OwnerRemove,
    PersonAdd,
    PersonOffboard,
    PersonSet,
    TargetAdd,
    TargetRemove,
    TargetSet,
)


class Opened(StrEnum):
    """What opens an account."""

    USER_CA = "user-ca"
    PASSWORD = "password"
    KEY = "key"
    KEPT = "kept"  # what is stored: the file does not bring it along


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """None, here and below: the file does not say."""

    name: str
    roles: frozenset[str] | None = None
    keys: tuple[str, ...] | None = None
    disabled: bool | None = None
    owns: frozenset[str] | None = None
    mail: str | None = None  # "": none


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    name: str
    opened: Opened
    file: str = ""  # with the secret; "-": standard input


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    name: str
    address: str = ""  # HOST or HOST:PORT
    labels: Mapping[str, str] | None = None
    host_keys: tuple[str, ...] | None = None
    scan: bool = False
    accounts: Mapping[str, Account] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    persons: Mapping[str, Person] = field(default_factory=dict)
    targets: Mapping[str, Target] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HasPerson:
    name: str
    state: str  # active | disabled | offboarded
    origin: str
    roles: frozenset[str]
    keys: tuple[str, ...]  # lines
    owns: tuple[str, ...]
    mail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HasTarget:
    name: str
    address: str
    labels: Mapping[str, str]
    host_keys: tuple[str, ...]  # lines
    accounts: Mapping[str, tuple[str, str]]  # name -> kind, fingerprint of its key


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    persons: Mapping[str, HasPerson] = field(default_factory=dict)
    targets: Mapping[str, HasTarget] = field(default_factory=dict)

    @classmethod
    def read(
        cls, persons: Iterable[list[str]], targets: Iterable[list[str]], accounts: Iterable[list[str]]
    ) -> "Present":
        """From the rows that policyd answers `Inventory` with."""
        opened: dict[str, dict[str, tuple[str, str]]] = {}
        for target, account, kind, key in accounts:
            opened.setdefault(target, {})[account] = kind, key
        return cls(
            persons={
                name: HasPerson(
                    name=name, state=state, origin=origin, roles=frozenset(roles.split()),
                    keys=tuple(keys.splitlines()), owns=tuple(owns.splitlines()), mail=mail,
                )
                for name, state, origin, roles, keys, owns, mail in persons
            },
            targets={
                name: HasTarget(
                    name=name, address=address, labels=dict(one.split("=", 1) for one in labels.splitlines()),
                    host_keys=tuple(keys.splitlines()), accounts=opened.get(name, {}),
                )
                for name, address, labels, keys in targets
            },
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that changes. `secret`: the account whose secret the last command still needs."""

    sign: str  # + comes, ~ changes, - goes
    what: str
    detail: tuple[str, ...] = ()
    commands: tuple[Command, ...]
    secret: Account | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    steps: tuple[Step, ...]
    problems: tuple[tuple[tuple[str, ...], str], ...]  # path of keys in the file, what is wrong with it
    beside: tuple[str, ...]  # what there is and the file does not name


def plan(wanted: Wanted, present: Present, keys: Mapping[str, str], *, prune: bool, reason: str) -> Plan:
    """`keys`: the fingerprint of the key in each file that an account names."""
    problems: list[tuple[tuple[str, ...], str]] = []
    steps: list[Step] = []
    for target in wanted.targets.values():
        steps += _target(target, present.targets.get(target.name), reason, problems)
    gone: list[Step] = []
    for target in wanted.targets.values():
        has = present.targets.get(target.name)
        for account in (target.accounts or {}).values():
            steps += _account(target.name, account, has, keys, reason, problems)
        if has is not None and target.accounts is not None:
            gone += [_account_gone(has.name, name, reason) for name in has.accounts if name not in target.accounts]
    gains: list[Step] = []
    losses: list[Step] = []
    for person in wanted.persons.values():
        for step in _person(person, present.persons.get(person.name), reason, problems):
            (losses if step.sign == "-" or _loses(step) else gains).append(step)
    gone += [
        Step(sign="-", what=f"target {name}", commands=(TargetRemove(name=name, reason=reason),))
        for name in present.targets
        if name not in wanted.targets
    ]
    gone += [
        Step(sign="-", what=f"person {one.name}", commands=(PersonOffboard(name=one.name, reason=reason),))
        for one in present.persons.values()
        if one.name not in wanted.persons and one.state != "offboarded" and one.origin == "local"
    ]
    beside = () if prune else tuple(step.what for step in gone)
    return Plan(
        steps=(*steps, *gains, *losses, *(gone if prune else ())), problems=tuple(problems), beside=beside
    )  # fmt: skip


def fingerprint(line: str) -> str:
    """`SHA256:...` of the key in an authorized_keys, known_hosts or .pub line; ValueError if there is none."""
    words = line.split()
    for kind, blob in pairwise(words):
        if kind.startswith(("ssh-", "ecdsa-sha2-", "sk-")):
            try:
                raw = base64.b64decode(blob, validate=True)
            except binascii.Error:
                break
            if raw[4 : 4 + len(kind)] == kind.encode():
                return f"SHA256:{base64.b64encode(sha256(raw).digest()).decode().rstrip('=')}"
            break
    raise ValueError("not a public key, want a line like `ssh-ed25519 AAAA...`")


# --- how --------------------------------------------------------------------------------------------

Problems = list[tuple[tuple[str, ...], str]]


def _target(wanted: Target, has: HasTarget | None, reason: str, problems: Problems) -> Iterator[Step]:
    path = ("targets", wanted.name)
    if has is None:
        if not wanted.address:
            problems.append((path, "a new target needs an `address`"))
        if not wanted.host_keys and not wanted.scan:
            problems.append((path, 'a new target needs `host-keys`: a list of lines, or "scan"'))
        detail = [wanted.address, *_labelled(wanted.labels or {}), *_prints(wanted.host_keys or ())]
        yield Step(
            sign="+", what=f"target {wanted.name}", detail=(*detail, *["host keys by a scan"] * wanted.scan),
            commands=(TargetAdd(
                name=wanted.name, address=wanted.address, labels=dict(wanted.labels or {}),
                host_keys=list(wanted.host_keys or ()), scan=wanted.scan, reason=reason,
            ),),
        )  # fmt: skip
        return
    change = TargetSet(name=wanted.name, reason=reason)
    detail = []
    if wanted.address and _with_port(wanted.address) != has.address:
        change.address = wanted.address
        detail.append(f"address {has.address} -> {_with_port(wanted.address)}")
    if wanted.labels is not None and dict(wanted.labels) != dict(has.labels):
        change.set_labels = {key: value for key, value in wanted.labels.items() if has.labels.get(key) != value}
        change.remove_labels = sorted(has.labels.keys() - wanted.labels.keys())
        detail += [f"label {key}={has.labels.get(key, '')} -> {value}" for key, value in change.set_labels.items()]
        detail += [f"label {key}={has.labels[key]} ->" for key in change.remove_labels]
    if wanted.host_keys is not None:
        mine = {fingerprint(line): line for line in has.host_keys}
        new = {fingerprint(line): line for line in wanted.host_keys}
        change.add_host_keys = [line for name, line in new.items() if name not in mine]
        change.remove_host_keys = [name for name in mine if name not in new]
        detail += [f"host key + {name}" for name in new if name not in mine]
        detail += [f"host key - {name}" for name in change.remove_host_keys]
    if detail:
        yield Step(sign="~", what=f"target {wanted.name}", detail=tuple(detail), commands=(change,))


def _account(
    target: str, wanted: Account, has: HasTarget | None, keys: Mapping[str, str], reason: str, problems: Problems
) -> Iterator[Step]:
    kind, key = has.accounts.get(wanted.name, ("", "")) if has is not None else ("", "")
    what = f"account {wanted.name}@{target}"
    if wanted.opened is Opened.KEPT:
        if not kind:
            where = ("targets", target, "accounts", wanted.name)
            problems.append((where, "there is no such account, so nothing is kept: say what opens it"))
        return
    if kind == wanted.opened and (kind != Opened.KEY or key == keys.get(wanted.file)):
        return  # a stored password is not looked at: to set another one, remove the account first
    add = AccountAdd(account=wanted.name, target=target, user_ca=wanted.opened is Opened.USER_CA, reason=reason)
    secret = wanted if wanted.file else None
    opened = f"{wanted.opened} {keys.get(wanted.file, '')}".rstrip() if wanted.opened is Opened.KEY else wanted.opened
    if not kind:
        yield Step(sign="+", what=what, detail=(f"opened by {opened}",), commands=(add,), secret=secret)
        return
    remove = AccountRemove(account=wanted.name, target=target, reason=reason)
    detail = f"opened by {f'{kind} {key}'.rstrip()} -> {opened}"
    yield Step(sign="~", what=what, detail=(detail,), commands=(remove, add), secret=secret)


def _account_gone(target: str, name: str, reason: str) -> Step:
    return Step(
        sign="-", what=f"account {name}@{target}",
        commands=(AccountRemove(account=name, target=target, reason=reason),),
    )  # fmt: skip


def _person(wanted: Person, has: HasPerson | None, reason: str, problems: Problems) -> Iterator[Step]:
    what = f"person {wanted.name}"
    if has is not None and has.state == "offboarded":
        problems.append((("persons", wanted.name), "has left, and a name is never given to somebody else"))
        return
    if has is None:
        roles, keys = sorted(wanted.roles or ()), wanted.keys or ()
        mail = wanted.mail or ""
        commands: list[Command] = [PersonAdd(name=wanted.name, roles=roles, keys=list(keys), mail=mail, reason=reason)]
        if wanted.disabled:
            commands.append(PersonSet(name=wanted.name, disabled=True, reason=reason))
        detail = [f"role {role}" for role in roles] + _prints(keys) + [f"mail {mail}"] * bool(mail)
        detail += ["disabled"] * bool(wanted.disabled)
        yield Step(sign="+", what=what, detail=tuple(detail), commands=tuple(commands))
    else:
        yield from _person_changes(wanted, has, reason)
    owns = frozenset(has.owns) if has is not None else frozenset[str]()
    for scope in sorted((wanted.owns or owns) - owns if wanted.owns is not None else ()):
        yield Step(sign="+", what=f"owner {wanted.name} of {scope}",
                   commands=(OwnerAdd(person=wanted.name, scope=scope, reason=reason),))  # fmt: skip
    for scope in sorted(owns - wanted.owns if wanted.owns is not None else ()):
        yield Step(sign="-", what=f"owner {wanted.name} of {scope}",
                   commands=(OwnerRemove(person=wanted.name, scope=scope, reason=reason),))  # fmt: skip


def _person_changes(wanted: Person, has: HasPerson, reason: str) -> Iterator[Step]:
    change = PersonSet(name=wanted.name, reason=reason)
    detail: list[str] = []
    again: list[str] = []
    if wanted.roles is not None:
        change.add_roles = sorted(wanted.roles - has.roles)
        change.remove_roles = sorted(has.roles - wanted.roles)
        detail += [f"role + {role}" for role in change.add_roles] + [f"role - {role}" for role in change.remove_roles]
    if wanted.keys is not None:
        mine = {fingerprint(line): line for line in has.keys}
        new = {fingerprint(line): line for line in wanted.keys}
        # The same key with other options: it goes, and comes again.
        again = [line for name, line in new.items() if name in mine and _strict(line) != _strict(mine[name])]
        turned = {fingerprint(line) for line in again}
        change.add_keys = [line for name, line in new.items() if name not in mine]
        change.remove_keys = [name for name in mine if name not in new or name in turned]
        detail += [f"key + {name}" for name in new if name not in mine or name in turned]
        detail += [f"key - {name}" for name in change.remove_keys]
    if wanted.disabled is not None and wanted.disabled != (has.state == "disabled"):
        change.disabled = wanted.disabled
        detail.append("disabled" if wanted.disabled else "enabled")
    if wanted.mail is not None and wanted.mail != has.mail:
        change.mail = wanted.mail
        detail.append(f"mail {has.mail or 'none'} -> {wanted.mail or 'none'}")
    if detail:
        then = (PersonSet(name=wanted.name, add_keys=again, reason=reason),) if again else ()
        yield Step(sign="~", what=f"person {wanted.name}", detail=tuple(detail), commands=(change, *then))


def _loses(step: Step) -> bool:
    return any(isinstance(one, PersonSet) and bool(one.remove_roles or one.remove_keys or one.disabled)
               for one in step.commands if step.sign == "~")  # fmt: skip


def _strict(line: str) -> bool:
    """Whether the key counts only with a PIN or a finger (`verify-required`), the one option that policyd keeps."""
    return "verify-required" in line.split("ssh-")[0].split("sk-")[0].split("ecdsa-")[0]


def _prints(lines: Sequence[str]) -> list[str]:
    return [f"key {fingerprint(line)}" for line in lines]


def _labelled(labels: Mapping[str, str]) -> list[str]:
    return [f"label {key}={value}" for key, value in labels.items()]


def _with_port(address: str) -> str:
    """As policyd shows it: `HOST:PORT`, and 22 where none is named."""
    if address.startswith("["):
        host, _, port = address[1:].partition("]")
        return f"{host}:{port.lstrip(':') or 22}"
    if address.count(":") == 1:
        return address
    return f"{address}:22"
