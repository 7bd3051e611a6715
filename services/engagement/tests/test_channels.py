"""The channels against providers that misbehave: a real SMTP server, a gateway over httpx's transport."""

import asyncio
import email
import email.policy
import json
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from hypothesis import given
from hypothesis import strategies as st

from engagement.channels.domain import Outgoing
from engagement.channels.letter import letter_bytes
from engagement.channels.sms import SmsChannel
from engagement.channels.smtp import SmtpAddress, SmtpChannel
from engagement.messages.domain import Outcome, retry_delay
from engagement.rendering.render import Content

NOON = datetime(2026, 1, 15, 9, 0, tzinfo=UTC)
REST_SECONDS = 0.2


def letter(to: str = "anna@example.org", subject: str = "Как вы?") -> Outgoing:
    content = Content("Здравствуйте!\n.\nточка", subject, "<p>Здравствуйте!</p>")
    return Outgoing(uuid.uuid4(), to, content, "Клиника\r\nBcc: x@y.z", "https://e.test/u/t", NOON)


def text(to: str = "+79990000001") -> Outgoing:
    return Outgoing(uuid.uuid4(), to, Content("Клиника: ждём вас"), "Клиника", "", NOON)


# Letters.


@dataclass
class Script:
    """What the server answers at each step; what is not said is taken.

    Args:
        hangs_at: Step that is never answered.
        drops_at: Step at which the connection is cut instead of an answer.
    """

    answers: dict[str, list[str]] = field(default_factory=dict)
    hangs_at: str | None = None
    drops_at: str | None = None
    taken: list[Envelope] = field(default_factory=list)
    connections: int = 0

    async def step(self, name: str, server: SMTP) -> str | None:
        if self.hangs_at == name:
            await asyncio.sleep(30)
        if self.drops_at == name:
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
            await asyncio.sleep(30)
        answers = self.answers.get(name)
        return answers.pop(0) if answers else None

    async def handle_MAIL(  # noqa: N802  # aiosmtpd's name
        self, server: SMTP, _: Session, envelope: Envelope, address: str, __: list[str]
    ) -> str:
        answer = await self.step("MAIL", server)
        if answer is None:
            envelope.mail_from = address
        return answer or "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, _: Session, envelope: Envelope, address: str, __: list[str]
    ) -> str:
        answer = await self.step("RCPT", server)
        if answer is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, _: Session, envelope: Envelope
    ) -> str:
        self.taken.append(envelope)
        return await self.step("DATA", server) or "250 OK"


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()

    def connected() -> SMTP:
        script.connections += 1
        return SMTP(script, hostname="catcher", loop=loop)

    server = await loop.create_server(connected, "127.0.0.1", 0)
    try:
        yield f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def mailing(script: Script, *, timeout_seconds: float = 0.5) -> AsyncIterator[SmtpChannel]:
    async with serving(script) as url:
        channel = SmtpChannel(
            url,
            "clinic@revisit.example",
            timeout_seconds=timeout_seconds,
            rest_seconds=REST_SECONDS,
        )
        try:
            yield channel
        finally:
            await channel.close()


@pytest.mark.parametrize(
    ("step", "answer", "outcome"),
    [
        ("MAIL", "421 closing", Outcome.RETRY),
        ("MAIL", "450 later", Outcome.RETRY),
        # The sender is refused, whoever the letter is for: that is for us to mend.
        ("MAIL", "550 not you", Outcome.RETRY),
        ("RCPT", "421 closing", Outcome.RETRY),
        ("RCPT", "450 grey list", Outcome.RETRY),
        ("RCPT", "550 no such user", Outcome.REJECTED),
        ("DATA", "421 closing", Outcome.RETRY),
        ("DATA", "450 later", Outcome.RETRY),
        ("DATA", "550 refused", Outcome.REJECTED),
    ],
)
async def test_refusal_at_each_step_means_what_it_says_and_the_next_letter_goes(
    step: str, answer: str, outcome: Outcome
) -> None:
    script = Script({step: [answer, *([answer] if answer.startswith("421") else [])]})
    async with mailing(script, timeout_seconds=3) as channel:
        result = await channel.send(letter())
        assert result.outcome is outcome
        script.answers.clear()
        again = await channel.send(letter())
        if answer.startswith("421"):
            # A server that closes is left alone for a while.
            async with asyncio.timeout(10 * REST_SECONDS):
                while again.outcome is Outcome.RETRY:
                    await asyncio.sleep(REST_SECONDS / 10)
                    again = await channel.send(letter())
        assert again.outcome is Outcome.SENT


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize(
    ("step", "outcome"),
    [("MAIL", Outcome.RETRY), ("RCPT", Outcome.RETRY), ("DATA", Outcome.UNCERTAIN)],
)
async def test_silence_is_uncertain_only_after_the_content(
    step: str, outcome: Outcome, *, is_cut: bool
) -> None:
    script = Script(drops_at=step) if is_cut else Script(hangs_at=step)
    async with mailing(script) as channel:
        assert (await channel.send(letter())).outcome is outcome


