"""Certificate authorities: who is trusted, who comes next, and what does not count any more."""

from policy.messages.base import Message


class CaLines(Message):
    """Lines for clients (`@cert-authority`) and targets (`TrustedUserCAKeys`, sshd_config), of `use` or of both."""

    use: str = ""  # user | host


class CaShow(Message):
    """Every authority with its stage, those that are retired, too."""


class CaRotate(Message):
    """Make the next authority of `use`; with `promote` put the one that waits in force; with `now` both at once."""

    use: str
    promote: bool = False
    now: bool = False
    reason: str = ""


class CaRetire(Message):
    """End one that signs no more. `ca`: `user-1`, as CaShow names it."""

    ca: str
    reason: str = ""


class CaRevoke(Message):
    """One of `session`, `serial` (`5` or `5-9`) and `key` (SHA256:... or a public key): it counts no more.

    Targets learn of it with the next revocation list that they are given.
    """

    session: str = ""
    serial: str = ""
    key: str = ""
    reason: str = ""


class CaKrl(Message):
    """OpenSSH's binary revocation list from byte `offset` on, as much as one message holds.

    Done has `list` (base64), `size` of the whole and `version`: if that is another one than before, begin again.
    """

    offset: int = 0
