"""The page behind a message's preferences link, over HTTP: what acts, what does not, what is shown."""

import re
import uuid
from datetime import timedelta

import httpx
import pytest
from tests.apps import tell

from engagement.links.domain import Link, new_token, token_hash
from engagement.links.forms import form_fields
from engagement.links.store import save_links
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_events import testing

PATIENT = uuid.UUID(int=7)
ONE_CLICK = {"List-Unsubscribe": "One-Click"}
YEAR = timedelta(days=365)


@pytest.fixture
async def token(database: Database, clinic_id: uuid.UUID, clock: SimulatedClock) -> str:
    return await issue(database, clinic_id, clock)


async def issue(
    database: Database, clinic_id: uuid.UUID, clock: SimulatedClock, language: str = "ru"
) -> str:
    token = new_token()
    link = Link(
        clinic_id=clinic_id,
        token_hash=token_hash(token),
        patient_id=PATIENT,
        message_id=uuid.uuid4(),
        purpose="care",
        channel="email",
        language=language,
        expires_at=clock.now() + YEAR,
    )
    async with database.transaction([clinic_id]) as connection:
        await save_links(connection, [link])
    return token


async def ledger(database: Database, clinic_id: uuid.UUID) -> list[tuple[object, ...]]:
    async with database.transaction([clinic_id]) as connection:
        rows = await connection.exec_driver_sql(
            "SELECT purpose, channel, state, source, recorded_by FROM consent_entry ORDER BY position"
        )
        return [tuple(row) for row in rows]


def page_of(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


async def test_opening_the_link_changes_nothing(
    site: httpx.AsyncClient, database: Database, clinic_id: uuid.UUID, token: str
) -> None:
    for _ in range(3):
        answer = await site.get(f"/u/{token}", headers={"Authorization": ""})
        assert answer.status_code == 200
        assert "Больше не присылать" in page_of(answer)
    await site.get(f"/u/{token}", params={"List-Unsubscribe": "One-Click", "wanted": "no"})
    assert await ledger(database, clinic_id) == []


@pytest.mark.parametrize("encoding", ["multipart", "urlencoded"])
async def test_one_click_of_a_mail_client_unsubscribes(
    site: httpx.AsyncClient, database: Database, clinic_id: uuid.UUID, token: str, encoding: str
) -> None:
    url, headers = f"/u/{token}", {"Authorization": ""}
    if encoding == "multipart":
        files = {name: (None, value) for name, value in ONE_CLICK.items()}
        answer = await site.post(url, files=files, headers=headers)
        assert answer.request.headers["content-type"].startswith("multipart/form-data; boundary=")
    else:
        answer = await site.post(url, data=ONE_CLICK, headers=headers)
    assert answer.status_code == 200
    assert "Вы не получаете эти сообщения." in page_of(answer)
    assert await ledger(database, clinic_id) == [
        ("care", "email", "refused", "one_click", "patient")
    ]


async def test_form_of_the_page_stops_and_starts_again(
    site: httpx.AsyncClient,
    database: Database,
    clinic_id: uuid.UUID,
    clock: SimulatedClock,
    token: str,
) -> None:
    url = f"/u/{token}"
    for expected in ("refused", "granted", "refused"):
        clock.set(clock.now() + timedelta(minutes=1))
        page = page_of(await site.get(url))
        (wanted,) = re.findall(r'name="wanted" value="(yes|no)"', page)
        answer = await site.post(url, data={"wanted": wanted})
        assert "Ваш выбор сохранён." in page_of(answer)
        assert (await ledger(database, clinic_id))[-1] == (
            *("care", "email", expected),
            *("preferences_page", "patient"),
        )


async def test_choice_holds_for_its_kind_and_channel_only(
    site: httpx.AsyncClient, clinic_id: uuid.UUID, token: str
) -> None:
    await site.post(f"/u/{token}", data=ONE_CLICK)
    consents = (await site.get(f"/v1/patients/{PATIENT}/consents")).json()["consents"]
    assert [(one["purpose"], one["channel"], one["state"]) for one in consents] == [
        ("care", "email", "refused")
    ]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("wish", "text"), [("ru-RU,ru;q=0.9", "Эта ссылка не действует."), ("de", "does not work")]
)
@pytest.mark.parametrize("token_like", ["x", "x" * 22, "x" * 64, "x" * 65, "x" * 5000, "%00%FF"])
async def test_unknown_link_is_a_page_in_the_readers_language(
    site: httpx.AsyncClient, method: str, wish: str, text: str, token_like: str
) -> None:
    answer = await site.request(method, f"/u/{token_like}", headers={"Accept-Language": wish})
    assert answer.status_code == 404
    assert text in page_of(answer)


