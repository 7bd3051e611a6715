"""A small HTTP client over keep-alive connections: the demo shares two cores with what it drives.

It speaks what the platform answers: HTTP/1.1 with a Content-Length. Anything else is an error.
"""

import asyncio
import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of an answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Gives the body as JSON."""
        return json.loads(self.body)


class Client:
    """A pool of connections to one origin.

    Args:
        base_url: `http://host:port`.
        connections: At most this many requests at once.
    """

    def __init__(self, base_url: str, connections: int = 12) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._places = asyncio.Semaphore(connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for _, writer in self._free:
            writer.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        body: object = None,
        content_type: str = "application/json",
        payload: bytes | None = None,
    ) -> Answer:
        """Sends a request and gives its answer.

        Args:
            method: Such as `PUT`.
            path: With its query.
            token: For the Authorization header.
            body: Sent as JSON.
            content_type: Of the body.
            payload: Sent as it is, in place of `body`.
        """
        if payload is None:
            payload = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        head = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        if token:
            head.append(f"Authorization: Bearer {token}")
        if payload:
            head.append(f"Content-Type: {content_type}")
        head.append(f"Content-Length: {len(payload)}")
        async with self._places:
            message = "\r\n".join(head).encode() + b"\r\n\r\n" + payload
            while self._free:
                kept = self._free.pop()
                try:
                    return await self._exchange(*kept, message)
                except (asyncio.IncompleteReadError, ConnectionError):
                    # The server closed it while it was idle; every request here may be repeated.
                    kept[1].close()
            return await self._exchange(*await self._open(), message)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes
    ) -> Answer:
        writer.write(message)
        answer = await _read(reader)
        self._free.append((reader, writer))
        return answer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n")[1:]:
        if line.startswith(b"content-length:"):
            length = int(line[15:])
    return Answer(int(head[9:12]), await reader.readexactly(length))
