"""Commands on accounts and the credentials that open them, for administrators and owners. No secret comes back."""

import secrets
import time
from dataclasses import replace

from policy import naming
from policy.authority import Authority, ended_note
from policy.conversation import Conversation
from policy.keys import sshkeys
from policy.keys.sshkeys import PrivateKey
from policy.keys.sshwire import BadKey
from policy.leave.grants import void
from policy.leave.requests import text
from policy.messages import AccountAdd, AccountList, AccountRemove, AccountShow, Done, Rows
from policy.naming import CommandRefused, shown_time
from policy.paging import paged
from policy.persons.ownership import check_tends, tended
from policy.records import Account, SecretRecord, SecretVersion
from policy.sessions.words import place_of
from policy.store import Conflict, Tables
from policy.targets.estate import taken, the_target
from policy.vault.secret import Secret
from policy.vault.secrets import new_secret


async def account_add(desk: Authority, talk: Conversation, request: AccountAdd) -> Done:
    check_tends(desk, talk, request.target)
    target = the_target(desk, request.target)
    why = text(request.reason, "reason")
    name = naming.account_name(request.account)
    if bool(request.password) + bool(request.private_key) + request.user_ca != 1:
        raise CommandRefused("want exactly one of a password, a private key, and the user CA")
    place = f"{name}@{target.name}"
    now, ident = time.time_ns(), secrets.token_hex(16)
    account = Account(target=target.name, name=name, kind="user-ca", secret=None, created=now)
    rows: tuple[SecretRecord, SecretVersion] | None = None
    if request.password or request.private_key:
        if request.private_key:
            key = _private_key(request.private_key)
            account = replace(account, kind="key", secret=ident, public=key.public.blob)
            plain = sshkeys.write_private_key(key)
        else:
            account = replace(account, kind="password", secret=ident)
            plain = naming.password(request.password)
        rows = new_secret(desk.vault, account.kind, place, Secret(plain), talk.who, ident=ident)

    def change(t: Tables) -> None:
        if rows is not None:
            t.vault.add_secret(*rows)
        t.add_account(account)

    detail = {"kind": account.kind, "key": sshkeys.fingerprint(account.public) if account.public else ""}
    try:
        await desk.change_target(target.name, change, talk.event("account-add", place, detail, why=why))
    except Conflict:
        raise taken(f"account `{place}`", f"remove it first: `bastion account remove {place}`") from None
    data = {"account": name, "target": target.name, **detail}
    return Done(text=f"added account `{place}`, opened by {opened_by(account)}", data=data)


async def account_remove(desk: Authority, talk: Conversation, request: AccountRemove) -> Done:
    check_tends(desk, talk, request.target)
    account = _account(desk, request.account, request.target)
    why = text(request.reason, "reason")
    place = f"{account.name}@{account.target}"
    await desk.change_target(
        account.target,
        lambda t: t.remove_account(account.target, account.name),
        talk.event("account-remove", place, {"kind": account.kind}, why=why),
    )
    await void(desk, talk, "account removed", lambda one: place_of(one) == place)
    ended = await desk.end_target(account.target, talk.who, "account removed", account=account.name)
    return Done(
        text=f"removed account `{place}` and its credential{ended_note(ended)}",
        data={"account": account.name, "target": account.target, "sessions_ended": str(ended)},
    )


async def account_list(desk: Authority, talk: Conversation, request: AccountList) -> Rows:
    if request.target:
        check_tends(desk, talk, request.target)
        targets = [the_target(desk, request.target)]
    else:
        targets = tended(desk, talk, desk.roster.targets())
    await desk.ledger.note(talk.event("view", f"accounts {request.target}".strip(), {"after": request.after}))
    return paged(
        ["account", "target", "opened by"],
        (
            (f"{one.target} {one.name}", [one.name, one.target, opened_by(one)])  # a blank sorts before all of a name
            for target in targets
            if target.name >= request.after.partition(" ")[0]  # pages of ten thousand are not worked out from the start
            for one in desk.roster.accounts(target.name)
        ),
        request.after,
        request.limit,
    )


async def account_show(desk: Authority, talk: Conversation, request: AccountShow) -> Rows:
    check_tends(desk, talk, request.target)
    one = _account(desk, request.account, request.target)
    place = f"{one.name}@{one.target}"
    await desk.ledger.note(talk.event("view", f"account {place}", {}))
    rows = [["account", one.name], ["target", one.target], ["opened by", opened_by(one)]]
    if one.public:
        rows.append(["public key", sshkeys.parse_public_key(one.public, min_rsa_bits=2048).line(place)])
    last = await desk.ledger.read(lambda t: t.last_use(one.target, one.name))
    rows.append(["last used", shown_time(last) if last else "never"])
    return Rows(columns=["field", "value"], rows=rows)


def _account(desk: Authority, name: str, target: str) -> Account:
    if (account := desk.roster.account(target, name)) is None:
        raise CommandRefused(f"no account `{name[:64]}@{target[:64]}`", "see `bastion account list`")
    return account


def _private_key(pem: str) -> PrivateKey:
    try:
        return sshkeys.parse_private_key(pem.encode())
    except BadKey as error:
        raise CommandRefused(str(error)) from None


def opened_by(account: Account) -> str:
    if account.public is not None:
        return f"key {sshkeys.fingerprint(account.public)}"
    return "password" if account.kind == "password" else "certificate of the user CA"
