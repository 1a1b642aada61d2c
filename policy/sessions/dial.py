"""What a gateway logs in to a target with: leased for one handshake, signed here, or certified for minutes.

Every step takes the session's own account and target from `Live`, never from the request.
"""

import os
import time
from typing import Final

import structlog
import trio

from policy.authorities.life import Use
from policy.authorities.revocation import key_id
from policy.authority import Authority
from policy.conversation import Conversation
from policy.keys import certificates, signatures, sshkeys
from policy.keys.sshwire import BadKey
from policy.messages import (
    Certificate,
    Credential,
    HostCertificate,
    Refused,
    Sign,
    Signature,
    UseCertificate,
    UseKey,
    UsePassword,
)
from policy.records import Account
from policy.sessions.access import PENDING, may_come_to
from policy.sessions.live import Live
from policy.sessions.words import has_it
from policy.trail.audit import Event
from policy.vault.secret import Secret, VaultError

MAX_SIGNATURES: Final = 4
"""Per session: one handshake, and one more after a repeated dial, each with a second algorithm at most."""

NOT_LIVE: Final = "this session has ended"


async def credential(
    desk: Authority, talk: Conversation, request: Credential
) -> UsePassword | UseKey | UseCertificate | Refused:
    """Once per session, and once more after the gateway reported that the target could not be reached."""
    live = desk.sessions.open_of(talk, request.session)
    if live is None:
        return await desk.refuse(talk, "credential-refused", "no such live session", NOT_LIVE)
    if not live.machine:
        await desk.rotations.settled(live.account, live.target)
    account = desk.roster.account(live.target, live.account)
    if account is None or desk.sessions.open_of(talk, live.id) is not live:
        return await _refuse(desk, live, "credential-refused", "account is gone, or the session", NOT_LIVE)
    out = desk.checkouts.at(live.account, live.target)
    if out is not None and out.person != live.person and not live.machine:
        # Attack: a session granted just before the checkout, and begun within it: nobody could tell who did what.
        cause, hint = has_it(out)
        return await desk.refuse(
            talk, "credential-refused", f"checked out by {out.person}", cause, hint, code=PENDING,
            what=f"{live.account}@{live.target}", session=live.id,
        )  # fmt: skip
    if live.leases > live.redials:
        return await _refuse(
            desk, live, "credential-refused", "asked for twice", "the credential was handed out already"
        )
    live.leases, live.unreached = live.leases + 1, ""
    live.leased = trio.current_time()
    detail = {"kind": account.kind, **({"version": str(live.version)} if live.version else {})}
    answer: UsePassword | UseKey | UseCertificate
    try:
        match account.kind:
            case "password":
                answer = UsePassword(password=(await secret_of(desk, account, live.version)).reveal())
            case "key" if account.public is not None:
                key = await _public(desk, account, live.version)
                answer = UseKey(public=key.blob, algorithms=list(key.signature_algorithms))
                detail["key"] = key.fingerprint
            case "user-ca":
                blob, said = _certificate(desk, live, request.session_key)
                answer, detail = UseCertificate(certificate=blob), detail | said
            case _:
                raise VaultError(f"account kind `{account.kind}` is not known")
    except (VaultError, BadKey) as error:
        structlog.get_logger().error("credential-failed", session=live.id, error=str(error))
        return await _refuse(desk, live, "credential-refused", str(error), "the credential cannot be used", code=78)
    # Kept before it is handed over: there is no use of a credential without its event.
    await desk.ledger.note(_event(live, "credential", "", detail))
    return answer


async def sign(desk: Authority, talk: Conversation, request: Sign) -> Signature | Refused:
    """Only a login (RFC 4252 section 7) as the granted account, with the granted account's key.

    A gateway that was broken into could otherwise sign anything with a target's key: another user, a certificate,
    a git commit, an agent request.
    """
    live = desk.sessions.open_of(talk, request.session)
    if live is None:
        return await desk.refuse(talk, "sign-refused", "no such live session", NOT_LIVE)
    account = desk.roster.account(live.target, live.account)
    if account is None or account.kind != "key" or account.public is None or live.leases == 0:
        return await _refuse(desk, live, "sign-refused", "no key was leased", "there is no key to sign with")
    if live.signatures >= MAX_SIGNATURES * live.leases:
        return await _refuse(desk, live, "sign-refused", "too many signatures", "the key has signed often enough")
    try:
        asked = signatures.parse_userauth(request.data)
        public = (await _public(desk, account, live.version)).blob
        if asked.user != live.account or asked.blob != public or asked.algorithm != request.algorithm:
            raise BadKey("signed data is for another account, key or algorithm")
        live.signatures += 1
        key = sshkeys.parse_private_key((await secret_of(desk, account, live.version)).reveal())
        blob = signatures.sign(key, request.algorithm, request.data)
    except BadKey as error:
        return await _refuse(desk, live, "sign-refused", str(error), "this is not signed")
    except VaultError as error:
        return await _refuse(desk, live, "sign-refused", str(error), "the credential cannot be used", code=78)
    await desk.ledger.note(_event(live, "sign", "", {"algorithm": request.algorithm}))
    return Signature(blob=blob)


