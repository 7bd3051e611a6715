"""The page behind a survey link."""

import asyncio
import json
import secrets
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from feedback.app import create_app
from feedback.settings import Settings
from feedback.surveys.store import hash_of
from revisit_chassis.clock import SimulatedClock
from revisit_events.testing import (
    clinic_registered,
    link_issued,
    patient_erased,
    visit_completed,
)
from standalone.cluster import ServiceDatabase

Issue = Callable[..., Awaitable[str]]
PATIENT = uuid.UUID(int=77)


@pytest.fixture
def issue(store: Any, clinic_id: uuid.UUID) -> Issue:
    async def make(**data: Any) -> str:
        token = secrets.token_urlsafe(16)
        values = {"patient_id": PATIENT, "expires_at": store.clock.now() + timedelta(days=14)}
        await store.tell(
            link_issued(clinic_id=clinic_id, token_hash=hash_of(token), **(values | data))
        )
        return f"/s/{token}"

    return make


async def test_get_shows_the_questions_and_changes_nothing(
    client: httpx.AsyncClient, issue: Issue, store: Any
) -> None:
    path = await issue()
    for _ in range(3):
        page = await client.get(path)
        assert page.status_code == 200
        assert 'name="csat"' in page.text
    assert await store.rows("SELECT 1 FROM survey_response") == []


async def test_answers_are_kept_once_and_told_of(
    client: httpx.AsyncClient, issue: Issue, store: Any, clinic_id: uuid.UUID
) -> None:
    visit_id, doctor = uuid.uuid4(), uuid.uuid4()
    await store.tell(
        visit_completed(
            clinic_id=clinic_id, visit_id=visit_id, patient_id=PATIENT, practitioner_id=doctor
        )
    )
    path = await issue(subject_id=visit_id)
    first = await client.post(path, data={"csat": "5", "nps": "9", "comment": "Хорошо"})
    assert (first.status_code, "Спасибо" in first.text) == (200, True)
    again = await client.post(path, data={"csat": "5", "nps": "9", "comment": "Хорошо"})
    assert (again.status_code, again.text) == (200, first.text)
    changed = await client.post(path, data={"csat": "1", "nps": "0"})
    assert changed.status_code == 200
    assert "первый ответ остаётся в силе" in changed.text
    (row,) = await store.rows("SELECT * FROM survey_response")
    assert (row.csat, row.nps) == (5, 9)
    assert "Хорошо".encode() not in bytes(row.comment)
    told = await store.published("survey.answered")
    assert [(event["kind"], event["score"], event["scale_max"]) for event in told] == [
        ("csat", 5, 5),
        ("nps", 9, 10),
    ]
    assert {event["practitioner_id"] for event in told} == {str(doctor)}
    assert "Хорошо" not in str(told)
    assert await store.published("complaint.opened") == []


