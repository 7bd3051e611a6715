"""The page behind a survey link: no sign-in, no script, one answer a link.

GET shows and changes nothing (mail scanners open every link); POST answers. The token stands in the
address only: it is hashed at once, and answers forbid to pass the address on or to keep the page.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from feedback.surveys import store, usecases
from feedback.surveys.domain import (
    COMMENT_MAX,
    LANGUAGES,
    AnswerFault,
    LinkState,
    answers_from_form,
    page_language,
)
from feedback.surveys.texts import TEXTS
from feedback.surveys.usecases import OpenedLink
from revisit_chassis.crypto import Keyring
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
HTML: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {}}, "description": "The survey, or thanks for the answer"},
    404: {"content": {"text/html": {}}, "description": "A link that is not known (yet)"},
    410: {"content": {"text/html": {}}, "description": "A link past its time"},
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
            connection, clinic_id, token_hash, languages=page.languages, now=now
        )
    if opened is None:
        return page.unknown()
    return page.survey(opened) if opened.state is LinkState.OPEN else page.closed(opened)


@router.post("/s/{token}", responses=HTML | {422: HTML[200], 413: HTML[200]})
async def answer_survey(
    request: Request, state: ChassisDep, now: Now, token: str, lang: Language = None
) -> Response:
    """Keeps the answers of an open link; a second answer is thanked for and changes nothing."""
    page = _Page(request, lang)
    token_hash = store.hash_of(token)
    form = await _form(request)
    async with state.database.connect() as connection:
        clinic_id = await store.clinic_of_link(connection, token_hash)
    if clinic_id is None:
        return page.unknown()
    async with state.database.transaction((clinic_id,)) as connection:
        opened = await usecases.open_link(
            connection, clinic_id, token_hash, languages=page.languages, now=now
        )
        if opened is None:
            return page.unknown()
        if opened.state is not LinkState.OPEN:
            return page.closed(opened)
        answers = AnswerFault.COMMENT_TOO_LONG if form is None else answers_from_form(form)
        if isinstance(answers, AnswerFault):
            return page.survey(opened, answers, form)
        await usecases.answer_survey(connection, _keyring(request), opened, answers, now)
    # After the commit: whoever reads "thank you" can rely on it.
    return page.thanks(opened)


@router.get("/static/survey.css", include_in_schema=False)
async def style() -> Response:
    """The page's style sheet; the same for everybody, so browsers may keep it."""
    return Response(STYLE, media_type="text/css", headers={"Cache-Control": "max-age=86400"})


STYLE = files("feedback").joinpath("static/survey.css").read_text()


class _Page:
    """Renders what one request gets.

    Args:
        request: For the browser's languages and the path the service is served under.
        lang: The reader's own choice, if any.
    """

    def __init__(self, request: Request, lang: str | None) -> None:
        self._root_path = request.scope.get("root_path", "")
        accepted = request.headers.get("accept-language", "")[:200].split(",")
        self.languages = (
            lang if lang in LANGUAGES else None,
            *(item.split(";")[0].strip() or None for item in accepted),
        )

    def survey(
        self,
        opened: OpenedLink,
        fault: AnswerFault | None = None,
        given: Mapping[str, str] | None = None,
    ) -> Response:
        """The questions; after a fault with what was given."""
        wording = opened.survey.wording
        return self._html(
            "survey.html",
            opened.language,
            200 if fault is None else 422,
            clinic_name=opened.clinic_name,
            wording=wording.get(opened.language) or next(iter(wording.values())),
            fault=fault,
            given=NO_ANSWERS | dict(given or {}),
            comment_max=COMMENT_MAX,
        )

    def closed(self, opened: OpenedLink) -> Response:
        """Thanks for an answered link, regret for one past its time."""
        if opened.state is LinkState.ANSWERED:
            return self.thanks(opened)
        texts = TEXTS[opened.language]
        return self._notice(
            opened.language, 410, texts.gone_title, texts.gone_text, opened.clinic_name
        )

    def thanks(self, opened: OpenedLink) -> Response:
        """Thanks, for the first answer and for every later one."""
        texts = TEXTS[opened.language]
        return self._notice(
            opened.language, 200, texts.thanks_title, texts.thanks_text, opened.clinic_name
        )

    def unknown(self) -> Response:
        """A link that does not exist looks the same as one whose event has not arrived."""
        language = page_language(*self.languages)
        texts = TEXTS[language]
        answer = self._notice(language, 404, texts.unknown_title, texts.unknown_text, None)
        answer.headers["Retry-After"] = str(UNKNOWN_RETRY_SECONDS)
        return answer

    def _notice(
        self, language: str, code: int, title: str, text: str, clinic_name: str | None
    ) -> Response:
        return self._html(
            "notice.html",
            language,
            code,
            clinic_name=clinic_name,
            title=title,
            text=text,
            is_status=code == 200,  # noqa: PLR2004
            is_retry=code == 404,  # noqa: PLR2004
        )

    def _html(self, template: str, language: str, code: int, **values: object) -> Response:
        content = templates.get_template(template).render(
            language=language,
            texts=TEXTS[language],
            texts_by_language=TEXTS,
            static_path=f"{self._root_path}/static",
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
