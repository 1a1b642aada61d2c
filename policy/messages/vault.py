"""The vault as a whole: how it stands, sealing it anew, and the versions of what it holds. No secret is in any."""

from policy.messages.base import Message


class VaultStatus(Message):
    pass


class VaultRekey(Message):
    """A new root key, with which everything is sealed anew while all goes on.

    `master`: keep the root keys, and have them wrapped by the master that bastion.toml names now. `passphrase`: the
    new one, where that is a passphrase.
    """

    reason: str
    master: bool = False
    passphrase: bytes = b""

    def __repr__(self) -> str:
        return f"VaultRekey(master={self.master})"


class VaultVersions(Message):
    name: str  # folder/name, or ACCOUNT@TARGET


class VaultRestore(Message):
    """An earlier version is in force again."""

    name: str
    version: int
    reason: str