async def test_answers_sent_at_once_count_once(
    client: httpx.AsyncClient, issue: Issue, store: Any
) -> None:
    path = await issue()
    answers = await asyncio.gather(
        *(client.post(path, data={"csat": str(n), "nps": "2"}) for n in (1, 2, 3, 4, 5))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len(await store.rows("SELECT 1 FROM survey_response")) == 1
    assert len(await store.published("survey.answered")) == 2
    assert len(await store.published("complaint.opened")) == 1


async def test_partial_answer_is_kept(client: httpx.AsyncClient, issue: Issue, store: Any) -> None:
    await client.post(await issue(), data={"nps": "10"})
    assert [event["kind"] for event in await store.published("survey.answered")] == ["nps"]


async def test_question_left_out_is_asked_and_answered_later(
    client: httpx.AsyncClient, issue: Issue, store: Any
) -> None:
    path = await issue()
    await client.post(path, data={"nps": "6"})
    page = await client.get(path)
    assert ('name="csat"' in page.text, 'name="nps"' in page.text) == (True, False)
    assert "Ваш ответ сохранён" in page.text
    more = await client.post(path, data={"csat": "1", "comment": "Грубо"})
    assert (more.status_code, "Спасибо" in more.text) == (200, True)
    told = await store.published("survey.answered")
    assert [(event["kind"], event["score"]) for event in told] == [("nps", 6), ("csat", 1)]
    assert 'name="csat"' not in (await client.get(path)).text
    # One case: opened by the first low answer, as grave as all of them say.
    (opened,) = await store.published("complaint.opened")
    assert opened["severity"] == "low"
    (case,) = (await client.get("/v1/complaints")).json()["items"]
    assert (case["severity"], case["text"]) == ("high", "Грубо")


async def test_nothing_is_added_past_the_links_time(
    client: httpx.AsyncClient, issue: Issue, store: Any, clock: SimulatedClock
) -> None:
    path = await issue()
    await client.post(path, data={"nps": "9"})
    clock.set(clock.now() + timedelta(days=14))
    assert (await client.post(path, data={"csat": "1"})).status_code == 200
    assert len(await store.published("survey.answered")) == 1


async def test_case_names_whom_the_visit_names_whenever_it_is_told_of(
    client: httpx.AsyncClient, issue: Issue, store: Any, clinic_id: uuid.UUID
) -> None:
    visit_id, doctor = uuid.uuid4(), uuid.uuid4()
    await client.post(await issue(subject_id=visit_id), data={"csat": "1"})
    (case,) = (await client.get("/v1/complaints")).json()["items"]
    assert case["practitioner_id"] is None
    await store.tell(
        visit_completed(
            clinic_id=clinic_id, visit_id=visit_id, patient_id=PATIENT, practitioner_id=doctor
        )
    )
    (case,) = (await client.get("/v1/complaints")).json()["items"]
    assert case["practitioner_id"] == str(doctor)
    one = (await client.get(f"/v1/complaints/{case['complaint_id']}")).json()
    assert one["practitioner_id"] == str(doctor)


async def test_comment_alone_is_kept_and_tells_of_no_score(
    client: httpx.AsyncClient, issue: Issue, store: Any
) -> None:
    path = await issue()
    assert (await client.post(path, data={"comment": "Всё было вовремя"})).status_code == 200
    assert await store.published("survey.answered") == []
    assert len(await store.rows("SELECT 1 FROM survey_response")) == 1


@pytest.mark.parametrize(
    "data", [{}, {"csat": "9"}, {"nps": "x"}, {"csat": "4", "comment": "я" * 3000}]
)
async def test_faulty_form_is_shown_again_and_uses_nothing_up(
    client: httpx.AsyncClient, issue: Issue, data: dict[str, str]
) -> None:
    path = await issue()
    page = await client.post(path, data=data)
    assert (page.status_code, 'role="alert"' in page.text) == (422, True)
    assert (await client.post(path, data={"csat": "4"})).status_code == 200


async def test_faulty_form_keeps_what_was_given(client: httpx.AsyncClient, issue: Issue) -> None:
    page = await client.post(await issue(), data={"csat": "4", "nps": "11", "comment": "<b>ok"})
    assert 'value="4" checked' in page.text
    assert "&lt;b&gt;ok" in page.text


async def test_body_too_long_or_of_another_type_is_no_answer(
    client: httpx.AsyncClient, issue: Issue, store: Any
) -> None:
    path = await issue()
    long = await client.post(path, content=b"csat=4&comment=" + b"x" * 100_000)
    other = await client.post(path, json={"csat": 4})
    assert (long.status_code, other.status_code) == (413, 422)
    assert 'name="csat"' in long.text
    assert await store.rows("SELECT 1 FROM survey_response") == []


async def test_unknown_link_is_a_kind_404_until_its_event_arrives(
    client: httpx.AsyncClient, store: Any, clinic_id: uuid.UUID
) -> None:
    token = secrets.token_urlsafe(16)
    page = await client.get(f"/s/{token}", headers={"Accept-Language": "en-GB,en;q=0.9"})
    assert page.status_code == 404
    assert int(page.headers["Retry-After"]) > 0
    assert "Try again" in page.text
    assert (await client.post(f"/s/{token}", data={"csat": "1"})).status_code == 404
    await store.tell(link_issued(clinic_id=clinic_id, token_hash=hash_of(token)))
    assert (await client.get(f"/s/{token}")).status_code == 200


async def test_expired_link_is_a_kind_410(
    client: httpx.AsyncClient, issue: Issue, clock: SimulatedClock, store: Any
) -> None:
    path = await issue()
    clock.set(clock.now() + timedelta(days=14))
    assert (await client.get(path)).status_code == 410
    assert (await client.post(path, data={"csat": "1"})).status_code == 410
    assert await store.rows("SELECT 1 FROM survey_response") == []


class Clock(BaseHTTPRequestHandler):
    """Answers as the standalone's clock does, two years in the past."""

    def do_GET(self) -> None:
        body = json.dumps({"now": "2024-01-15T12:00:00+00:00"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


async def test_api_alone_follows_a_clock_in_the_past(
    service_database: ServiceDatabase, keys: Path, issue: Issue
) -> None:
    path = await issue(expires_at=datetime(2024, 1, 20, tzinfo=UTC))
    with ThreadingHTTPServer(("127.0.0.1", 0), Clock) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        settings = Settings.model_validate(
            {
                "database_url": service_database.database_url,
                "jwks": str(keys / "jwks.json"),
                "keyring": str(keys / "keyring.json"),
                "clock_url": f"http://127.0.0.1:{server.server_port}/clock",
            }
        )
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app), base_url="http://feedback"
            ) as client,
        ):
            assert (await client.get(path)).status_code == 200
        server.shutdown()


