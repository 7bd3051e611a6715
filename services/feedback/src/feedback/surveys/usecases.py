"""Opening a link, answering each question once, changing a survey. Nothing here commits."""

import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.complaints.domain import (
    DUE_AFTER,
    UNCLASSIFIED,
    Complaint,
    Origin,
    case_id,
    severity_of_answers,
)
from feedback.complaints.usecases import SOURCE, keep_complaints
from feedback.projections.store import clinics_by_id, practitioner_of
from feedback.sealing import seal
from feedback.surveys import store
from feedback.surveys.domain import (
    CSAT_SCALE,
    NPS_SCALE,
    POST_VISIT,
    Answers,
    Link,
    LinkState,
    Survey,
    SurveyNotFoundError,
    additions,
    answer_id,
    is_low,
    page_language,
    response_id,
    state_of,
    together,
)
from revisit_chassis.crypto import Keyring
from revisit_events.contracts import SurveyAnswered
from revisit_events.contracts.feedback import SurveyKind
from revisit_events.envelope import Event, new_event
from revisit_events.outbox import publish


@dataclass(frozen=True, slots=True)
class OpenedLink:
    """All that the page behind a link needs."""

    link: Link
    state: LinkState
    survey: Survey
    language: str
    clinic_name: str | None


class Receipt(StrEnum):
    """What became of an answer."""

    KEPT = "kept"
    FIRST_STANDS = "first_stands"
    """Some of it contradicts what was answered before, which stands."""


async def open_link(
    connection: AsyncConnection,
    keyring: Keyring,
    clinic_id: uuid.UUID,
    token_hash: str,
    *,
    languages: tuple[str | None, ...],
    now: datetime,
) -> OpenedLink | None:
    """What a link shows; it stays locked, so that each question is answered once.

    The language is the reader's own choice (the first of `languages`), then the patient's from the
    link, then the clinic's, then what the browser asks for: the first in which the survey is worded.
    None for a link that is unknown.
    """
    link = await store.lock_link(connection, keyring, clinic_id, token_hash)
    if link is None:
        return None
    clinic = (await clinics_by_id(connection, [clinic_id])).get(clinic_id)
    survey = await current_survey(connection, clinic_id, POST_VISIT)
    chosen, *others = languages
    wanted = (chosen, link.language, clinic.language if clinic else None, *others)
    return OpenedLink(
        link=link,
        state=state_of(link, now),
        survey=survey,
        language=page_language(*wanted, spoken=survey.languages),
        clinic_name=clinic.name if clinic else None,
    )


async def answer_survey(
    connection: AsyncConnection,
    keyring: Keyring,
    opened: OpenedLink,
    answers: Answers,
    now: datetime,
) -> Receipt:
    """Keeps the answers to questions that are open, tells of them, and opens a case when they are low.

    What was answered before stands; past the link's time nothing is added.
    """
    link = opened.link
    given = link.given or Answers()
    new, contradicts = additions(given, answers)
    if not new.is_empty and now < link.expires_at:
        await _keep(connection, keyring, opened, new, now)
    return Receipt.FIRST_STANDS if contradicts else Receipt.KEPT


async def _keep(
    connection: AsyncConnection,
    keyring: Keyring,
    opened: OpenedLink,
    new: Answers,
    now: datetime,
) -> None:
    link = opened.link
    practitioner_id = await practitioner_of(connection, link.clinic_id, link.visit_id)
    record_id = response_id(link.clinic_id, link.link_id)
    await store.save_response(
        connection,
        link,
        opened.survey,
        new,
        comment=seal(keyring, new.comment, link.clinic_id, record_id, "comment"),
        language=opened.language,
        answered_at=now,
    )
    await publish(connection, _answer_events(link, new, practitioner_id, now))
    answers = together(link.given or Answers(), new)
    if is_low(answers, opened.survey.case_rule):
        case = case_id(link.clinic_id, Origin.SURVEY, record_id)
        await keep_complaints(
            connection,
            [
                Complaint(
                    clinic_id=link.clinic_id,
                    complaint_id=case,
                    origin=Origin.SURVEY,
                    origin_id=record_id,
                    patient_id=link.patient_id,
                    visit_id=link.visit_id,
                    practitioner_id=practitioner_id,
                    severity=severity_of_answers(answers.csat, answers.nps),
                    cause_code=UNCLASSIFIED,
                    opened_at=now,
                    due_at=now + DUE_AFTER,
                    rule_version=opened.survey.version,
                    text=seal(keyring, answers.comment, link.clinic_id, case, "text"),
                )
            ],
        )


async def current_survey(connection: AsyncConnection, clinic_id: uuid.UUID, key: str) -> Survey:
    """A clinic's survey as it stands.

    Raises:
        SurveyNotFoundError: There is no survey with this key.
    """
    found = await store.load_survey(connection, clinic_id, key)
    if found is None:
        if key != POST_VISIT:
            raise SurveyNotFoundError
        return Survey(key=key)
    return found


async def change_survey(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    current: Survey,
    wanted: Survey,
    *,
    by: str,
    now: datetime,
) -> Survey | None:
    """Stores a survey as the version after the current one; an equal one changes nothing.

    Gives None when somebody else stored that version first.
    """
    if replace(wanted, version=current.version) == current:
        return current
    changed = replace(wanted, version=current.version + 1)
    is_stored = await store.insert_survey(
        connection, clinic_id, changed, changed_at=now, changed_by=by
    )
    return changed if is_stored else None


def _answer_events(
    link: Link, answers: Answers, practitioner_id: uuid.UUID | None, now: datetime
) -> list[Event[SurveyAnswered]]:
    scored: tuple[tuple[SurveyKind, int | None, tuple[int, int]], ...] = (
        ("csat", answers.csat, CSAT_SCALE),
        ("nps", answers.nps, NPS_SCALE),
    )
    return [
        new_event(
            SurveyAnswered(
                answer_id=answer_id(link, kind),
                patient_id=link.patient_id,
                visit_id=link.visit_id,
                practitioner_id=practitioner_id,
                kind=kind,
                score=float(score),
                scale_min=float(scale[0]),
                scale_max=float(scale[1]),
            ),
            source=SOURCE,
            clinic_id=link.clinic_id,
            time=now,
            sequence=1,
            id=str(answer_id(link, kind)),
        )
        for kind, score, scale in scored
        if score is not None
    ]