async def test_kept_connection_that_died_is_replaced() -> None:
    script = Script()
    async with mailing(script, timeout_seconds=3) as channel:
        assert (await channel.send(letter())).outcome is Outcome.SENT
        script.answers["MAIL"] = ["421 idle too long"]
        assert (await channel.send(letter())).outcome is Outcome.SENT
        assert script.connections == 2


async def test_server_that_is_not_there_costs_a_batch_one_attempt() -> None:
    channel = SmtpChannel(f"smtp://127.0.0.1:{closed_port()}", "clinic@revisit.example")
    results = [await channel.send(letter()) for _ in range(3)]
    assert {(one.outcome, one.may_have_arrived) for one in results} == {(Outcome.RETRY, False)}


async def test_letter_arrives_word_for_word_and_no_name_adds_a_header() -> None:
    script = Script()
    async with mailing(script) as channel:
        outgoing = letter(subject="Тема\r\nBcc: all@example.org")
        await channel.send(outgoing)
        await channel.send(outgoing)
    first, second = (
        email.message_from_bytes(one.content, policy=email.policy.default)  # type: ignore[arg-type]
        for one in script.taken
    )
    assert first["Message-ID"] == second["Message-ID"]
    assert first["Bcc"] is None
    assert first["List-Unsubscribe"] == "<https://e.test/u/t>"
    assert first["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    parts = {part.get_content_type(): part.get_content() for part in first.iter_parts()}
    assert parts["text/plain"].replace("\r\n", "\n").strip() == outgoing.content.text
    assert parts["text/html"].strip() == outgoing.content.html
    assert script.taken[0].rcpt_tos == ["anna@example.org"]


@pytest.mark.parametrize(
    "to", ["", "anna", "a@b>\r\nRCPT TO:<x@y.z", "a b@c.d", "анна@example.org"]
)
async def test_odd_address_is_refused_without_a_call(to: str) -> None:
    channel = SmtpChannel(f"smtp://127.0.0.1:{closed_port()}", "clinic@revisit.example")
    assert (await channel.send(letter(to))).outcome is Outcome.REJECTED


@pytest.mark.parametrize("url", ["http://host", "smtp://", "host:25"])
def test_odd_server_address_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="smtp"):
        SmtpAddress.parse(url)


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


# Text messages.

Answer = Callable[[httpx.Request], httpx.Response]


@contextmanager
def gateway(answer: Answer) -> Iterator[tuple[SmsChannel, list[httpx.Request]]]:
    calls: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return answer(request)

    yield SmsChannel("http://gateway/sms", "Revisit", transport=httpx.MockTransport(take)), calls


