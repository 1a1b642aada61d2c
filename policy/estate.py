"""Commands on targets and accounts: what is stored about them, and what is answered. No secret comes back."""

import secrets
import time
from dataclasses import replace
from typing import Final

from policy import naming, sshkeys
from policy.access_words import place_of
from policy.authority import Authority, ended_note
from policy.conversation import Conversation
from policy.grants import void
from policy.messages import (
    AccountAdd,
    AccountList,
    AccountRemove,
    AccountShow,
    Done,
    Rows,
    TargetAdd,
    TargetHostkey,
    TargetList,
    TargetRemove,
    TargetShow,
)
from policy.naming import CommandRefused, counted, shown_time
from policy.sshkeys import PrivateKey
from policy.sshwire import BadKey
from policy.store import Conflict, Tables
from policy.store.records import Account, SealedSecret, Target
from policy.vault import Secret

ACCOUNT_SECRET: Final = "account"
"""Purpose in the vault."""


# --- targets ----------------------------------------------------------------------------------------


async def target_add(desk: Authority, talk: Conversation, request: TargetAdd) -> Done:
    name = naming.target_name(request.name)
    if desk.roster.target(name) is not None:
        raise CommandRefused(f"target `{name}` exists already", f"see `bastion target show {name}`")
    if request.protocol != "ssh":
        raise CommandRefused(f"protocol `{request.protocol[:16]}` is not supported, want ssh")
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
        await desk.change_target(name, change, talk.event("target-add", name, detail))
    except Conflict:
        raise _taken(f"target `{name}`", f"see `bastion target show {name}`") from None
    how = "found by a scan, compare them" if request.scan else "pinned"
    lines = "".join(f"\n  {naming.key_type(blob)} {fingerprint}" for fingerprint, blob in pins.items())
    return Done(
        text=f"added target `{name}` at {host}:{port}, {counted(len(pins), 'host key')} {how}:{lines}",
        data={"target": name, "address": f"{host}:{port}", "host_keys": " ".join(pins)},
    )


async def target_remove(desk: Authority, talk: Conversation, request: TargetRemove) -> Done:
    target = _target(desk, request.name)
    accounts = len(desk.roster.accounts(target.name))
    await desk.change_target(
        target.name,
        lambda t: t.remove_target(target.name),
        talk.event("target-remove", target.name, {"accounts": str(accounts)}),
    )
    await void(desk, talk, "target removed", lambda one: one.target == target.name)
    ended = await desk.end_target(target.name, talk.who, "target removed")
    text = f"removed target `{target.name}` and {counted(accounts, 'account')}{ended_note(ended)}"
    return Done(text=text, data={"target": target.name, "accounts": str(accounts), "sessions_ended": str(ended)})


async def target_list(desk: Authority, talk: Conversation, _: TargetList) -> Rows:
    await desk.ledger.note(talk.event("view", "targets", {}))
    return Rows(
        columns=["target", "address", "protocol", "labels", "accounts", "host keys"],
        rows=[
            [
                one.name,
                f"{one.address}:{one.port}",
                one.protocol,
                " ".join(f"{key}={value}" for key, value in sorted(one.labels.items())),
                " ".join(account.name for account in desk.roster.accounts(one.name)),
                str(len(one.host_keys)),
            ]
            for one in desk.roster.targets()
        ],
    )


async def target_show(desk: Authority, talk: Conversation, request: TargetShow) -> Rows:
    one = _target(desk, request.name)
    await desk.ledger.note(talk.event("view", f"target {one.name}", {}))
    rows = [["name", one.name], ["address", f"{one.address}:{one.port}"], ["protocol", one.protocol]]
    rows += [["label", f"{key}={value}"] for key, value in sorted(one.labels.items())]
    rows += [["host key", f"{naming.key_type(blob)} {sshkeys.fingerprint(blob)}"] for blob in one.host_keys]
    rows += [["account", f"{account.name} ({account.kind})"] for account in desk.roster.accounts(one.name)]
    return Rows(columns=["field", "value"], rows=rows)


async def target_hostkey(desk: Authority, talk: Conversation, request: TargetHostkey) -> Done:
    """Pin what a scan finds if it is the very key that was named; stop trusting a named one."""
    target = _target(desk, request.name)
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
        await desk.change_target(target.name, change, talk.event("target-hostkey", target.name, detail))
    except Conflict:
        raise _taken("this host key", f"see `bastion target show {target.name}`") from None
    said = [f"accepted {request.accept}"] * bool(request.accept) + [f"forgot {request.forget}"] * bool(request.forget)
    return Done(text=f"target `{target.name}`: {', '.join(said)}", data={"target": target.name} | detail)


