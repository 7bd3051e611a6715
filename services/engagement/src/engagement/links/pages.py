"""The page behind the preferences link of each message: which messages a patient wants.

A GET only shows (mail scanners follow links), a POST acts, without login. A mail client's one-click
unsubscribe (RFC 8058) posts `List-Unsubscribe=One-Click`; the page's own form posts `wanted=no|yes`.
Whatever else is posted ends the messages too: who posts here wants that, and a refusal is taken back
as easily. Every answer is a page, for a person may read it.
"""

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from engagement.consent import usecases
from engagement.consent.domain import ConsentState, Purpose, Statement
from engagement.links import store
from engagement.links.domain import Link, token_hash
from engagement.links.forms import ONE_CLICK, form_fields
from engagement.links.texts import TEXTS
from revisit_chassis.failpoint import failpoint
from revisit_chassis.http import ChassisDep, ChassisState, ClockDep

MAX_FORM_BYTES = 4096
WORDING = "preferences-page-1"
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
}

PAGES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {}}, "description": "The patient's choice"},
    404: {"content": {"text/html": {}}, "description": "A link that is not known"},
    410: {"content": {"text/html": {}}, "description": "A link past its time"},
}

router = APIRouter(tags=["preferences page"], default_response_class=HTMLResponse)
_templates = Environment(
    loader=PackageLoader("engagement", "templates"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
)


@router.get("/u/{token}", responses=PAGES)
async def show_preferences(
    token: str, request: Request, state: ChassisDep, clock: ClockDep
) -> Response:
    """Shows whether messages of this kind are wanted; changes nothing."""
    link = await _link(state, token)
    if link is None:
        return _notice(404, _wished_language(request), "unknown")
    if link.expires_at <= clock.now():
        return _notice(410, link.language, "unknown")
    async with state.database.transaction([link.clinic_id]) as connection:
        standing = await usecases.standing(connection, link.clinic_id, link.patient_id)
    return _page(link, is_wanted=_is_wanted(link, standing), is_saved=False)


@router.post("/u/{token}", responses=PAGES | {413: PAGES[200]})
async def save_preferences(
    token: str, request: Request, state: ChassisDep, clock: ClockDep
) -> Response:
    """Records the patient's wish for this kind of message in this channel."""
    link = await _link(state, token)
    if link is None:
        return _notice(404, _wished_language(request), "unknown")
    if link.expires_at <= clock.now():
        return _notice(410, link.language, "unknown")
    form = await _form(request)
    if form is None:
        return _notice(413, link.language, "unreadable")
    is_wanted = form.get("wanted") == "yes"
    now = clock.now()
    statement = Statement(
        purpose=Purpose(link.purpose),
        channel=link.channel,
        state=ConsentState.GRANTED if is_wanted else ConsentState.REFUSED,
        wording_version=WORDING,
        source="one_click" if ONE_CLICK in form else "preferences_page",
        given_at=now,
    )
    async with state.database.transaction([link.clinic_id]) as connection:
        standing = await usecases.record_statements(
            connection, link.clinic_id, link.patient_id, [statement], by="patient", now=now
        )
        failpoint("preference_link.before_commit")
    failpoint("preference_link.after_commit")
    return _page(link, is_wanted=_is_wanted(link, standing), is_saved=True)


async def _link(state: ChassisState, token: str) -> Link | None:
    digest = token_hash(token)
    async with state.database.connect() as connection:
        clinic_id: UUID | None = await store.clinic_of(connection, digest)
    if clinic_id is None:
        return None
    async with state.database.transaction([clinic_id]) as connection:
        return await store.load(connection, clinic_id, digest)


def _is_wanted(link: Link, standing: list[Statement]) -> bool:
    return not any(
        one.purpose == link.purpose
        and one.channel == link.channel
        and one.state is ConsentState.REFUSED
        for one in standing
    )


async def _form(request: Request) -> dict[str, str] | None:
    """The posted fields; None when there is more than a form of ours could hold."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    return form_fields(request.headers.get("content-type", ""), body)


def _page(link: Link, *, is_wanted: bool, is_saved: bool) -> Response:
    texts = TEXTS.get(link.language, TEXTS["en"])
    page = _templates.get_template("preferences.html").render(
        language=link.language if link.language in TEXTS else "en",
        texts=texts,
        channel=texts["channels"].get(link.channel, link.channel),
        kind=texts["kinds"][link.purpose],
        is_wanted=is_wanted,
        is_saved=is_saved,
    )
    return HTMLResponse(page, headers=HEADERS)


def _notice(status: int, language: str, what: str) -> Response:
    language = language if language in TEXTS else "en"
    page = _templates.get_template("notice.html").render(
        language=language,
        texts=TEXTS[language],
        title=TEXTS[language][what],
        hint=TEXTS[language][f"{what}_hint"],
    )
    return HTMLResponse(page, status_code=status, headers=HEADERS)


def _wished_language(request: Request) -> str:
    wishes = request.headers.get("accept-language", "")
    return "ru" if wishes.lower().startswith("ru") else "en"
