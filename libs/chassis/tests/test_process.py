"""The server on a real socket: whole answers, streams, and what is held back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
import uvloop
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from revisit_chassis.http import body_of
from revisit_chassis.process import Http

PIECES = [b"one ", b"two ", b"three"]
SEEN = asyncio.Semaphore(0)
"""Released by the client for each piece."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body it got, or with pieces, each after the client has seen the one before."""
    assert scope["type"] == "http"
    body = await body_of(Request(scope, receive))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/pieces":
        for piece in PIECES:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await SEEN.acquire()
    await send({"type": "http.response.body", "body": body})


class Counting(Http):
    """Notes what is written to the socket."""

    writes: list[bytes]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        write = transport.write

        class Noting:
            def write(self, data: bytes) -> None:
                Counting.writes.append(data)
                write(data)

            def __getattr__(self, name: str) -> object:
                return getattr(transport, name)

        super().connection_made(Noting())  # type: ignore[arg-type]


@asynccontextmanager
async def served() -> AsyncIterator[httpx.AsyncClient]:
    Counting.writes = []
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, http=Counting, lifespan="off", log_config=None)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  (the server gives no event)
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = server.force_exit = True
        await serving


async def test_short_answer_is_one_write_and_a_long_body_is_not_copied() -> None:
    async with served() as client:
        for body in (b"x", b"y" * 100_000):
            answer = await client.post("/", content=body)
            assert answer.content == body
        head = await client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    short, start_of_long, long, only_head = Counting.writes
    assert short.startswith(b"HTTP/1.1 200")
    assert short.endswith(b"x\r\n0\r\n\r\n")
    assert start_of_long.endswith(b"\r\n\r\n")
    assert len(long) > 100_000
    assert only_head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_client_that_sends_no_more_gets_all_of_its_answer(run: Callable[..., None]) -> None:
    async def ask() -> None:
        async with served() as client:
            for method, end in (("HEAD", b"\r\n\r\n"), ("GET", b"0\r\n\r\n")):
                reader, writer = await asyncio.open_connection(
                    client.base_url.host, client.base_url.port
                )
                writer.write(f"{method} / HTTP/1.1\r\nHost: here\r\n\r\n".encode())
                writer.write_eof()
                async with asyncio.timeout(10):
                    answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 200")
                assert answer.endswith(end)
                writer.close()

    run(ask())


async def test_piece_of_a_stream_does_not_wait_for_the_next_one() -> None:
    found = []
    async with (
        asyncio.timeout(10),
        served() as client,
        client.stream("GET", "/pieces") as answer,
    ):
        async for piece in answer.aiter_raw():
            found.append(piece)
            SEEN.release()
    assert found == PIECES
