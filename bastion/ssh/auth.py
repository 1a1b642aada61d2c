"""A person's connection up to the login: asks policyd about every key, password and code, and believes nobody else.

    first request -> conversation with policyd (Hello) -> OfferKey | ProveKey | TryPassword | AskCode, AnswerCode
        Verdict REFUSED     SSH_MSG_USERAUTH_FAILURE, counted
        Verdict MORE        the same with partial success and what is still needed (RFC 4252 section 5.1)
        Verdict DONE        success: `person` is set, and never before
        Verdict DISCONNECT  no further word

asyncssh's own authentication is not used at all: it asks an application whether anything has to be proven
(`begin_auth`), maps user names to others that look alike, cancels a request by the next one, and takes certificates
that nobody meant. One request is answered before the next packet is read, and nothing is read meanwhile, so no state
changes between question and answer (CVE-2023-46445, CVE-2023-46446).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import structlog
from asyncssh.constants import (
    DISC_NO_MORE_AUTH_METHODS_AVAILABLE,
    DISC_PROTOCOL_ERROR,
    DISC_SERVICE_NOT_AVAILABLE,
    MSG_SERVICE_REQUEST,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_REQUEST,
)
from asyncssh.misc import DisconnectError, ProtocolError, ProtocolNotSupported
from asyncssh.packet import Boolean, NameList, SSHPacket, String, UInt32

from bastion.errors import BastionError, MisuseError, PeerError
from bastion.login import Login, Secret, parse
from bastion.settings import SshSettings
from bastion.ssh.connections import ServerConnection
from bastion.ssh.links import REPLY_SECONDS, PolicyLink, PolicyLost, Push, patience
from bastion.ssh.userauth import (
    BAD_TOKEN,
    VOID_INVITATION,
    Attempt,
    KeyOffer,
    KeyProof,
    Password,
    Question,
    Questions,
    read_attempt,
)
from bastion.startups import Outcome as Ending
from bastion.startups import plain_source
from bastion.text import neutral
from policy.messages import (
    Acceptable,
    AnswerCode,
    AskCode,
    Challenge,
    Hello,
    OfferKey,
    ProveKey,
    Reply,
    Request,
    TryPassword,
    TryToken,
    Verdict,
)
from policy.model import Method, Outcome

MSG_USERAUTH_PK_OK: Final = 60
MSG_USERAUTH_INFO_REQUEST: Final = 60

MAX_PACKET: Final = 40_000
"""Bytes of one packet before login: RFC 4253 section 6.1 asks for 35,000, and 200 strangers may be here at once."""
MAX_PACKET_LATER: Final = 256 * 1024
"""Bytes of one packet after login, as OpenSSH."""
MAX_ANSWERS: Final = 8
MAX_USER: Final = 1023
"""Bytes of a user name, as asyncssh; `bastion.login` takes fewer characters."""

_CONNECTION: Final = b"ssh-connection"
_AUTHENTICATION: Final = b"ssh-userauth"
_FIRST: Final = [Method.PUBLIC_KEY, Method.PASSWORD]
_ASKING: Final = "asking policyd"


class PersonConnection(ServerConnection):
    """Subclasses say what happens then: `logged_in`, `pushed`, `policy_lost`."""

    def __init__(
        self, loop: Any, options: Any, settings: SshSettings, policy_socket: Path, left: Callable[[Ending], None]
    ) -> None:
        """`left` is told once how the time before login ended."""
        super().__init__(loop, options)
        self._max_recv_pktlen = MAX_PACKET
        self._ssh = settings
        self._policy_socket = policy_socket
        self._left: Callable[[Ending], None] | None = left
        self._user: bytes | None = None
        self._methods = list(_FIRST)
        self._failures = 0
        self._requests = 0
        self._is_cut = False
        self.person = ""
        self.source = ""
        self.client = ""
        self.login = Login()
        self.leads_to: tuple[str, str] | None = None  # with a token: the only account and target there are
        self.misuse: MisuseError | None = None  # what is wrong with the user name, told after login alone
        self.policy: PolicyLink | None = None

    # --- for subclasses -----------------------------------------------------------------------------

    def logged_in(self) -> None:
        """The person is proven and told so."""

    def pushed(self, message: Push) -> None:
        """policyd has something to say about a session, or everything of this connection."""

    def policy_lost(self) -> None:
        """policyd is gone: nothing may go on."""

    def release(self) -> None:
        """The connection is gone: end the conversation, at the latest when its sessions are written down."""
        if self.policy is not None:
            self.policy.close()

    # --- before authentication ----------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.source = plain_source(self._peer_addr)

    def kexinit_received(self, kind: int, seq: int, packet: SSHPacket) -> Any:
        if self._session_id and not self._auth_complete:
            # A client may ask for new keys again and again, each time at the price of a signature.
            raise ProtocolError("new keys before login")
        return super().kexinit_received(kind, seq, packet)

    def _process_service_again(self, kind: int, seq: int, packet: SSHPacket) -> None:
        """paramiko asks for the service before each method, and OpenSSH says yes each time; it changes nothing."""
        if self._auth_in_progress and not self._auth_complete:
            self._next_service = _AUTHENTICATION
        self._process_service_request(kind, seq, packet)

    # --- requests -----------------------------------------------------------------------------------

    def _process_userauth_request(self, _kind: int, _seq: int, packet: SSHPacket) -> Awaitable[None] | None:
        user, service, method = packet.get_string(), packet.get_string(), packet.get_string()
        if self._auth_complete:
            # RFC 4252 section 5.1: ignored in silence; once something else was said it is out of order.
            if self._auth_final:
                raise ProtocolError("authentication after login")
            packet.get_bytes(len(packet.get_remaining_payload()))
            return None
        if not self._auth_in_progress:
            raise ProtocolError("authentication before its service was asked for")
        if service != _CONNECTION:
            raise DisconnectError(DISC_SERVICE_NOT_AVAILABLE, "unknown service")
        if len(user) > MAX_USER:
            raise ProtocolError("user name is too long")
        if self._user is not None and user != self._user:
            # What was proven for one name must not count for another (x/crypto b25012b); OpenSSH does the same.
            raise DisconnectError(DISC_PROTOCOL_ERROR, "change of user name is not allowed")
        if self._user is None:
            self._user = user
            self._read_name(user)
        self._auth = None  # a question that was asked is abandoned by a new request (RFC 4256 section 3.1)
        offered = method in [name.encode() for name in self._methods]
        attempt = read_attempt(method if offered else b"", packet, self._session_id)
        return self._undisturbed(self._attempt(attempt, only_asks=method == b"none"))

    def _read_name(self, user: bytes) -> None:
        """What the user name asks for, as far as it can be understood."""
        try:
            self.login = parse(user.decode())
        except UnicodeDecodeError:
            self.misuse = MisuseError("user name is not UTF-8", "use: ssh account@target@bastion")
        except MisuseError as error:
            self.misuse = error

    async def _undisturbed(self, work: Coroutine[Any, Any, None], seconds: float = REPLY_SECONDS) -> None:
        """Read nothing more from the client until it is answered: neither state nor memory changes meanwhile."""
        self.packets.pause(_ASKING)
        try:
            async with asyncio.timeout(seconds):
                await work
        except PolicyLost as error:
            self._turn_away(error)
        except TimeoutError:
            self._turn_away(PolicyLost())
        finally:
            self.packets.resume(_ASKING)

    async def _attempt(self, attempt: Attempt | None, *, only_asks: bool) -> None:
        first, self._requests = not self._requests, self._requests + 1
        if self.policy is None:
            await self._begin()
        if self.is_closed():
            return
        if self._token is not None and first:  # all there is to show, whatever method the client would begin with
            return await self._show_token(self._token)
        person, place = self._claim, self._leads_to()
        match attempt:
            case KeyOffer():
                await self._offer(OfferKey(person=person, blob=attempt.blob), attempt.algorithm)
            case KeyProof(blob, signed, signature):
                proof = ProveKey(person=person, blob=blob, signed=signed, signature=signature, place=place)
                await self._verdict(proof)
            case Password():
                await self._verdict(TryPassword(person=person, password=attempt.password, place=place))
            case Questions():
                await self._verdict(AskCode(person=person))
            case None if first and only_asks:
                # As OpenSSH: a client may ask with `none` what there is, once, without being counted.
                self._send_methods(partial=False)
            case None:
                self._fail()

    @property
    def _token(self) -> Secret | None:
        secret = self.login.secret
        return secret if secret is not None and not secret.joins else None

    @property
    def _claim(self) -> str:
        """Who they say they are; an invitation is a claim to be whoever it was made for."""
        secret = self.login.secret
        return secret.reveal() if secret is not None and secret.joins else self.login.person

    async def _begin(self) -> None:
        """The conversation with policyd."""
        self.client = neutral(self._client_version.decode("ascii", "replace")[8:])
        hello = Hello(
            source=self.source, source_port=self._peer_port, listener=f"{self._local_addr}:{self._local_port}",
            client=self.client, ssh_session=self._session_id,
        )  # fmt: skip
        link = await PolicyLink.connect(self._policy_socket, hello, self._push, self._policy_gone)
        if self.is_closed():
            link.close()
            return
        self.policy = link
        if self._ssh.banner:
            self.send_auth_banner(self._ssh.banner.rstrip("\n") + "\n")

    # --- questions ----------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Reply:
        """policyd's answer; PolicyLost when there will be none."""
        if self.policy is None:
            raise PolicyLost
        return await self.policy.ask(request)

    async def _offer(self, offer: OfferKey, algorithm: bytes) -> None:
        reply = await self.ask(offer)
        if isinstance(reply, Acceptable) and reply.ok:
            # An offered key is not a proven key: this says nothing but "sign, please".
            self.send_packet(MSG_USERAUTH_PK_OK, String(algorithm), String(offer.blob))
        else:
            self._fail()

    def _leads_to(self) -> str:
        """Where this login leads, as far as its name says so."""
        return f"{self.login.account}@{self.login.target}" if self.login.target else ""

    def _ask_person(self, reply: Challenge) -> None:
        self._auth = Question(self.answered)  # type: ignore[assignment]
        prompts = b"".join(String(text) + Boolean(echo) for text, echo in reply.prompts)
        self.send_packet(
            MSG_USERAUTH_INFO_REQUEST,
            String(reply.name), String(reply.instructions), String(""), UInt32(len(reply.prompts)), prompts,
        )  # fmt: skip

    async def _show_token(self, token: Secret) -> None:
        reply = await self.ask(TryToken(token=token.reveal()))
        if isinstance(reply, Verdict) and reply.outcome is Outcome.REFUSED:
            self.send_auth_banner("".join(f"{line}\n" for line in BAD_TOKEN.lines()))
            # Attack, or mistake: a key behind it that logs in somebody who asked for something else.
            reply.next = []
        await self._carry_out(reply)

    async def _verdict(self, request: Request) -> None:
        await self._carry_out(await self.ask(request))

    async def _carry_out(self, reply: Reply) -> None:
        if isinstance(reply, Challenge):
            return self._ask_person(reply)
        if not isinstance(reply, Verdict):
            raise PolicyLost(f"the policy service answered with {type(reply).__name__}")
        match reply.outcome:
            case Outcome.DONE if reply.person:
                self.leads_to = (reply.account, reply.target) if reply.target else None
                await self._succeed(reply.person)
            case Outcome.MORE:
                self._methods = reply.next
                self._send_methods(partial=True)
            case Outcome.REFUSED:
                self._methods = reply.next
                self._fail()
            case _:
                self._cut()

    async def _succeed(self, person: str) -> None:
        if self.is_closed():
            return
        self.person = person
        self._max_recv_pktlen = MAX_PACKET_LATER
        self._report(Ending.LOGGED_IN)
        # Nothing is decided between the success that the client sees and the first channel: asyncssh lets both through
        # before it awaits anything (`auth_completed` is no place for a policy).
        await self.send_userauth_success()
        structlog.get_logger().info("login", person=person, source=self.source, client=self.client, **self.agreed)
        self.logged_in()

    def _fail(self) -> None:
        if self.login.secret is not None and self.login.secret.joins and not self._failures:
            # Else the key of a person who is here would be refused without a word.
            self.send_auth_banner("".join(f"{line}\n" for line in VOID_INVITATION.lines()))
        self._failures += 1
        if self._failures >= self._ssh.tries:
            self._cut()
        self._send_methods(partial=False)

    def _cut(self) -> None:
        self._is_cut = True
        self._failures += 1
        raise DisconnectError(DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures")

    def _send_methods(self, *, partial: bool) -> None:
        names = [method.value.encode() for method in self._methods]
        self.send_packet(MSG_USERAUTH_FAILURE, NameList(names), Boolean(partial))

    def answered(self, packet: SSHPacket) -> Awaitable[None]:
        """SSH_MSG_USERAUTH_INFO_RESPONSE to the one question that is open."""
        count = packet.get_uint32()
        if count > MAX_ANSWERS:
            raise ProtocolError(f"{count} answers")
        try:
            answers = [packet.get_string().decode() for _ in range(count)]
        except UnicodeDecodeError:
            raise ProtocolError("answer is not UTF-8") from None
        packet.check_end()
        self._auth = None
        answer = AnswerCode(person=self._claim, answers=answers)
        return self._undisturbed(self._verdict(answer), patience(answer))

    # --- policyd ------------------------------------------------------------------------------------

    def _push(self, message: Reply) -> None:
        if not isinstance(message, Push):
            return self._policy_gone()  # it says what we do not understand: better no policy than another one
        if self.person:
            self.pushed(message)
        else:
            self._turn_away(PeerError("this login was ended", "ask who ended it before you log in again"))

    def _policy_gone(self) -> None:
        # Its last word, that this person is in or out, may have come in the same breath and is carried out first.
        self._loop.call_soon(self._without_policy)

    def _without_policy(self) -> None:
        self.policy_lost() if self.person else self._turn_away(self.policy.why if self.policy else PolicyLost())

    def _turn_away(self, error: BastionError) -> None:
        """In words that clients show before login (RFC 4252 section 5.4): the reason of a disconnect many do not."""
        if self.is_closed() or self._is_cut:
            return
        if not self.person:
            structlog.get_logger().warning("turned-away", source=self.source, why=error.cause)
            self.send_auth_banner("".join(f"{line}\n" for line in error.lines()))
        self.disconnect(DISC_SERVICE_NOT_AVAILABLE, error.cause)

    # --- the end ------------------------------------------------------------------------------------

    def _login_timer_callback(self) -> None:
        self._report(Ending.GRACE_EXCEEDED)
        super()._login_timer_callback()

    def _report(self, outcome: Ending) -> None:
        left, self._left = self._left, None
        if left is not None:
            left(outcome)

    def _cleanup(self, exc: Exception | None) -> None:
        if self._left is not None:
            outcome = Ending.AUTH_FAILED if self._failures else Ending.NO_ATTEMPT
            if isinstance(exc, ProtocolError | ProtocolNotSupported):
                outcome = Ending.PROTOCOL_ERROR
            if self._user is not None:
                why = str(exc or "")[:200]
                structlog.get_logger().info("no-login", source=self.source, client=self.client, why=why)
            self._report(outcome)
        super()._cleanup(exc)
        self.release()

    _packet_handlers = {  # noqa: RUF012
        **ServerConnection._packet_handlers,
        MSG_SERVICE_REQUEST: lambda self, *args: self._process_service_again(*args),
        MSG_USERAUTH_REQUEST: lambda self, *args: self._process_userauth_request(*args),
    }
