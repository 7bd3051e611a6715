"""The page behind a survey link: no sign-in, no script, one answer a question.

GET shows and changes nothing (mail scanners open every link); POST answers. The token stands in the
address only: it is hashed at once, and answers forbid to pass the address on or to keep the page.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.surveys import store, usecases
from feedback.surveys.domain import (
    COMMENT_MAX,
    CSAT_SCALE,
    LANGUAGES,
    NPS_SCALE,
    AnswerFault,
    Answers,
    LinkState,
    answers_from_form,
    page_language,
)
from feedback.surveys.texts import TEXTS
from feedback.surveys.usecases import OpenedLink, Receipt
from revisit_chassis.crypto import Keyring
from revisit_chassis.failpoint import failpoint
from revisit_chassis.http import ChassisDep, Now

BODY_MAX_BYTES = 64 * 1024
FIELDS_MAX = 20
UNKNOWN_RETRY_SECONDS = 30
FORM_TYPE = "application/x-www-form-urlencoded"
NO_ANSWERS = {"csat": "", "nps": "", "comment": ""}
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
}


def _scores(scale: tuple[int, int]) -> dict[str, Any]:
    low, high = scale
    return {"type": "string", "enum": ["", *(str(score) for score in range(low, high + 1))]}


HTML: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {}}, "description": "The survey, or thanks for the answer"},
    404: {"content": {"text/html": {}}, "description": "A link that is not known (yet)"},
    410: {"content": {"text/html": {}}, "description": "A link past its time"},
}

TOO_LARGE: dict[str, Any] = {
    "content": {"text/html": {}},
    "description": "The survey once more: the form was longer than any answer",
}
AGAIN: dict[str, Any] = {
    "content": {"text/html": {}},
    "description": "The survey once more, with what was given: a field is not as asked",
}
FORM_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        FORM_TYPE: {
            "schema": {
                "type": "object",
                "description": "Any part may be left out, but not all of it.",
                "properties": {
                    "csat": _scores(CSAT_SCALE),
                    "nps": _scores(NPS_SCALE),
                    "comment": {"type": "string", "maxLength": COMMENT_MAX},
                },
            }
        }
    },
}

Language = Annotated[
    str | None, Query(max_length=35, description="The reader's own choice of language: ru or en")
]

router = APIRouter(tags=["survey pages"], default_response_class=HTMLResponse)
templates = Environment(
    loader=PackageLoader("feedback"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
)


@router.get("/s/{token}", responses=HTML)
async def show_survey(
    request: Request, state: ChassisDep, now: Now, token: str, lang: Language = None
) -> Response:
    """The survey in the patient's language, or what became of its link."""
    page = _Page(request, lang)
    token_hash = store.hash_of(token)
    async with state.database.connect() as connection:
        clinic_id = await store.clinic_of_link(connection, token_hash)
    if clinic_id is None:
        return page.unknown()
    async with state.database.transaction((clinic_id,)) as connection:
        opened = await usecases.open_link(
            connection,
            _keyring(request),
            clinic_id,
            token_hash,
            languages=page.languages,
            now=now,
        )
    return page.unknown() if opened is None else page.opened(opened)


@router.post(
    "/s/{token}",
    responses=HTML | {413: TOO_LARGE, 422: AGAIN},
    openapi_extra={"requestBody": FORM_BODY},
)
async def answer_survey(
    request: Request, state: ChassisDep, now: Now, token: str, lang: Language = None
) -> Response:
    """Keeps answers to questions that are open; what was answered before stands, and the page says so."""
    page = _Page(request, lang)
    token_hash = store.hash_of(token)
    form = await _form(request)
    async with state.database.connect() as connection:
        clinic_id = await store.clinic_of_link(connection, token_hash)
    if clinic_id is None:
        return page.unknown()
    async with state.database.transaction((clinic_id,)) as connection:
        keyring = _keyring(request)
        opened = await usecases.open_link(
            connection, keyring, clinic_id, token_hash, languages=page.languages, now=now
        )
        if opened is None:
            return page.unknown()
        answer = await _answer(connection, keyring, page, opened, form, now)
        failpoint("survey_link.before_commit")
    failpoint("survey_link.after_commit")
    # After the commit: whoever reads "thank you" can rely on it.
    return answer