async def test_link_of_another_purpose_is_unknown_here(
    client: httpx.AsyncClient, issue: Issue
) -> None:
    assert (await client.get(await issue(purpose="cancel"))).status_code == 404


async def test_low_answer_opens_one_case(
    client: httpx.AsyncClient, issue: Issue, store: Any
) -> None:
    await client.post(await issue(), data={"csat": "4", "nps": "3", "comment": "Долго ждала"})
    (opened,) = await store.published("complaint.opened")
    assert opened["severity"] == "medium"
    assert opened["cause_code"] == "unclassified"
    (case,) = (await client.get("/v1/complaints")).json()["items"]
    assert case["text"] == "Долго ждала"
    assert (case["origin"], case["rule_version"], case["is_overdue"]) == ("survey", 0, False)


@pytest.mark.parametrize(
    ("link_language", "clinic_language", "accept", "query", "expected"),
    [
        ("en", "ru", "ru", "", "en"),
        (None, "en", "ru", "", "en"),
        ("de", "ru", "en", "", "ru"),
        (None, None, "en-US,en;q=0.5", "", "en"),
        (None, None, "", "", "ru"),
        ("ru", "ru", "ru", "?lang=en", "en"),
        ("ru", "ru", "en", "?lang=fr", "ru"),
    ],
)
async def test_language_is_the_readers_the_patients_the_clinics_the_browsers(
    *,
    client: httpx.AsyncClient,
    issue: Issue,
    store: Any,
    clinic_id: uuid.UUID,
    link_language: str | None,
    clinic_language: str | None,
    accept: str,
    query: str,
    expected: str,
) -> None:
    if clinic_language:
        await store.tell(clinic_registered(clinic_id=clinic_id, language=clinic_language))
    path = await issue(language=link_language)
    page = await client.get(path + query, headers={"Accept-Language": accept})
    assert f'<html lang="{expected}">' in page.text


async def test_survey_in_one_language_is_shown_as_what_it_is(
    client: httpx.AsyncClient, issue: Issue
) -> None:
    words = dict.fromkeys(("title", "csat_question", "nps_question", "comment_label"), "How?")
    await client.put("/v1/surveys/post-visit", json={"wording": {"en": words}})
    path = await issue(language="ru")
    for query in ("", "?lang=ru"):
        page = await client.get(path + query)
        assert '<html lang="en">' in page.text
        assert "Send</button>" in page.text
        assert "hreflang" not in page.text


