"""One mail by SMTP (RFC 5321), only over TLS (RFC 8314) or after STARTTLS (RFC 3207)."""

import smtplib
import socket
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from typing import Final
from urllib.parse import urlsplit

import trio

from bastion.courier.reach import Reach, Unreachable, tls_context, tls_problem
from policy.messages import Called, MailCall

MAX_SECONDS: Final = 60.0
MAX_RECIPIENTS: Final = 50
PORTS: Final = {"smtp": 587, "smtps": 465}

_threads: Final = trio.CapacityLimiter(4)
"""Mails at once; the others wait, since nobody waits for them."""


async def call(request: MailCall, reach: Reach) -> Called:
    """What came of it; never raises for what the other side does."""
    error = ""
    try:
        await _send(request, reach)
    except Unreachable as problem:
        error = str(problem)
    except smtplib.SMTPAuthenticationError:
        error = "does not accept the user and password"
    except smtplib.SMTPNotSupportedError:
        error = "offers no STARTTLS, and nothing is sent in the clear"
    except smtplib.SMTPRecipientsRefused:
        error = "takes mail for none of the recipients"
    except smtplib.SMTPResponseException as problem:
        error = f"refused the mail with {problem.smtp_code}"
    except (smtplib.SMTPException, OSError, ValueError) as problem:
        error = tls_problem(problem) or "broke the connection off"
    return Called(task=request.task, status=0 if error else 250, error=error)


async def _send(request: MailCall, reach: Reach) -> None:
    url = urlsplit(request.url)
    if url.scheme not in PORTS or not url.hostname:
        raise Unreachable("has no address like smtps://HOST")
    message, port = _message(request), url.port or PORTS[url.scheme]
    seconds = min(max(request.seconds, 0.1), MAX_SECONDS)
    line = _Line(url.hostname, port, implicit=url.scheme == "smtps", context=tls_context(request.trust))

    async def hang_up() -> None:
        """A thread cannot be cancelled, but its socket can be taken away: a server that drips ends, too."""
        await trio.sleep(seconds)
        line.cut()

    problem: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang_up)
        try:
            with trio.fail_after(seconds):
                line.addresses = await reach.addresses(url.hostname, port)
            await trio.to_thread.run_sync(line.send, message, request.user, request.password, limiter=_threads)
        except Exception as error:  # raised below, where no nursery wraps it
            problem = error
        nursery.cancel_scope.cancel()
    if problem is not None and (line.late or isinstance(problem, trio.TooSlowError)):
        raise Unreachable(f"did not take the mail within {seconds:g} s")
    if problem is not None:
        raise problem


def _message(request: MailCall) -> EmailMessage:
    """Unreachable if what policyd says is no mail; the email package refuses line breaks in headers."""
    message = EmailMessage()
    try:
        if not 0 < len(request.to) <= MAX_RECIPIENTS or not all(parseaddr(one)[1] for one in request.to):
            raise ValueError
        message["From"], message["To"] = request.sender, ", ".join(request.to)
        message["Subject"] = request.subject
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="bastion.invalid")
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        message.set_content(request.text)
    except (ValueError, UnicodeError):
        raise Unreachable("was given something that is no mail") from None
    return message


class _Line:
    """One dialogue, in a thread, on a socket that another task may cut."""

    def __init__(self, host: str, port: int, *, implicit: bool, context: ssl.SSLContext) -> None:
        self.addresses: list[str] = []
        self.late = False
        self._host, self._port, self._implicit, self._context = host, port, implicit, context
        self._socket: socket.socket | None = None

    def cut(self) -> None:
        self.late = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:  # it was not connected yet: its own timeout ends it
                pass

    def send(self, message: EmailMessage, user: str, password: str) -> None:
        with _Smtp(self._host, self._port, self._connect) as smtp:
            if not self._implicit:
                smtp.starttls(context=self._context)
            if user:
                smtp.login(user, password)
            smtp.send_message(message)

    def _connect(self) -> socket.socket:
        problem: OSError | None = None
        for address in self.addresses:
            if self.late:
                break
            try:
                made = socket.create_connection((address, self._port), timeout=10.0)
            except OSError as error:
                problem = error
                continue
            self._socket = made
            return self._context.wrap_socket(made, server_hostname=self._host) if self._implicit else made
        raise Unreachable(f"cannot be reached{f': {problem.strerror.lower()}' if problem and problem.strerror else ''}")


class _Smtp(smtplib.SMTP):
    """smtplib with a connection to an address that was judged."""

    def __init__(self, host: str, port: int, connect: Callable[[], socket.socket]) -> None:
        self._made = connect
        super().__init__(host, port, local_hostname="bastion.invalid")

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self._made()
