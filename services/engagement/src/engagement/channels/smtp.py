"""Letters over SMTP, on a few connections that stay open.

SMTP has no idempotency key: once the content is on its way and no answer comes, nobody can tell
whether the letter was taken. That, and only that, is `uncertain`; everything before it is a plain
failure that may be tried again.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

import aiosmtplib
from aiosmtplib import SMTP, SMTPException, SMTPResponseException

from engagement.channels.domain import Outgoing, is_address
from engagement.channels.letter import letter_bytes
from engagement.messages.domain import Outcome, SendResult

_START_INPUT = 354
_COMPLETED = 250
_PERMANENT = 500
# A server that does not answer is left alone this long, so that a batch fails at once and not one
# by one.
_REST_SECONDS = 1.0
_FAULTS = (SMTPException, OSError, TimeoutError)


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
        connections: How many are kept open.
        timeout_seconds: Longest wait for one answer of the server.
    """

    def __init__(
        self, url: str, sender: str, *, connections: int = 8, timeout_seconds: float = 20.0
    ) -> None:
        self._address = SmtpAddress.parse(url)
        self._sender = sender
        self._timeout_seconds = timeout_seconds
        self._free: asyncio.LifoQueue[SMTP | None] = asyncio.LifoQueue()
        for _ in range(connections):
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
        """The four steps of a delivery; a kept connection that died in the meantime is replaced once."""
        for is_last in (client is None, True):
            try:
                client = client if client is not None else await self._connect()
                await client.mail(self._sender, timeout=self._timeout_seconds)
                await client.rcpt(to, timeout=self._timeout_seconds)
                answer = await client.execute_command(b"DATA", timeout=self._timeout_seconds)
            except SMTPResponseException as refusal:
                return await _after_refusal(client, refusal.code)
            except _FAULTS:
                _close(client)
                client = None
                if is_last:
                    self._rest_until = time.monotonic() + _REST_SECONDS
                    return None, SendResult(Outcome.RETRY, "smtp_unavailable")
            else:
                if answer.code != _START_INPUT:
                    return await _after_refusal(client, answer.code)
                return await self._hand_over(client, content)
        raise AssertionError  # the second round always returns

    async def _connect(self) -> SMTP:
        if time.monotonic() < self._rest_until:
            raise aiosmtplib.SMTPConnectError("the server did not answer a moment ago")
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
        await client.connect()
        return client

    async def _hand_over(self, client: SMTP, content: bytes) -> tuple[SMTP | None, SendResult]:
        """Past this point a lost answer means that nobody knows."""
        protocol = client.protocol
        try:
            if protocol is None:
                raise aiosmtplib.SMTPServerDisconnected("closed between two commands")
            protocol.write(content + b".\r\n")
            answer = await protocol.read_response(timeout=self._timeout_seconds)
        except _FAULTS:
            _close(client)
            return None, SendResult(Outcome.UNCERTAIN, "smtp_connection_lost")
        if answer.code == _COMPLETED:
            return client, SendResult(Outcome.SENT, "smtp_250")
        return await _after_refusal(client, answer.code)


async def _after_refusal(client: SMTP | None, code: int) -> tuple[SMTP | None, SendResult]:
    """What a negative answer means; the connection goes on with a clean state."""
    outcome = Outcome.REJECTED if code >= _PERMANENT else Outcome.RETRY
    if client is not None:
        try:
            await client.rset(timeout=5)
        except _FAULTS:
            _close(client)
            client = None
    return client, SendResult(outcome, f"smtp_{code}")


def _close(client: SMTP | None) -> None:
    if client is not None:
        client.close()
