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
from email.policy import default as mail_policy
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass(slots=True)
class Delivered:
    """One message as the patient sees it."""

    to: str
    text: str
    key: str


@dataclass(slots=True)
class Misbehaviour:
    """What the gateway does wrong to the next requests."""

    too_many: int = 0
    server_errors: int = 0
    accept_then_hang: int = 0
    slow_seconds: float = 0.0
    refused_numbers: set[str] = field(default_factory=set)


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

    async def handle_DATA(  # noqa: N802  (aiosmtpd's name)
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
    ) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        message = email.message_from_bytes(content, policy=mail_policy)
        part = message.get_body(("plain",))
        text = part.get_content() if part is not None else ""
        self.mails.extend(
            Delivered(to, without_links(text), str(message["Message-ID"]))
            for to in envelope.rcpt_tos
        )
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
        if request["to"] in wrong.refused_numbers:
            _write(writer, "400 Bad Request", {"error": "unknown number"})
            return True
        key = headers["idempotency-key"]
        message = Delivered(request["to"], without_links(request["text"]), key)
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


def _write(writer: asyncio.StreamWriter, status: str, body: object, extra: str = "") -> None:
    payload = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{extra}"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    writer.write(head.encode() + payload)