async def host_certificate(desk: Authority, talk: Conversation, request: HostCertificate) -> Certificate | Refused:
    """For names with a target record alone: the host CA must not vouch for machines that are not ours.

    And for those alone who may come to use it: the certificate itself would tell that the target exists.
    """
    target = desk.roster.target(request.target)
    may = may_come_to(desk, talk, request.target)
    if target is None or not may:
        why = "no such target" if target is None else "no account there is within reach"
        return await desk.refuse_access(talk, f"host certificate for `{request.target[:128]}`", why)
    try:
        key = sshkeys.parse_public_key(request.public)
        signing, serial = desk.authorities.signing(Use.HOST), random_serial()
        blob, seconds = certificates.mint_host_certificate(
            signing.private, key, target=target.name, serial=serial, now=time.time(),
            hours=desk.settings.host_certificate_hours,
        )  # fmt: skip
    except BadKey as error:
        return await desk.refuse(
            talk, "host-certificate-refused", str(error), "the host key cannot be certified", code=78
        )
    detail = {"key": key.fingerprint, "ca": signing.name, "serial": str(serial)}
    await desk.ledger.note(talk.event("host-certificate", target.name, detail))
    return Certificate(blob=blob, expires_in=seconds)


def _certificate(desk: Authority, live: Live, session_key: bytes) -> tuple[bytes, dict[str, str]]:
    """As the rules that allowed the session want it, and what the trail has to know of it."""
    terms, signing, serial = live.certificate, desk.authorities.signing(Use.USER), random_serial()
    minutes = terms.minutes or desk.settings.certificate_minutes
    principals = terms.principals_of(live.account, live.person)
    sources = [str(one) for one in terms.sources] or desk.settings.certificate_sources
    blob = certificates.mint_user_certificate(
        signing.private,
        sshkeys.parse_public_key(session_key),
        principals=principals,
        key_id=key_id(live.person, live.id),
        serial=serial,
        now=time.time(),
        minutes=minutes,
        kinds=live.kinds,
        source=",".join(sources),
        force_command=terms.force_command,
    )
    detail = {
        "ca": signing.name, "serial": str(serial), "minutes": str(minutes), "principals": " ".join(principals),
        "source-address": " ".join(sources), "force-command": terms.force_command,
    }  # fmt: skip
    return blob, {key: value for key, value in detail.items() if value}


async def secret_of(desk: Authority, account: Account, version: int = 0) -> Secret:
    """What opens an account; a version of it, or the one in force. VaultError."""
    assert account.secret is not None, "a password or key account has a secret"
    place = f"{account.name}@{account.target}"
    return (await desk.secrets.open(account.secret, version, kind=account.kind, name=place)).value


async def _public(desk: Authority, account: Account, version: int) -> sshkeys.PublicKey:
    """The public half; of the key in force it stands beside the account, and no vault is needed."""
    if version:
        return sshkeys.parse_private_key((await secret_of(desk, account, version)).reveal()).public
    assert account.public is not None, "a key account has one"
    return sshkeys.parse_public_key(account.public, min_rsa_bits=sshkeys.MIN_TARGET_RSA_BITS)


async def _refuse(desk: Authority, live: Live, event: str, why: str, cause: str, *, code: int = 77) -> Refused:
    return await desk.refuse(
        live.talk, event, why, cause, code=code, what=f"{live.account}@{live.target}", session=live.id
    )


def _event(live: Live, event: str, why: str, detail: dict[str, str]) -> Event:
    return Event(
        event=event, who=live.person, what=f"{live.account}@{live.target}", why=why or live.rule,
        source=live.source, session=live.id, detail=detail,
    )  # fmt: skip


def random_serial() -> int:
    """Unique without a counter: a restored database must not give one out twice."""
    return int.from_bytes(os.urandom(8)) >> 1
