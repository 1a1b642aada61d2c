"""Second factors, codes that count once, and invitations. On the connection of one transaction.

Whatever must happen once is a compare-and-set: true for the one who did it, false for everybody after.
"""

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from policy.records import Code, Invitation, SecretRecord, SecretVersion
from policy.store import schema as s
from policy.store.conflict import Conflict
from policy.store.vault_tables import VaultTables


class ProofTables:
    def __init__(self, connection: Connection, vault: VaultTables) -> None:
        self._db = connection
        self._vault = vault

    # --- one-time passwords by time -----------------------------------------------------------------

    def add_authenticator(
        self, person: str, secret: SecretRecord, first: SecretVersion, *, confirmed: bool = True
    ) -> None:
        """An authenticator with its secret; Conflict if there is one of that id."""
        self._vault.add_secret(secret, first)
        values = {"person": person, "id": secret.id, "kind": secret.kind, "created": secret.created}
        since = secret.created if confirmed else None
        self._db.execute(insert(s.authenticator).values(**values, confirmed=since))

    def confirm(self, authenticator: str, now: int) -> bool:
        """Compare and set: from now on it is asked for."""
        mine = (s.authenticator.c.id == authenticator, s.authenticator.c.confirmed.is_(None))
        return bool(self._db.execute(update(s.authenticator).where(*mine).values(confirmed=now)).rowcount)

    def remove_authenticator(self, person: str, ident: str) -> bool:
        return bool(self._remove(s.authenticator.c.person == person, s.authenticator.c.id == ident))

    def remove_authenticators(self, person: str) -> int:
        return self._remove(s.authenticator.c.person == person)

    def drop_unconfirmed(self, person: str) -> None:
        self._remove(s.authenticator.c.person == person, s.authenticator.c.confirmed.is_(None))

    def _remove(self, *mine: ColumnElement[bool]) -> int:
        """With their secrets; how many there were."""
        found = self._db.execute(select(s.authenticator.c.id).where(*mine)).scalars().all()
        self._db.execute(delete(s.authenticator).where(*mine))
        for ident in found:
            self._vault.remove_secret(ident)
        return len(found)

    # --- codes that count once ----------------------------------------------------------------------

    def codes(self, only: str | None = None) -> list[Code]:
        """Unused ones, expired or not."""
        query = select(s.code).where(s.code.c.used.is_(None)).order_by(s.code.c.created, s.code.c.id)
        if only is not None:
            query = query.where(s.code.c.person == only)
        return [
            Code(id=row.id, person=row.person, kind=row.kind, mac=row.mac, created=row.created, expires=row.expires)
            for row in self._db.execute(query)
        ]

    def replace_codes(self, person: str, kind: str, codes: Iterable[Code]) -> None:
        """The old ones of this kind are void."""
        self.remove_codes(person, kind)
        for code in codes:
            self._db.execute(
                insert(s.code).values(
                    id=code.id, person=code.person, kind=code.kind, mac=code.mac, created=code.created,
                    expires=code.expires, used=None,
                )
            )  # fmt: skip

    def remove_codes(self, person: str, kind: str | None = None) -> int:
        """Unused ones; which were used is remembered."""
        statement = delete(s.code).where(s.code.c.person == person, s.code.c.used.is_(None))
        return self._db.execute(statement if kind is None else statement.where(s.code.c.kind == kind)).rowcount

    def use_code(self, ident: str, now: int) -> bool:
        """Compare and set: true for the first use before it expires."""
        c = s.code.c
        mine = (c.id == ident, c.used.is_(None), or_(c.expires.is_(None), c.expires > now))
        return bool(self._db.execute(update(s.code).where(*mine).values(used=now)).rowcount)

    # --- invitations --------------------------------------------------------------------------------

    def add_invitation(self, invitation: Invitation) -> None:
        """It takes the place of those the person had and did not use."""
        c = s.invitation.c
        self._db.execute(delete(s.invitation).where(c.person == invitation.person, c.used.is_(None)))
        self._db.execute(
            insert(s.invitation).values(
                token=invitation.token, person=invitation.person, made=invitation.made, made_by=invitation.made_by[:64],
                expires=invitation.expires, used=None,
            )
        )  # fmt: skip

    def invitation(self, token: bytes) -> Invitation | None:
        """One that was not used."""
        query = select(s.invitation).where(s.invitation.c.token == token, s.invitation.c.used.is_(None))
        row = self._db.execute(query).first()
        if row is None:
            return None
        return Invitation(token=row.token, person=row.person, made=row.made, made_by=row.made_by, expires=row.expires)

    def use_invitation(self, token: bytes, now: int) -> bool:
        """Compare and set: true for the first use before it expires."""
        c = s.invitation.c
        mine = (c.token == token, c.used.is_(None), c.expires > now)
        return bool(self._db.execute(update(s.invitation).where(*mine).values(used=now)).rowcount)

    def has_key(self, person: str) -> bool:
        return self._db.execute(select(s.key.c.fingerprint).where(s.key.c.person == person)).first() is not None

    def add_key(self, person: str, fingerprint: str, line: str, now: int) -> None:
        """Conflict if it is somebody's already: a key names one person alone."""
        try:
            self._db.execute(insert(s.key).values(person=person, fingerprint=fingerprint, line=line, created=now))
        except IntegrityError:
            raise Conflict("the key belongs to somebody already") from None
