"""Secrets that are changed without a login to a host: in a directory, by the courier, or by a script, by the runner.

Each call is an event before it is made: the secrets leave with it.
"""

from functools import partial
from typing import Final

import trio

from policy.authority import Authority
from policy.ldap.passwords import judged, verified
from policy.messages import LdapCall, LdapPassword, RunScript, Worked
from policy.outside.secrets import OutsideError, read_trust
from policy.rotation import options
from policy.rotation.drivers import BASTION, CHANGE_SECONDS, VERIFY_SECONDS, Driver, Job, Told
from policy.rotation.plan import Outcome
from policy.sessions.dial import secret_of
from policy.trail.audit import Event
from policy.vault.secret import Secret, VaultError


class Ldap:
    """By a bind of its own account, or of one that may reset others; proven by a bind."""

    async def change(self, desk: Authority, job: Job, old: int, new: int) -> Told:
        chosen = dict(job.entry.options)
        before, after = await secret_of(desk, job.account, old), await secret_of(desk, job.account, new)
        bind, password, was = chosen.get("bind", ""), before, b""
        if bind:
            password = await _named(desk, chosen["secret"])
        else:
            bind, was = options.login_of(chosen, job.account.name), before.reveal()
        try:
            trust = await _trust(desk, chosen)
        except OutsideError as error:
            return Told(Outcome.UNREACHABLE, str(error))
        await _note(desk, job, "change", chosen["url"], chosen.get("secret", ""))
        call = LdapPassword(
            task=0, url=chosen["url"], bind=bind, password=password.reveal(), trust=trust, old=was, new=after.reveal(),
            entry=options.entry_of(chosen, job.account.name), way=chosen.get("way", options.EXTENDED),
        )  # fmt: skip
        return _told(judged(await desk.couriers.ldap_password(call)))

    async def remove(self, desk: Authority, job: Job, old: int, new: int) -> Told:
        return Told(Outcome.DONE)  # there is one password

    async def verify(self, desk: Authority, job: Job, version: int) -> Told:
        chosen = dict(job.entry.options)
        password = await secret_of(desk, job.account, version)
        try:
            trust = await _trust(desk, chosen)
        except OutsideError as error:
            return Told(Outcome.UNREACHABLE, str(error))
        await _note(desk, job, "verify", chosen["url"])
        call = LdapCall(
            task=0, url=chosen["url"], bind=options.login_of(chosen, job.account.name), password=password.reveal(),
            trust=trust,
        )  # fmt: skip
        return _told(verified(await desk.couriers.ldap(call)))


class Script:
    """By an operator's script, which says itself what came of it, and is asked to log in as well."""

    async def change(self, desk: Authority, job: Job, old: int, new: int) -> Told:
        before, after = await secret_of(desk, job.account, old), await secret_of(desk, job.account, new)
        return await self._run(desk, job, "change", before.reveal(), after.reveal(), CHANGE_SECONDS)

    async def remove(self, desk: Authority, job: Job, old: int, new: int) -> Told:
        return Told(Outcome.DONE)  # it is a script's own business what it keeps

    async def verify(self, desk: Authority, job: Job, version: int) -> Told:
        secret = await secret_of(desk, job.account, version)
        return await self._run(desk, job, "verify", b"", secret.reveal(), VERIFY_SECONDS)

    async def _run(self, desk: Authority, job: Job, action: str, old: bytes, new: bytes, seconds: float) -> Told:
        script = job.entry.option("script")
        await _note(desk, job, action, script)
        order = RunScript(
            task=0, script=script, action=action, account=job.account.name, target=job.target.name,
            address=job.target.address, port=job.target.port, old=old, new=new, seconds=seconds,
        )  # fmt: skip
        return _told(await desk.runners.run_script(order))


ELSEWHERE: Final[dict[str, Driver]] = {options.LDAP: Ldap(), options.SCRIPT: Script()}
"""By the word in policy.toml, as `drivers.DRIVERS`."""


async def _named(desk: Authority, name: str) -> Secret:
    """A secret of the vault by its name, `folder/name` or ACCOUNT@TARGET. VaultError."""
    record = await desk.ledger.read(lambda t: t.vault.named(name))
    if record is None:
        raise VaultError(f"there is no secret `{name}`, which `[[rotation]]` names", "bastion secret list")
    return (await desk.secrets.open(record.id, name=name)).value


async def _trust(desk: Authority, chosen: dict[str, str]) -> str:
    return await trio.to_thread.run_sync(partial(read_trust, chosen.get("ca", ""), desk.config.path.parent))


async def _note(desk: Authority, job: Job, action: str, by: str, secret: str = "") -> None:
    detail = {"driver": job.entry.driver, "action": action, "by": by, "secret": secret}
    await desk.ledger.note(
        Event(
            event="rotation-call", who=BASTION, what=job.place, why=job.entry.name, source=BASTION,
            detail={key: value for key, value in detail.items() if value},
        )
    )  # fmt: skip


def _told(worked: Worked) -> Told:
    return Told(Outcome(worked.outcome), worked.detail)
