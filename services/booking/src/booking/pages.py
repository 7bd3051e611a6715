"""The page behind a link in a message: confirm, cancel, or ask to move an appointment.

A GET only shows (mail scanners follow links), a POST acts, once. It works without JavaScript. It says when
the appointment is and at which clinic, never with whom or for what: anybody may hold the phone.
"""

from hashlib import sha256
from typing import Annotated
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, select_autoescape

from booking.domain.errors import NotFound
from booking.domain.link import Answer, Link, LinkState, state_of
from booking.store import links
from booking.texts import TEXTS, Texts, language_of, moment
from booking.usecases.answers import use_link
from revisit_chassis.failpoint import failpoint
from revisit_chassis.http import ChassisDep, ChassisState, ClockDep

MAX_FORM_BYTES = 4096
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
}

router = APIRouter()
_templates = Environment(
    loader=PackageLoader("booking"), autoescape=select_autoescape(), trim_blocks=True
)

LONGEST_TOKEN = 64
MOST_FIELDS = 10

Token = Annotated[str, Path(min_length=1)]


@router.get("/a/{token}", response_class=HTMLResponse)
async def show_link(token: Token, request: Request, state: ChassisDep, clock: ClockDep) -> Response:
    """The question that a link asks; changes nothing."""
    token_hash = _hash(token)
    clinic_id = await _clinic_of(state, token, token_hash)
    if clinic_id is None:
        return _unknown(request)
    async with state.database.transaction([clinic_id]) as connection:
        link = await links.link(connection, clinic_id, token_hash)
    if link is None:
        return _unknown(request)
    return _page(link, state_of(link, clock.now()))


@router.post("/a/{token}", response_class=HTMLResponse)
async def use_link_page(
    token: Token, request: Request, state: ChassisDep, clock: ClockDep
) -> Response:
    """Does what the link is for, once."""
    token_hash = _hash(token)
    clinic_id = await _clinic_of(state, token, token_hash)
    if clinic_id is None:
        return _unknown(request)
    reason = await _reason(request)
    try:
        async with state.database.transaction([clinic_id]) as connection:
            link, found = await use_link(connection, clinic_id, token_hash, reason, clock.now())
            failpoint("answer_link.before_commit")
        failpoint("answer_link.after_commit")
    except NotFound:
        return _unknown(request)
    if found is LinkState.OPEN:
        texts, language = _texts(link)
        return _render(language, link.clinic_name, texts.done[link.purpose], _when(link, texts))
    return _page(link, found)


def _hash(token: str) -> str:
    return sha256(token.encode()).hexdigest()


async def _clinic_of(state: ChassisState, token: str, token_hash: str) -> UUID | None:
    if len(token) > LONGEST_TOKEN:
        return None
    async with state.database.connect() as connection:
        row = await connection.exec_driver_sql("SELECT clinic_of_link($1)", (token_hash,))
        clinic_id: UUID | None = row.scalar()
    return clinic_id


async def _reason(request: Request) -> str | None:
    """The reason chosen in the form; anything else than our own codes counts as none."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=MOST_FIELDS)
    except ValueError:  # more fields than that: not our form
        return None
    chosen = fields.get("reason", [""])[0]
    return chosen if chosen in TEXTS["en"].reasons else None


def _texts(link: Link) -> tuple[Texts, str]:
    language = language_of(link.language)
    return TEXTS[language], language


def _when(link: Link, texts: Texts) -> str | None:
    schedule = link.appointment.schedule
    return moment(texts, schedule.starts_at, link.time_zones) if schedule else None


def _page(link: Link, state: LinkState) -> Response:
    texts, language = _texts(link)
    when = _when(link, texts)
    if state is LinkState.OPEN:
        asks_why = link.purpose is Answer.CANCEL
        return _render(
            language,
            link.clinic_name,
            texts.question[link.purpose],
            when,
            button=texts.button[link.purpose],
            reasons=texts.reasons if asks_why else None,
        )
    if state is LinkState.USED:
        return _render(language, link.clinic_name, texts.done_before[link.purpose], when)
    if state is LinkState.EXPIRED:
        return _render(language, link.clinic_name, texts.expired, None, status=410)
    return _render(language, link.clinic_name, texts.over, when, status=409)


def _unknown(request: Request) -> Response:
    wanted = request.headers.get("accept-language", "").partition(",")[0]
    language = language_of(wanted.partition(";")[0].strip())
    return _render(language, None, TEXTS[language].unknown, None, status=404)


def _render(
    language: str,
    clinic_name: str | None,
    heading: str,
    when: str | None,
    *,
    button: str | None = None,
    reasons: object = None,
    status: int = 200,
) -> Response:
    texts = TEXTS[language]
    html = _templates.get_template("link.html").render(
        language=language,
        clinic_name=clinic_name,
        heading=heading,
        moment=when,
        button=button,
        reasons=reasons,
        reason_label=texts.reason_label,
        call_us=texts.call_us,
    )
    return HTMLResponse(html, status_code=status, headers=HEADERS)