async def _answer(
    connection: AsyncConnection,
    keyring: Keyring,
    page: "_Page",
    opened: OpenedLink,
    form: Mapping[str, str] | None,
    now: datetime,
) -> Response:
    if opened.state is LinkState.GONE:
        return page.opened(opened)
    if form is None:
        return page.survey(opened, AnswerFault.COMMENT_TOO_LONG, code=413)
    answers = answers_from_form(form)
    if isinstance(answers, AnswerFault):
        if opened.state is LinkState.ANSWERED:
            return page.opened(opened)
        return page.survey(opened, answers, form, code=422)
    receipt = await usecases.answer_survey(connection, keyring, opened, answers, now)
    return page.stands(opened) if receipt is Receipt.FIRST_STANDS else page.thanks(opened)


@router.get("/static/survey.css", include_in_schema=False)
async def style() -> Response:
    """The page's style sheet; the same for everybody, so browsers may keep it."""
    return Response(STYLE, media_type="text/css", headers={"Cache-Control": "max-age=86400"})


STYLE = files("feedback").joinpath("static/survey.css").read_text()


class _Page:
    """Renders what one request gets.

    Args:
        request: For the browser's languages.
        lang: The reader's own choice, if any.
    """

    def __init__(self, request: Request, lang: str | None) -> None:
        accepted = request.headers.get("accept-language", "")[:200].split(",")
        self.languages = (
            lang if lang in LANGUAGES else None,
            *(item.split(";")[0].strip() or None for item in accepted),
        )

    def opened(self, opened: OpenedLink) -> Response:
        """The questions that are open, thanks for an answered link, regret for one past its time."""
        if opened.state is LinkState.GONE:
            texts = TEXTS[opened.language]
            return self._notice(opened, 410, texts.gone_title, texts.gone_text)
        return self.thanks(opened) if opened.state is LinkState.ANSWERED else self.survey(opened)

    def survey(
        self,
        opened: OpenedLink,
        fault: AnswerFault | None = None,
        form: Mapping[str, str] | None = None,
        *,
        code: int = 200,
    ) -> Response:
        """The questions that are open; after a fault with what was given."""
        given = opened.link.given or Answers()
        return self._html(
            "survey.html",
            opened.language,
            code,
            spoken=opened.survey.languages,
            clinic_name=opened.clinic_name,
            wording=opened.survey.wording[opened.language],
            asked=[name for name in NO_ANSWERS if getattr(given, name) is None],
            is_partial=opened.state is not LinkState.OPEN,
            fault=fault,
            given=NO_ANSWERS | dict(form or {}),
            comment_max=COMMENT_MAX,
        )

    def thanks(self, opened: OpenedLink) -> Response:
        """Thanks, for the first answer and for every one that says the same."""
        texts = TEXTS[opened.language]
        return self._notice(opened, 200, texts.thanks_title, texts.thanks_text)

    def stands(self, opened: OpenedLink) -> Response:
        """Says that an answer was given before and stands."""
        texts = TEXTS[opened.language]
        return self._notice(opened, 200, texts.stands_title, texts.stands_text)

    def unknown(self) -> Response:
        """A link that does not exist looks the same as one whose event has not arrived."""
        texts = TEXTS[page_language(*self.languages)]
        answer = self._notice(None, 404, texts.unknown_title, texts.unknown_text)
        answer.headers["Retry-After"] = str(UNKNOWN_RETRY_SECONDS)
        return answer

    def _notice(self, opened: OpenedLink | None, code: int, title: str, text: str) -> Response:
        return self._html(
            "notice.html",
            opened.language if opened else page_language(*self.languages),
            code,
            spoken=opened.survey.languages if opened else LANGUAGES,
            clinic_name=opened.clinic_name if opened else None,
            title=title,
            text=text,
            is_status=code == 200,  # noqa: PLR2004
            is_retry=code == 404,  # noqa: PLR2004
        )

    def _html(
        self, template: str, language: str, code: int, *, spoken: Sequence[str], **values: object
    ) -> Response:
        content = templates.get_template(template).render(
            language=language,
            texts=TEXTS[language],
            other_languages={other: TEXTS[other] for other in spoken if other != language},
            **values,
        )
        return HTMLResponse(content, code, headers=HEADERS)


async def _form(request: Request) -> dict[str, str] | None:
    """The fields of the form, the last of each name; None when the body is too long to be one."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_MAX_BYTES:
            return None
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != FORM_TYPE:
        return {}
    try:
        return dict(
            parse_qsl(
                body.decode(errors="replace"),
                keep_blank_values=True,
                max_num_fields=FIELDS_MAX,
            )
        )
    except ValueError:
        return {}


def _keyring(request: Request) -> Keyring:
    keyring: Keyring = request.app.state.keyring
    return keyring
