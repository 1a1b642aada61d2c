"""Where asyncssh's private parts are touched: packets, ciphers, connections. Pinned by pyproject.toml."""

from asyncssh.connection import SSHClientConnection, SSHServerConnection


class ServerConnection(SSHServerConnection):
    """The connection of a person."""


class ClientConnection(SSHClientConnection):
    """The connection to a target."""
