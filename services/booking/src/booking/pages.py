"""The page behind a link in a message: confirm, cancel, or ask to move an appointment.

A GET only shows (mail scanners follow links), a POST acts, once, and only on the time that the page has
shown: its form says which. It works without JavaScript. It says when the appointment is and at which clinic,
never with whom or for what: anybody may hold the phone.
"""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Annotated
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, select_autoescape

from booking.domain.appointment import Appointment, Status
from booking.domain.errors import NotFound
from booking.domain.link import Answer, Link, LinkState, is_to_come, stands, state_of
from booking.store import links
from booking.texts import TEXTS, Texts, language_of, moment
from booking.usecases.answers import use_link
from revisit_chassis.failpoint import failpoint
from revisit_chassis.http import ChassisDep, ChassisState, ClockDep
from revisit_events.envelope import time_text

MAX_FORM_BYTES = 4096
UNKNOWN_RETRY_SECONDS = 30
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
    now = clock.now()
    return _page(link, state_of(link, now), now)


@router.post("/a/{token}", response_class=HTMLResponse)
async def use_link_page(
    token: Token, request: Request, state: ChassisDep, clock: ClockDep
) -> Response:
    """Does what the link is for, once, if the page has shown what stands."""
    token_hash = _hash(token)
    clinic_id = await _clinic_of(state, token, token_hash)
    if clinic_id is None:
        return _unknown(request)
    form = await _form(request)
    now = clock.now()
    try:
        async with state.database.transaction([clinic_id]) as connection:
            link, found = await use_link(
                connection, clinic_id, token_hash, form.reason, form.starts_at, now
            )
            failpoint("answer_link.before_commit")
        failpoint("answer_link.after_commit")
    except NotFound:
        return _unknown(request)
    if found is LinkState.OPEN:
        texts, language = _texts(link)
        return _render(language, link.clinic_name, texts.done[link.purpose], _when(link, texts))
    return _page(link, found, now, form)


@dataclass(frozen=True, slots=True)
class _Form:
    """What was posted."""

    reason: str | None = None
    """One of our own codes; anything else counts as none."""
    starts_at: str | None = None
    """The start that the page showed; None where the form does not say."""


def _hash(token: str) -> str:
    return sha256(token.encode()).hexdigest()


async def _clinic_of(state: ChassisState, token: str, token_hash: str) -> UUID | None:
    if len(token) > LONGEST_TOKEN:
        return None
    async with state.database.connect() as connection:
        row = await connection.exec_driver_sql("SELECT clinic_of_link($1)", (token_hash,))
        clinic_id: UUID | None = row.scalar()
    return clinic_id


async def _form(request: Request) -> _Form:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return _Form()
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=MOST_FIELDS)
    except ValueError:  # more fields than that: not our form
        return _Form()
    chosen = fields.get("reason", [""])[0]
    return _Form(
        reason=chosen if chosen in TEXTS["en"].reasons else None,
        starts_at=fields.get("starts_at", [None])[0],
    )


def _texts(link: Link) -> tuple[Texts, str]:
    language = language_of(link.language)
    return TEXTS[language], language


def _when(link: Link, texts: Texts) -> str | None:
    return moment(texts, link.starts_at, link.time_zones) if link.starts_at else None


def _page(link: Link, state: LinkState, now: datetime, form: _Form | None = None) -> Response:
    texts, language = _texts(link)
    when = _when(link, texts)
    moved = texts.moved if link.is_moved else None
    if state in {LinkState.OPEN, LinkState.UNSEEN} and link.starts_at is not None:
        note = moved
        if state is LinkState.UNSEEN:
            is_other = link.is_moved or (form is not None and form.starts_at is not None)
            note = texts.moved_meanwhile if is_other else texts.look_again
        return _render(
            language,
            link.clinic_name,
            texts.question[link.purpose],
            when,
            note=note,
            button=texts.button[link.purpose],
            shown=time_text(link.starts_at),
            reasons=texts.reasons if link.purpose is Answer.CANCEL else None,
            reason=form.reason if form else None,
            status=409 if state is LinkState.UNSEEN else 200,
        )
    if state is LinkState.USED and stands(link, now):
        return _render(language, link.clinic_name, texts.done_before[link.purpose], when)
    if state is LinkState.EXPIRED:
        return _render(language, link.clinic_name, texts.expired, None, status=410)
    is_coming = is_to_come(link.appointment, now)
    return _render(
        language,
        link.clinic_name,
        _what_is_true(link.appointment, texts, is_coming=is_coming),
        when,
        note=moved if is_coming else None,
        status=409,
    )


def _what_is_true(appointment: Appointment, texts: Texts, *, is_coming: bool) -> str:
    """How the appointment stands now, whatever was answered by the link."""
    if appointment.status is None or appointment.schedule is None:
        return texts.over
    if appointment.status is Status.CANCELLED:
        return texts.cancelled
    return texts.to_come[appointment.status] if is_coming else texts.begun


def _unknown(request: Request) -> Response:
    """A link that does not exist looks the same as one whose `link.issued` has not arrived."""
    wanted = request.headers.get("accept-language", "").partition(",")[0]
    language = language_of(wanted.partition(";")[0].strip())
    texts = TEXTS[language]
    page = _render(language, None, texts.unknown, None, hint=texts.unknown_hint, status=404)
    page.headers["Retry-After"] = str(UNKNOWN_RETRY_SECONDS)
    return page


def _render(
    language: str,
    clinic_name: str | None,
    heading: str,
    when: str | None,
    *,
    note: str | None = None,
    button: str | None = None,
    shown: str | None = None,
    reasons: object = None,
    reason: str | None = None,
    hint: str | None = None,
    status: int = 200,
) -> Response:
    texts = TEXTS[language]
    html = _templates.get_template("link.html").render(
        language=language,
        clinic_name=clinic_name,
        heading=heading,
        moment=when,
        note=note,
        button=button,
        shown=shown,
        reasons=reasons,
        reason=reason,
        hint=hint,
        try_again=texts.try_again,
        reason_label=texts.reason_label,
        call_us=texts.call_us,
    )
    return HTMLResponse(html, status_code=status, headers=HEADERS)