async def test_erased_patients_link_is_gone_and_comments_are_removed(
    client: httpx.AsyncClient, issue: Issue, store: Any, clinic_id: uuid.UUID
) -> None:
    answered, other = await issue(), await issue()
    await client.post(answered, data={"csat": "1", "comment": "личное"})
    await store.tell(patient_erased(clinic_id=clinic_id, patient_id=PATIENT))
    assert {(await client.get(path)).status_code for path in (answered, other)} == {410}
    assert (await client.post(other, data={"comment": "снова"})).status_code == 410
    (row,) = await store.rows("SELECT csat, comment FROM survey_response")
    assert (row.csat, row.comment) == (1, None)
    (case,) = (await client.get("/v1/complaints")).json()["items"]
    assert case["text"] is None


async def test_page_forbids_caching_passing_on_and_scripts(
    client: httpx.AsyncClient, issue: Issue
) -> None:
    path = await issue()
    for page in (await client.get(path), await client.get("/s/unknown")):
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert "<script" not in page.text
        assert path.removeprefix("/s/") not in page.text


async def test_style_sheet_is_served(client: httpx.AsyncClient) -> None:
    style = await client.get("/static/survey.css")
    assert (style.status_code, style.headers["content-type"]) == (
        200,
        "text/css; charset=utf-8",
    )


class Page(HTMLParser):
    """What a telephone, a proxy and assistive technology need to find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.unlabelled: list[str] = []
        self.labelled_ids: set[str] = set()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "label" and given.get("for"):
            self.labelled_ids.add(str(given["for"]))
        if tag == "input" and not {"label", "fieldset"} <= set(self.stack):
            self.unlabelled.append(str(given.get("name")))
        if tag == "textarea" and given.get("id") not in self.labelled_ids:
            self.unlabelled.append(str(given.get("name")))
        if tag not in {"meta", "link", "input"}:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def addresses(self) -> list[str]:
        """Everything the page refers to."""
        names = ("href", "src", "action", "srcset", "poster", "data", "formaction")
        return [str(given[name]) for _, given in self.tags for name in names if name in given]


@pytest.mark.parametrize("language", ["ru", "en"])
async def test_page_is_labelled_and_well_formed(
    client: httpx.AsyncClient, issue: Issue, language: str
) -> None:
    page = Page((await client.get(await issue(language=language))).text)
    assert (page.unlabelled, page.stack) == ([], [])
    assert (page.count("legend"), page.count("h1")) == (2, 1)
    assert page.tags[0] == ("html", {"lang": language})


async def test_pages_fit_a_telephone_and_refer_to_nothing_outside(
    client: httpx.AsyncClient, issue: Issue
) -> None:
    path, partial, answered = await issue(), await issue(), await issue()
    await client.post(partial, data={"csat": "5"})
    await client.post(answered, data={"csat": "5", "nps": "9"})
    texts = [(await client.get(link)).text for link in (path, partial, answered, "/s/unknown")]
    texts.append((await client.post(path, data={})).text)
    for text in texts:
        page = Page(text)
        viewport = [given["content"] for _, given in page.tags if given.get("name") == "viewport"]
        assert viewport == ["width=device-width, initial-scale=1"]
        assert page.count("script") == page.count("img") == page.count("iframe") == 0
        for address in page.addresses():
            # Relative: the page works under whatever prefix a proxy serves it.
            parts = urlsplit(address)
            assert (parts.scheme, parts.netloc) == ("", "")
            assert not address.startswith("/")
            found = await client.get(urljoin(path, address))
            assert found.status_code == 200


async def test_form_is_described(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/s/{token}"]["post"]
    form = operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    assert set(form["properties"]) == {"csat", "nps", "comment"}
    assert "413" in operation["responses"]


def contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        digits = colour if len(colour) == 6 else "".join(c * 2 for c in colour)
        parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("16222e", "fff"),
        ("16222e", "e6f1f7"),
        ("16222e", "fdecee"),
        ("44525f", "fff"),
        ("0b5c8a", "f3f5f7"),
        ("fff", "0b5c8a"),
    ],
)
async def test_colours_of_the_page_are_readable(
    client: httpx.AsyncClient, text: str, ground: str
) -> None:
    style = (await client.get("/static/survey.css")).text
    assert f"#{text}" in style
    assert f"#{ground}" in style
    assert contrast(text, ground) >= 4.5
