"""Small TCP and unix-socket servers and a tiny X server, for forwards: each in a thread, each ended by its block."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.net import LOOPBACK

Serve = Callable[[socket.socket], None]


def echo(connection: socket.socket) -> None:
    """Sends back what comes, and `, bye` after the end of it: half-close is part of the proof."""
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.sendall(b", bye")


def web(connection: socket.socket) -> None:
    """One answer to one request, as short as HTTP can be."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nthrough the tunnel")


@contextmanager
def served(serve: Serve, address: tuple[str, int] | str = (LOOPBACK, 0)) -> Iterator[tuple[str, int] | str]:
    """A listener on TCP, or on a unix socket if `address` is a path."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen(64)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection:
                try:
                    serve(connection)
                except OSError:
                    pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)  # else it may take the first connection of the listener that gets this number next
    if isinstance(address, str):
        Path(address).unlink(missing_ok=True)


def ask(address: tuple[str, int] | str, data: bytes = b"hello") -> bytes:
    """Send, say that this is all, and read to the end."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(20)
        connection.connect(address)
        sender = threading.Thread(target=_send, args=(connection, data), daemon=True)
        sender.start()
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            pass  # how a forward that could not be opened ends
        sender.join(20)
        return answer


def _send(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the reader sees what came of it


def x_server(cookie: bytes) -> Serve:
    """Enough of X11 for one client to learn that it got in: the setup reply, or a refusal (X protocol, section 8)."""

    def serve(connection: socket.socket) -> None:
        head = exactly(connection, 12)
        order = "<" if head[:1] == b"l" else ">"
        name, length = struct.unpack(order + "HH", head[6:10])
        exactly(connection, (name + 3) // 4 * 4)
        given = exactly(connection, (length + 3) // 4 * 4)[:length]
        reason = b"welcome" if given == cookie else b"who are you"
        # Failed with a reason in both cases: it is the answer that a client shows as text.
        body = reason.ljust((len(reason) + 3) // 4 * 4, b"\0")
        connection.sendall(struct.pack(order + "BBHHH", 0, len(reason), 11, 0, len(body) // 4) + body)

    return serve


def exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("the peer closed early")
        data += piece
    return data
