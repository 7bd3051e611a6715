"""Providers of the outside world: a real SMTP server and an SMS gateway that can misbehave.

Both write down everything they accept. They live in the test's own process, so whatever is killed on
the platform's side, what a patient would have received stays counted.
"""

import asyncio
import email
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.policy import default as mail_policy
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass(slots=True)
class Delivered:
    """One message as the patient sees it."""

    to: str
    text: str
    key: str
    links: list[str] = field(default_factory=list)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def link(self, path: str) -> str:
        """The first link to a page, `/s/` for instance; empty where there is none."""
        return next((link for link in self.links if path in link), "")


@dataclass(slots=True)
class Misbehaviour:
    """What the providers do wrong to the next messages."""

    too_many: int = 0
    server_errors: int = 0
    accept_then_hang: int = 0
    slow_seconds: float = 0.0
    refused: set[str] = field(default_factory=set)
    """Numbers and addresses that do not exist."""
    busy_mail: int = 0
    drop_after_data: int = 0
    lose_data: int = 0


class Providers:
    """SMTP and SMS on free ports of the loopback interface."""

    def __init__(self) -> None:
        self.mails: list[Delivered] = []
        self.requests: list[Delivered] = []
        self.sms: dict[str, Delivered] = {}
        self.misbehaviour = Misbehaviour()
        self._smtp: asyncio.Server | None = None
        self._gateway: asyncio.Server | None = None

    @property
    def smtp_url(self) -> str:
        """Value for ENGAGEMENT_SMTP_URL."""
        assert isinstance(self._smtp, asyncio.Server)
        return f"smtp://127.0.0.1:{self._smtp.sockets[0].getsockname()[1]}"

    @property
    def sms_url(self) -> str:
        """Value for ENGAGEMENT_SMS_URL."""
        assert self._gateway is not None
        return f"http://127.0.0.1:{self._gateway.sockets[0].getsockname()[1]}/sms"

    async def start(self) -> None:
        """Listens."""
        loop = asyncio.get_running_loop()
        self._smtp = await loop.create_server(
            lambda: SMTP(self, enable_SMTPUTF8=True), "127.0.0.1", 0
        )
        self._gateway = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        """Stops listening."""
        assert self._smtp is not None
        assert self._gateway is not None
        self._smtp.close()
        self._gateway.close()

    def delivered(self) -> list[Delivered]:
        """What patients have: every mail, and each SMS key once."""
        return [*self.mails, *self.sms.values()]

    def repeats(self) -> dict[str, int]:
        """Messages a patient received more than once, by recipient and subject of the text."""
        seen = Counter((message.to, message.text) for message in self.delivered())
        return {to: count for (to, _), count in seen.items() if count > 1}

    async def handle_MAIL(  # noqa: N802
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        if self.misbehaviour.busy_mail:
            self.misbehaviour.busy_mail -= 1
            return "421 Too busy"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        if address in self.misbehaviour.refused:
            return "550 No such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802  (aiosmtpd's name)
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
    ) -> str:
        if self.misbehaviour.lose_data:
            self.misbehaviour.lose_data -= 1
            return _hang_up(server)
        content = envelope.content
        assert isinstance(content, bytes)
        message = email.message_from_bytes(content, policy=mail_policy)
        part = message.get_body(("plain",))
        text = part.get_content() if part is not None else ""
        self.mails.extend(
            Delivered(to, without_links(text), str(message["Message-ID"]), _links(text))
            for to in envelope.rcpt_tos
        )
        if self.misbehaviour.drop_after_data:
            self.misbehaviour.drop_after_data -= 1
            return _hang_up(server)
        return "250 OK"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(
                    line.split(": ", 1)
                    for line in head.decode().lower().split("\r\n")[1:]
                    if ": " in line
                )
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if not await self._answer(json.loads(body), headers, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _answer(
        self, request: dict[str, Any], headers: dict[str, str], writer: asyncio.StreamWriter
    ) -> bool:
        wrong = self.misbehaviour
        if wrong.slow_seconds:
            await asyncio.sleep(wrong.slow_seconds)
        if wrong.too_many:
            wrong.too_many -= 1
            _write(writer, "429 Too Many Requests", {}, "Retry-After: 1\r\n")
            return True
        if wrong.server_errors:
            wrong.server_errors -= 1
            _write(writer, "503 Service Unavailable", {})
            return True
        if request["to"] in wrong.refused:
            _write(writer, "400 Bad Request", {"error": "unknown number"})
            return True
        key = headers["idempotency-key"]
        text = request["text"]
        message = Delivered(request["to"], without_links(text), key, _links(text))
        self.requests.append(message)
        self.sms.setdefault(key, message)
        if wrong.accept_then_hang:
            wrong.accept_then_hang -= 1
            writer.close()
            return False
        _write(writer, "200 OK", {"provider_id": f"sms-{key}", "status": "accepted"})
        return True


def without_links(text: str) -> str:
    """The text without its links: their tokens are random, so a repeat would look different."""
    return re.sub(r"https?://\S+", "", text)


def _links(text: str) -> list[str]:
    return re.findall(r"https?://\S+", text)


def _hang_up(server: SMTP) -> str:
    """Closes the connection where an answer was due."""
    transport = server.transport
    if transport is not None:
        transport.abort()
    return "250 OK"


def _write(writer: asyncio.StreamWriter, status: str, body: object, extra: str = "") -> None:
    payload = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{extra}"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    writer.write(head.encode() + payload)