# --- accounts ---------------------------------------------------------------------------------------


async def account_add(desk: Authority, talk: Conversation, request: AccountAdd) -> Done:
    target = _target(desk, request.target)
    name = naming.account_name(request.account)
    if bool(request.password) + bool(request.private_key) + request.user_ca != 1:
        raise CommandRefused("want exactly one of a password, a private key, and the user CA")
    now, ident = time.time_ns(), secrets.token_hex(16)
    account = Account(target=target.name, name=name, kind="user-ca", secret=None, created=now)
    sealed: SealedSecret | None = None
    if request.password or request.private_key:
        if request.private_key:
            key = _private_key(request.private_key)
            account = replace(account, kind="key", secret=ident, public=key.public.blob)
            plain = sshkeys.write_private_key(key)
        else:
            account = replace(account, kind="password", secret=ident)
            plain = naming.password(request.password)
        sealed = SealedSecret(
            id=ident, purpose=ACCOUNT_SECRET, version=1, sealed=desk.vault.seal(ACCOUNT_SECRET, ident, 1, Secret(plain))
        )

    def change(t: Tables) -> None:
        if sealed is not None:
            t.add_secret(sealed, now)
        t.add_account(account)

    place = f"{name}@{target.name}"
    detail = {"kind": account.kind, "key": sshkeys.fingerprint(account.public) if account.public else ""}
    try:
        await desk.change_target(target.name, change, talk.event("account-add", place, detail))
    except Conflict:
        raise _taken(f"account `{place}`", f"remove it first: `bastion account remove {place}`") from None
    data = {"account": name, "target": target.name, **detail}
    return Done(text=f"added account `{place}`, opened by {_opened_by(account)}", data=data)


async def account_remove(desk: Authority, talk: Conversation, request: AccountRemove) -> Done:
    account = _account(desk, request.account, request.target)
    place = f"{account.name}@{account.target}"
    await desk.change_target(
        account.target,
        lambda t: t.remove_account(account.target, account.name),
        talk.event("account-remove", place, {}),
    )
    await void(desk, talk, "account removed", lambda one: place_of(one) == place)
    ended = await desk.end_target(account.target, talk.who, "account removed", account=account.name)
    return Done(
        text=f"removed account `{place}` and its credential{ended_note(ended)}",
        data={"account": account.name, "target": account.target, "sessions_ended": str(ended)},
    )


async def account_list(desk: Authority, talk: Conversation, request: AccountList) -> Rows:
    if request.target:
        _target(desk, request.target)
    await desk.ledger.note(talk.event("view", f"accounts {request.target}".strip(), {}))
    return Rows(
        columns=["account", "target", "opened by"],
        rows=[[one.name, one.target, _opened_by(one)] for one in desk.roster.accounts(request.target)],
    )


async def account_show(desk: Authority, talk: Conversation, request: AccountShow) -> Rows:
    one = _account(desk, request.account, request.target)
    place = f"{one.name}@{one.target}"
    await desk.ledger.note(talk.event("view", f"account {place}", {}))
    rows = [["account", one.name], ["target", one.target], ["opened by", _opened_by(one)]]
    if one.public:
        rows.append(["public key", sshkeys.parse_public_key(one.public, min_rsa_bits=2048).line(place)])
    last = await desk.ledger.read(lambda t: t.last_use(one.target, one.name))
    rows.append(["last used", shown_time(last) if last else "never"])
    return Rows(columns=["field", "value"], rows=rows)


# --- how --------------------------------------------------------------------------------------------


def _target(desk: Authority, name: str) -> Target:
    if (target := desk.roster.target(name)) is None:
        raise CommandRefused(f"no target `{name[:64]}`", "see `bastion target list`")
    return target


def _account(desk: Authority, name: str, target: str) -> Account:
    if (account := desk.roster.account(target, name)) is None:
        raise CommandRefused(f"no account `{name[:64]}@{target[:64]}`", "see `bastion account list`")
    return account


def _private_key(pem: str) -> PrivateKey:
    try:
        return sshkeys.parse_private_key(pem.encode())
    except BadKey as error:
        raise CommandRefused(str(error)) from None


def _opened_by(account: Account) -> str:
    if account.public is not None:
        return f"key {sshkeys.fingerprint(account.public)}"
    return "password" if account.kind == "password" else "certificate of the user CA"


def _taken(what: str, hint: str) -> CommandRefused:
    return CommandRefused(f"{what} exists already", hint)
