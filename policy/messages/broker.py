"""Secrets for applications: the words of the broker, and the commands that say which application may come to it.

`Applicant` is the first word on the broker's socket, one conversation for each connection of an application. What
it says of the other end is what the broker saw of it; who that is, policyd judges, and again at every request.
"""

from policy.messages.base import Message


class Applicant(Message):
    """Somebody came to the broker. Answered with Recognised or Refused; a refusal ends the conversation."""

    name: str = ""  # whom they say they are; needed where what is seen fits several applications
    local: bool = True  # by the socket on this machine; else by HTTPS
    uid: int = -1
    pid: int = 0
    unit: str = ""  # the systemd unit in whose control group it runs
    executable: str = ""  # its program, where the broker may see that
    address: str = ""  # of HTTPS: where it comes from
    certificate: str = ""  # of HTTPS: SHA-256 of the client certificate that was proven, hexadecimal
    token: str = ""  # of HTTPS


class ReadSecret(Message):
    """One secret, by its name. It is in the audit trail before it is in the answer."""

    name: str


class RenewLease(Message):
    lease: str


class EndLease(Message):
    """It is not needed any more."""

    lease: str


class RenewToken(Message):
    """The token that was shown, for a newer one that is good from the same place. Answered with Renewed."""


class Recognised(Message):
    application: str
    seconds: int = 0  # until its token ends; 0: none is needed
    rate: int = 0  # reads a second


class Leased(Message):
    """A secret, for `seconds`; renewed, at most for `longest` more from now."""

    name: str
    kind: str
    value: bytes
    version: int
    lease: str
    seconds: int
    longest: int


class Lease(Message):
    """A lease that was renewed or ended (then 0 seconds). `superseded`: the secret has a newer version; read it."""

    lease: str
    name: str
    version: int
    seconds: int
    superseded: bool = False


class Renewed(Message):
    """A new token, shown this once. What it replaces is good for `overlap` seconds more."""

    token: bytes
    seconds: int
    longest: int  # seconds that it lasts by renewing, from now
    overlap: int


class ApplicationAdd(Message):
    """At least one binding, all of which must hold. `owner`: a person; who adds it when left out."""

    name: str
    uid: int = -1
    unit: str = ""
    executable: str = ""
    certificate: str = ""  # SHA-256 of a client certificate, hexadecimal, colons allowed
    addresses: list[str] = []  # networks
    rate: int = 0  # reads a second; 0: the default
    renewable: int = 0  # seconds that its tokens last by renewing
    owner: str = ""
    reason: str = ""


class ApplicationSet(Message):
    """None: as it is; -1, an empty text and an empty list take the binding away."""

    name: str
    uid: int | None = None
    unit: str | None = None
    executable: str | None = None
    certificate: str | None = None
    addresses: list[str] | None = None
    rate: int = 0
    renewable: int | None = None
    owner: str = ""
    disabled: bool | None = None
    reason: str = ""


class ApplicationList(Message):
    after: str = ""
    limit: int = 0


class ApplicationShow(Message):
    name: str


class ApplicationRemove(Message):
    name: str
    reason: str = ""


class ApplicationToken(Message):
    """A token for HTTPS, shown once, bound to an address or a client certificate."""

    name: str
    seconds: int = 3600
    certificate: str = ""
    addresses: list[str] = []
    reason: str = ""


class ApplicationRevoke(Message):
    """Take back tokens and leases: the one that is named, or all of the application's."""

    name: str
    ident: str = ""
    reason: str = ""


class LeaseList(Message):
    """Who has read what, and may go on using it."""

    name: str = ""
    after: str = ""
    limit: int = 0
