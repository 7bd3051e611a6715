"""Letters over SMTP, on a few connections that stay open.

SMTP has no idempotency key: once the content is on its way and no answer comes, nobody can tell
whether the letter was taken. That, and only that, is `uncertain`; everything before it is a plain
failure that may be tried again. A refusal for good (5xx) is the letter's fault only where the
server has heard of it: at its recipient and its content. Before that it refuses us, and the letters
wait.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

import structlog
from aiosmtplib import SMTP, SMTPException, SMTPResponseException

from engagement.channels.domain import Outgoing, is_address
from engagement.channels.letter import letter_bytes
from engagement.messages.domain import Outcome, SendResult

_START_INPUT = 354
_COMPLETED = 250
_CLOSING = 421
_PERMANENT = 500
_RESET_SECONDS = 2.0
_FAULTS = (SMTPException, OSError, TimeoutError)

log = structlog.get_logger()


class _Resting(SMTPException):
    """The server is left alone for a moment."""


@dataclass(frozen=True, slots=True)
class SmtpAddress:
    """Where letters are handed in: `smtp://[user:password@]host[:port][?starttls=off]`, or `smtps://`."""

    host: str
    port: int
    is_tls: bool
    start_tls: bool | None
    username: str | None
    password: str | None

    @classmethod
    def parse(cls, url: str) -> "SmtpAddress":
        """Reads the address.

        Raises:
            ValueError: It is no SMTP URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
            raise ValueError("an SMTP address looks like smtp://host:25 or smtps://host:465")
        is_tls = parts.scheme == "smtps"
        wish = parse_qs(parts.query).get("starttls", ["auto"])[0]
        return cls(
            host=parts.hostname,
            port=parts.port or (465 if is_tls else 25),
            is_tls=is_tls,
            start_tls=False if is_tls else {"off": False, "required": True}.get(wish),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )


class SmtpChannel:
    """Hands letters to one SMTP server.

    Args:
        url: Address of the server, see `SmtpAddress`.
        sender: Address in `From` and of the envelope.
        places: Connections kept open, so also the calls side by side.
        timeout_seconds: Longest wait for the server to take the envelope, and again for its answer
            to the content.
        rest_seconds: A server that does not answer is left alone this long, so that a batch fails at
            once and not one by one.
    """

    def __init__(
        self,
        url: str,
        sender: str,
        *,
        places: int = 8,
        timeout_seconds: float = 20.0,
        rest_seconds: float = 1.0,
    ) -> None:
        self.places = places
        self._address = SmtpAddress.parse(url)
        self._sender = sender
        self._timeout_seconds = timeout_seconds
        self._rest_seconds = rest_seconds
        self._free: asyncio.LifoQueue[SMTP | None] = asyncio.LifoQueue()
        for _ in range(places):
            self._free.put_nowait(None)
        self._rest_until = 0.0

    async def send(self, outgoing: Outgoing) -> SendResult:
        """Hands one letter in; never raises for what a server or a network does."""
        if not is_address(outgoing.to):
            return SendResult(Outcome.REJECTED, "invalid_address")
        content = letter_bytes(outgoing, self._sender)
        client = await self._free.get()
        try:
            client, result = await self._deliver(client, outgoing.to, content)
        except BaseException:
            _close(client)
            client = None
            raise
        finally:
            self._free.put_nowait(client if client is not None and client.is_connected else None)
        return result

    async def close(self) -> None:
        """Says goodbye on every connection."""
        while not self._free.empty():
            client = self._free.get_nowait()
            if client is not None and client.is_connected:
                with suppress(*_FAULTS):
                    await client.quit(timeout=1)
                client.close()

    async def _deliver(
        self, client: SMTP | None, to: str, content: bytes
    ) -> tuple[SMTP | None, SendResult]:
        """Envelope, then content; a kept connection that died in the meantime is replaced once."""
        is_fresh = client is None
        refusal: SendResult | None = None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                while True:
                    client = client if client is not None else await self._connect()
                    try:
                        refusal = await self._envelope(client, to)
                        break
                    except _FAULTS:
                        if is_fresh:
                            raise
                        _close(client)
                        client, is_fresh = None, True
        except _Resting:
            # Nobody was asked: letters that go on falling due must not keep the server resting.
            _close(client)
            return None, SendResult(Outcome.RETRY, "smtp_unavailable")
        except _FAULTS as error:
            _close(client)
            if isinstance(error, SMTPResponseException) and error.code >= _PERMANENT:
                log.error("smtp.server_refuses_us", code=error.code)  # noqa: TRY400  # expected
            self._rest_until = time.monotonic() + self._rest_seconds
            return None, SendResult(Outcome.RETRY, "smtp_unavailable")
        except BaseException:
            _close(client)
            raise
        if refusal is not None:
            return await _after_refusal(client, refusal)
        return await self._hand_over(client, content)

    async def _envelope(self, client: SMTP, to: str) -> SendResult | None:
        """Brings the server to the point where it awaits the content, or says why it does not.

        Raises:
            SMTPException: The connection does not serve any more.
        """
        try:
            await client.mail(self._sender, timeout=self._timeout_seconds)
        except SMTPResponseException as error:
            if error.code == _CLOSING:
                raise
            if error.code >= _PERMANENT:
                log.error("smtp.sender_refused", code=error.code)  # noqa: TRY400  # expected
            return SendResult(Outcome.RETRY, f"smtp_{error.code}")
        try:
            await client.rcpt(to, timeout=self._timeout_seconds)
        except SMTPResponseException as error:
            return _refused(error.code)
        answer = await client.execute_command(b"DATA", timeout=self._timeout_seconds)
        return None if answer.code == _START_INPUT else _refused(answer.code)

    async def _connect(self) -> SMTP:
        if time.monotonic() < self._rest_until:
            raise _Resting("the server did not answer a moment ago")
        address = self._address
        client = SMTP(
            hostname=address.host,
            port=address.port,
            use_tls=address.is_tls,
            start_tls=address.start_tls,
            username=address.username,
            password=address.password,
            local_hostname="localhost",
            timeout=self._timeout_seconds,
        )
        try:
            await client.connect()
        except BaseException:
            client.close()
            raise
        return client

    async def _hand_over(self, client: SMTP, content: bytes) -> tuple[SMTP | None, SendResult]:
        """Past this point a lost answer means that nobody knows."""
        protocol = client.protocol
        if protocol is None:
            return None, SendResult(Outcome.RETRY, "smtp_unavailable")
        try:
            protocol.write(content + b".\r\n")
            answer = await protocol.read_response(timeout=self._timeout_seconds)
        except _FAULTS:
            _close(client)
            return None, SendResult(Outcome.UNCERTAIN, "smtp_connection_lost")
        except BaseException:
            _close(client)
            raise
        if answer.code == _COMPLETED:
            return client, SendResult(Outcome.SENT, "smtp_250")
        return await _after_refusal(client, _refused(answer.code))


def _refused(code: int) -> SendResult:
    """What a negative answer about a recipient or a content means."""
    outcome = Outcome.REJECTED if code >= _PERMANENT else Outcome.RETRY
    return SendResult(outcome, f"smtp_{code}")


async def _after_refusal(client: SMTP, result: SendResult) -> tuple[SMTP | None, SendResult]:
    """The connection goes on with a clean state, if it goes on."""
    try:
        await client.rset(timeout=_RESET_SECONDS)
    except _FAULTS:
        _close(client)
        return None, result
    return client, result


def _close(client: SMTP | None) -> None:
    if client is not None:
        client.close()