def answering(code: int, body: object = None, **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda _: httpx.Response(code, content=content, headers=headers)


def failing(error: Exception) -> Answer:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    return fail


SENT, RETRY, REJECTED = Outcome.SENT, Outcome.RETRY, Outcome.REJECTED


@pytest.mark.parametrize(
    ("answer", "outcome", "may_have_arrived"),
    [
        (answering(200, {"provider_id": "7", "status": "accepted"}), SENT, False),
        (answering(202, {"provider_id": 7, "status": "QUEUED"}), SENT, False),
        (answering(200, {"status": "delivered"}), SENT, False),
        (answering(200, {"status": "rejected"}), REJECTED, False),
        (answering(200, {"status": "failed"}), REJECTED, False),
        (answering(200, {"status": "error"}), RETRY, True),
        (answering(200, {"status": ["accepted"]}), RETRY, True),
        (answering(200, {"status": None}), RETRY, True),
        (answering(200, {}), RETRY, True),
        (answering(200, []), RETRY, True),
        (answering(200, b"OK"), RETRY, True),
        (answering(204, b""), RETRY, True),
        (answering(301, None, Location="http://elsewhere"), RETRY, False),
        *((answering(code), REJECTED, False) for code in (400, 410, 413, 422)),
        *(
            (answering(code), RETRY, False)
            for code in (401, 402, 403, 404, 405, 408, 425, 429, 503)
        ),
        *((answering(code), RETRY, True) for code in (409, 500, 502, 504)),
        (failing(httpx.ConnectError("refused")), RETRY, False),
        (failing(httpx.ConnectTimeout("slow")), RETRY, False),
        (failing(httpx.ReadTimeout("slow")), RETRY, True),
        (failing(httpx.WriteError("broken")), RETRY, True),
        (failing(httpx.RemoteProtocolError("cut")), RETRY, True),
        (failing(httpx.DecodingError("gzip")), RETRY, True),
    ],
)
async def test_answer_of_the_gateway_means_what_it_says(
    answer: Answer, outcome: Outcome, *, may_have_arrived: bool
) -> None:
    with gateway(answer) as (channel, _):
        result = await channel.send(text())
    assert (result.outcome, result.may_have_arrived) == (outcome, may_have_arrived)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("p-1", "p-1"),
        (17, "17"),
        (None, None),
        (True, None),
        ({}, None),
        ("a\x00b", "ab"),
        ("", None),
    ],
)
async def test_id_of_the_provider_is_text_fit_to_be_stored(said: Any, kept: str | None) -> None:
    with gateway(answering(200, {"provider_id": said, "status": "sent"})) as (channel, _):
        assert (await channel.send(text())).provider_id == kept


async def test_repeat_has_the_same_key_and_the_same_body() -> None:
    outgoing = text()
    with gateway(answering(500)) as (channel, calls):
        await channel.send(outgoing)
        await channel.send(outgoing)
    first, second = calls
    assert first.headers["Idempotency-Key"] == str(outgoing.message_id)
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.content == second.content
    assert json.loads(first.content) == {
        "id": str(outgoing.message_id),
        "to": outgoing.to,
        "text": outgoing.content.text,
        "sender": "Revisit",
    }


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        ("a date in 40 seconds", 40.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
    ],
)
async def test_wish_to_wait_is_read_as_seconds_or_as_a_date(
    code: int, value: str, seconds: float | None
) -> None:
    if value.startswith("a date"):
        value = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    with gateway(answering(code, None, **{"Retry-After": value})) as (channel, _):
        wish = (await channel.send(text())).retry_after_seconds
    if seconds is None or wish is None:
        assert wish is seconds
    else:
        assert abs(wish - seconds) < 30


@given(
    calls=st.integers(-5, 100),
    wish=st.none() | st.floats(-1e9, 1e9),
    jitter=st.floats(0, 1),
)
def test_waits_stay_between_a_second_and_an_hour_and_a_quarter(
    calls: int, wish: float | None, jitter: float
) -> None:
    delay = retry_delay(calls, wish, jitter)
    assert 1 <= delay.total_seconds() <= 4500
    # As a delay, which has no parts of a microsecond.
    assert wish is None or delay >= timedelta(seconds=min(wish, 3600))


async def test_gateway_that_dribbles_is_given_up() -> None:
    async def dribble() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)
            yield b" "

    answer = httpx.Response(200, content=dribble())
    transport = httpx.MockTransport(lambda _: answer)
    channel = SmsChannel("http://gateway/sms", "Revisit", timeout_seconds=0.1, transport=transport)
    result = await channel.send(text())
    assert (result.outcome, result.may_have_arrived) == (Outcome.RETRY, True)


async def test_odd_phone_is_refused_without_a_call() -> None:
    with gateway(answering(200)) as (channel, calls):
        assert (await channel.send(text("8 999 000"))).outcome is Outcome.REJECTED
    assert calls == []


def test_letter_fits_the_wire() -> None:
    raw = letter_bytes(letter(), "clinic@revisit.example")
    lines = raw.split(b"\r\n")
    assert all(len(line) <= 998 and not line.startswith(b".") for line in lines)
    assert b"\n" not in raw.replace(b"\r\n", b"")
