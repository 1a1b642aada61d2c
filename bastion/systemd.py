"""What a process of ours says to whoever started it: systemd, or `bastion run` in its place."""

import os
import socket


def tell_systemd(message: str) -> str:
    """sd_notify(3). Nothing happens where nobody listens; if it cannot be said, why."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return ""