@pytest.mark.parametrize(
    ("language", "text"), [("ru", "не действует"), ("en", "does not work"), ("fr", "does not work")]
)
async def test_expired_link_is_a_page_in_the_messages_language_and_acts_no_more(
    site: httpx.AsyncClient,
    database: Database,
    clinic_id: uuid.UUID,
    clock: SimulatedClock,
    language: str,
    text: str,
) -> None:
    token = await issue(database, clinic_id, clock, language)
    clock.set(clock.now() + YEAR)
    for answer in (await site.get(f"/u/{token}"), await site.post(f"/u/{token}", data=ONE_CLICK)):
        assert answer.status_code == 410
        assert text in page_of(answer)
    assert await ledger(database, clinic_id) == []


async def test_link_of_an_erased_patient_is_unknown(
    site: httpx.AsyncClient,
    database: Database,
    clinic_id: uuid.UUID,
    clock: SimulatedClock,
    token: str,
) -> None:
    now = clock.now()
    erased = testing.patient_erased(clinic_id=clinic_id, patient_id=PATIENT, time=now)
    await tell("engagement", database, [erased], now)
    assert (await site.get(f"/u/{token}")).status_code == 404


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("", b""),
        ("application/x-www-form-urlencoded", b"&".join(b"f%d=1" % n for n in range(200))),
        ("application/x-www-form-urlencoded", b"wanted=%FF%00&=&&;"),
        ("multipart/form-data", b"--x\r\n\r\nno boundary was named"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n--x--"),
        ("multipart/form-data; boundary=x", b"\xff\x00"),
        ('multipart/form-data; boundary="', b"--\r\n"),
        ("application/json", b'{"wanted": "yes"}'),
    ],
)
async def test_whatever_is_posted_is_a_refusal_and_never_a_fault(
    site: httpx.AsyncClient,
    database: Database,
    clinic_id: uuid.UUID,
    token: str,
    content_type: str,
    body: bytes,
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = await site.post(f"/u/{token}", content=body, headers=headers)
    assert answer.status_code == 200
    assert [row[2] for row in await ledger(database, clinic_id)] == ["refused"]


async def test_form_of_many_parts_is_read(
    site: httpx.AsyncClient, database: Database, clinic_id: uuid.UUID, token: str
) -> None:
    files = {f"field-{n}": (None, "x") for n in range(20)} | {"wanted": (None, "yes")}
    assert (await site.post(f"/u/{token}", files=files)).status_code == 200
    assert [row[2] for row in await ledger(database, clinic_id)] == ["granted"]


async def test_body_that_no_form_of_ours_has_is_refused_with_a_page(
    site: httpx.AsyncClient, database: Database, clinic_id: uuid.UUID, token: str
) -> None:
    answer = await site.post(f"/u/{token}", data={"wanted": "x" * 10_000})
    assert answer.status_code == 413
    assert "прочитать" in page_of(answer)
    assert await ledger(database, clinic_id) == []


async def test_page_is_readable_by_everybody_and_loads_nothing(
    site: httpx.AsyncClient, token: str
) -> None:
    for path in (f"/u/{token}", "/u/unknown"):
        answer = await site.get(path)
        page = page_of(answer)
        assert re.search(r'<html lang="(ru|en)">', page)
        assert '<meta name="viewport" content="width=device-width' in page
        assert not re.search(r"(?:src|href|action)\s*=|url\(|<script|@import|https?:", page)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
    page = page_of(await site.get(f"/u/{token}"))
    ids = set(re.findall(r'id="(\w+)"', page))
    (labels,) = re.findall(r'aria-labelledby="([^"]+)"', page)
    assert set(labels.split()) <= ids
    assert token not in page


def test_first_of_repeated_fields_counts_in_either_encoding() -> None:
    part = '--x\r\nContent-Disposition: form-data; name="wanted"\r\n\r\n{}\r\n'
    body = (part.format("yes") + part.format("no") + "--x--\r\n").encode()
    assert form_fields("multipart/form-data; boundary=x", body) == {"wanted": "yes"}
    assert form_fields("application/x-www-form-urlencoded", b"wanted=yes&wanted=no") == {
        "wanted": "yes"
    }
