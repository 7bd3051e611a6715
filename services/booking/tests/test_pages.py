"""The page behind a link: shows on GET, acts once on POST, says nothing to strangers."""

import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

import httpx
import pytest

from booking.consumers import HANDLERS
from revisit_chassis.clock import SimulatedClock
from revisit_events import testing
from revisit_events.contracts import LinkIssued

Issue = Callable[..., Awaitable[str]]
START = "2026-01-15T12:30:00Z"
LATER = "2026-01-16T07:00:00Z"
MOVES = "/v1/appointments/A-1/rescheduling"


@pytest.fixture
def issue(client: httpx.AsyncClient, clock: SimulatedClock, store: Any) -> Issue:
    """Books an appointment and gives a link to it."""

    async def make(
        purpose: str,
        *,
        language: str = "ru",
        lasts: timedelta = timedelta(hours=3),
        book: bool = True,
        token: str | None = None,
    ) -> str:
        if book:
            body = {"appointment_id": "A-1", "patient_id": "P-1", "starts_at": START}
            assert (await client.post("/v1/appointments", json=body)).status_code == 201
        token = token or f"{purpose}-{uuid.uuid4().hex[:12]}"
        link = testing.link_issued(
            clinic_id=store.clinic_id,
            purpose=purpose,
            subject_id=uuid.uuid5(store.clinic_id, "appointment:A-1"),
            patient_id=uuid.uuid5(store.clinic_id, "patient:P-1"),
            token_hash=sha256(token.encode()).hexdigest(),
            expires_at=clock.now() + lasts,
            language=language,
        )
        async with store.database.transaction([store.clinic_id]) as connection:
            await HANDLERS[LinkIssued](connection, [link], clock.now())
        return f"/a/{token}"

    return make


@pytest.mark.parametrize("purpose", ["confirm", "cancel", "move"])
async def test_get_shows_and_changes_nothing(
    client: httpx.AsyncClient, store: Any, issue: Issue, purpose: str
) -> None:
    url = await issue(purpose)
    for _ in "ab":
        page = await client.get(url)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert '<meta name="viewport"' in page.text
        assert 'method="post"' in page.text
        assert "Клиника на Лесной" in page.text
        assert "четверг, 15 января, 15:30" in page.text
        # Self-contained: nothing is fetched from anywhere, and no script runs.
        for word in ("http://", "https://", "<script", "src=", "@import", "url("):
            assert word not in page.text
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cache-control"] == "no-store"
    assert await store.status() == "booked"


@pytest.mark.parametrize(
    ("purpose", "form", "status", "reason"),
    [
        ("confirm", {}, "confirmed", None),
        ("cancel", {"reason": "illness"}, "cancelled", "illness"),
        ("cancel", {"reason": "<script>"}, "cancelled", "not_given"),
        ("cancel", {str(n): "x" for n in range(40)}, "cancelled", "not_given"),
        ("cancel", {"reason": "x" * 10_000}, "cancelled", "not_given"),
        ("move", {}, "booked", None),
    ],
)
async def test_post_acts_once(
    client: httpx.AsyncClient,
    store: Any,
    issue: Issue,
    purpose: str,
    form: dict[str, str],
    status: str,
    reason: str | None,
) -> None:
    url = await issue(purpose)
    done = await client.post(url, data=form)
    assert done.status_code == 200
    assert "<form" not in done.text
    assert await store.status() == status
    again = await client.post(url, data=form)
    assert (again.status_code, "<form" in again.text) == (200, False)
    told = await store.published("appointment.cancelled")
    assert [data["reason_code"] for _, data in told if data] == ([reason] if reason else [])
    wishes = (await client.get("/v1/move-requests")).json()["items"]
    assert len(wishes) == (1 if purpose == "move" else 0)


async def test_body_without_a_declared_length_is_cut_off(
    client: httpx.AsyncClient, store: Any, issue: Issue
) -> None:
    url, sent = await issue("cancel"), 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 3_000_000:
            sent += 4_000
            yield b"a" * 4_000

    assert (await client.post(url, content=endless())).status_code == 200
    assert sent < 100_000


async def test_english_page_speaks_english(client: httpx.AsyncClient, issue: Issue) -> None:
    page = await client.get(await issue("confirm", language="en"))
    assert '<html lang="en">' in page.text
    assert "Are you coming" in page.text


async def test_expired_link_is_gone(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any, issue: Issue
) -> None:
    url = await issue("cancel", lasts=timedelta(hours=1))
    clock.set(clock.now() + timedelta(hours=1))
    for answer in (await client.get(url), await client.post(url)):
        assert (answer.status_code, "истёк" in answer.text) == (410, True)
    assert await store.status() == "booked"


async def test_link_to_what_is_over_changes_nothing(
    client: httpx.AsyncClient, store: Any, issue: Issue
) -> None:
    confirm = await issue("confirm")
    cancel = await issue("cancel", book=False)
    await client.post(cancel)
    for answer in (await client.get(confirm), await client.post(confirm)):
        assert answer.status_code == 409
        assert "<form" not in answer.text
    assert await store.status() == "cancelled"


async def test_confirmed_appointment_can_be_confirmed_again_by_link(
    client: httpx.AsyncClient, store: Any, issue: Issue
) -> None:
    url = await issue("confirm")
    await client.post("/v1/appointments/A-1/confirmation")
    assert (await client.post(url)).status_code == 200
    assert len(await store.published("appointment.confirmed")) == 1


@pytest.mark.parametrize("token", ["nobody", "x" * 64, "x" * 65, "x" * 5_000, "%00", "Щ"])
async def test_unknown_link_is_a_page_in_the_readers_language(
    client: httpx.AsyncClient, token: str
) -> None:
    for language, words in (
        ("ru-RU,ru;q=0.9", "Попробовать ещё раз"),
        ("de", "Try again"),
    ):
        headers = {"Accept-Language": language}
        for answer in (
            await client.get(f"/a/{token}", headers=headers),
            await client.post(f"/a/{token}", headers=headers),
        ):
            assert answer.status_code == 404
            assert answer.headers["content-type"].startswith("text/html")
            assert f'<a href="">{words}</a>' in answer.text
            assert answer.headers["retry-after"] == "30"


async def test_link_is_known_as_soon_as_its_event_has_arrived(
    client: httpx.AsyncClient, issue: Issue
) -> None:
    early = await client.get("/a/fresh", headers={"Accept-Language": "ru"})
    assert (early.status_code, "подождите минуту" in early.text) == (404, True)
    assert (await client.get(await issue("confirm", token="fresh"))).status_code == 200


async def test_link_of_an_erased_patient_is_unknown(
    client: httpx.AsyncClient, store: Any, issue: Issue
) -> None:
    url = await issue("cancel")
    await client.delete("/v1/patients/P-1")
    assert (await client.get(url)).status_code == 404
    assert (await client.post(url)).status_code == 404
    assert await store.status() == "booked"


async def test_used_link_says_what_is_true_now(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any, issue: Issue
) -> None:
    confirm = await issue("confirm", lasts=timedelta(hours=30))
    cancel = await issue("cancel", book=False)
    await client.post(confirm)
    assert (
        "Вы уже ответили по этой ссылке: запись подтверждена." in (await client.get(confirm)).text
    )
    await client.post(cancel)
    assert await store.status() == "cancelled"
    for answer in (await client.get(confirm), await client.post(confirm)):
        assert answer.status_code == 409
        assert "Эта запись отменена." in answer.text
        assert "подтверждена" not in answer.text
    assert "Вы уже ответили по этой ссылке: запись отменена." in (await client.get(cancel)).text


async def test_used_link_says_that_the_appointment_is_over(
    client: httpx.AsyncClient, clock: SimulatedClock, issue: Issue
) -> None:
    confirm = await issue("confirm", lasts=timedelta(hours=30))
    await client.post(confirm)
    clock.set(clock.now() + timedelta(hours=5))
    page = await client.get(confirm)
    assert (page.status_code, "уже начался или прошёл" in page.text) == (409, True)


@pytest.mark.parametrize("purpose", ["confirm", "move"])
async def test_used_link_asks_anew_when_the_appointment_has_moved(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any, issue: Issue, purpose: str
) -> None:
    url = await issue(purpose)
    before = shown_start(await client.get(url))
    await client.post(url, data={"starts_at": before})
    clock.set(clock.now() + timedelta(minutes=1))
    assert (await client.post(MOVES, json={"starts_at": LATER})).status_code == 200
    page = await client.get(url)
    assert page.status_code == 200
    assert "Время записи изменилось. Вот новое:" in page.text
    assert "пятница, 16 января, 10:00" in page.text
    assert "Вы уже ответили" not in page.text
    # The old form, sent again by a browser that restores its tabs.
    assert (await client.post(url, data={"starts_at": before})).status_code == 409
    assert await store.status() == "booked"
    assert (await client.post(url, data={"starts_at": shown_start(page)})).status_code == 200
    assert await store.status() == ("confirmed" if purpose == "confirm" else "booked")
    assert "Вы уже ответили по этой ссылке" in (await client.get(url)).text


@pytest.mark.parametrize("purpose", ["confirm", "move"])
async def test_used_link_asks_anew_when_the_appointment_has_moved_there_and_back(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any, issue: Issue, purpose: str
) -> None:
    url = await issue(purpose)
    form = {"starts_at": shown_start(await client.get(url))}
    await client.post(url, data=form)
    for starts_at in (LATER, START):
        clock.set(clock.now() + timedelta(minutes=1))
        assert (await client.post(MOVES, json={"starts_at": starts_at})).status_code == 200
    page = await client.get(url)
    assert (page.status_code, "<form" in page.text) == (200, True)
    assert (await client.post(url, data=form)).status_code == 200
    assert await store.status() == ("confirmed" if purpose == "confirm" else "booked")
    assert "Вы уже ответили по этой ссылке" in (await client.get(url)).text


async def test_used_link_past_its_time_tells_the_new_time_without_asking(
    client: httpx.AsyncClient, clock: SimulatedClock, issue: Issue
) -> None:
    url = await issue("confirm", language="en", lasts=timedelta(hours=1))
    await client.post(url)
    assert (await client.post(MOVES, json={"starts_at": LATER})).status_code == 200
    clock.set(clock.now() + timedelta(hours=1))
    page = await client.get(url)
    assert (page.status_code, "<form" in page.text) == (409, False)
    assert "Your appointment stands, but is not confirmed yet." in page.text
    assert "Friday 16 January, 10:00" in page.text


@pytest.mark.parametrize("form", [{}, {"reason": "illness"}])
@pytest.mark.parametrize("is_shown", [True, False])
@pytest.mark.parametrize("purpose", ["confirm", "cancel"])
async def test_tap_never_acts_on_a_time_that_was_not_shown(
    client: httpx.AsyncClient,
    store: Any,
    issue: Issue,
    purpose: str,
    form: dict[str, str],
    *,
    is_shown: bool,
) -> None:
    url = await issue(purpose)
    shown = {"starts_at": shown_start(await client.get(url))} if is_shown else {}
    assert (await client.post(MOVES, json={"starts_at": LATER})).status_code == 200
    again = await client.post(url, data=form | shown)
    assert again.status_code == 409
    assert "Время записи тем временем изменилось" in again.text
    assert "пятница, 16 января, 10:00" in again.text
    assert (' value="illness" selected' in again.text) == (purpose == "cancel" and bool(form))
    assert await store.status() == "booked"
    done = await client.post(url, data=form | {"starts_at": shown_start(again)})
    assert done.status_code == 200
    assert await store.status() == ("confirmed" if purpose == "confirm" else "cancelled")


async def test_form_without_a_time_is_asked_again_where_the_patient_knew_none(
    client: httpx.AsyncClient, store: Any, issue: Issue
) -> None:
    url = await issue("cancel", book=False)
    body = {"appointment_id": "A-1", "patient_id": "P-1", "starts_at": START}
    assert (await client.post("/v1/appointments", json=body)).status_code == 201
    again = await client.post(url)
    assert again.status_code == 409
    assert "Посмотрите, пожалуйста, на время записи" in again.text
    assert await store.status() == "booked"
    assert (await client.post(url, data={"starts_at": shown_start(again)})).status_code == 200


def shown_start(page: httpx.Response) -> str:
    """What the form of a page says that it has shown."""
    found = re.search(r'<input type="hidden" name="starts_at" value="([^"]+)">', page.text)
    assert found is not None
    return found.group(1)
