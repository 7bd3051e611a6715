"""Rows of surveys, links and responses."""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.projections.store import erased_among
from feedback.sealing import unseal
from feedback.surveys.domain import Answers, CaseRule, Link, Survey, Wording, response_id
from feedback.surveys.tables import survey, survey_link, survey_response
from revisit_chassis.crypto import Keyring


@dataclass(frozen=True, slots=True)
class IssuedLink:
    """A link as engagement tells of it."""

    clinic_id: uuid.UUID
    link_id: uuid.UUID
    token_hash: str
    patient_id: uuid.UUID
    visit_id: uuid.UUID
    language: str | None
    expires_at: datetime


def hash_of(token: str) -> str:
    """What is known of a link's token here."""
    return hashlib.sha256(token.encode()).hexdigest()


async def insert_links(connection: AsyncConnection, links: Sequence[IssuedLink]) -> None:
    """Stores links; one that is there already stays as it is, because a link never changes."""
    await connection.execute(
        sa.text("""
            INSERT INTO survey_link (
                clinic_id, link_id, token_hash, patient_id, visit_id, language, expires_at
            )
            SELECT * FROM unnest(
                CAST(:clinics AS uuid[]), CAST(:ids AS uuid[]), CAST(:hashes AS text[]),
                CAST(:patients AS uuid[]), CAST(:visits AS uuid[]), CAST(:languages AS text[]),
                CAST(:expires AS timestamptz[])
            ) AS u (clinic_id, link_id, token_hash, patient_id, visit_id, language, expires_at)
            ORDER BY clinic_id, link_id
            ON CONFLICT DO NOTHING
        """),
        {
            "clinics": [link.clinic_id for link in links],
            "ids": [link.link_id for link in links],
            "hashes": [link.token_hash for link in links],
            "patients": [link.patient_id for link in links],
            "visits": [link.visit_id for link in links],
            "languages": [link.language for link in links],
            "expires": [link.expires_at for link in links],
        },
    )


async def clinic_of_link(connection: AsyncConnection, token_hash: str) -> uuid.UUID | None:
    """The clinic of a link, before any clinic is known; None for an unknown one."""
    found: uuid.UUID | None = await connection.scalar(
        sa.text("SELECT clinic_of_link(:hash)"), {"hash": token_hash}
    )
    return found


async def lock_link(
    connection: AsyncConnection, keyring: Keyring, clinic_id: uuid.UUID, token_hash: str
) -> Link | None:
    """A link that nobody else can answer until this transaction ends."""
    row = (
        await connection.execute(
            sa.select(survey_link)
            .where(survey_link.c.clinic_id == clinic_id, survey_link.c.token_hash == token_hash)
            .with_for_update()
        )
    ).one_or_none()
    if row is None:
        return None
    # Statements of their own: the one that waited for the lock does not see what it waited for.
    erased = await erased_among(connection, [(clinic_id, row.patient_id)])
    record_id = response_id(clinic_id, row.link_id)
    response = survey_response.c
    found = (
        await connection.execute(
            sa.select(response.csat, response.nps, response.comment).where(
                response.clinic_id == clinic_id, response.response_id == record_id
            )
        )
    ).one_or_none()
    given = None
    if found is not None:
        comment = unseal(keyring, found.comment, clinic_id, record_id, "comment")
        given = Answers(found.csat, found.nps, comment)
    return Link(
        clinic_id=row.clinic_id,
        link_id=row.link_id,
        patient_id=row.patient_id,
        visit_id=row.visit_id,
        language=row.language,
        expires_at=row.expires_at,
        given=given,
        is_erased=bool(erased),
    )


async def save_response(
    connection: AsyncConnection,
    link: Link,
    answered: Survey,
    answers: Answers,
    *,
    comment: bytes | None,
    language: str,
    answered_at: datetime,
) -> None:
    """Stores what was answered behind a locked link; what was answered before stays."""
    wanted = insert(survey_response).values(
        clinic_id=link.clinic_id,
        response_id=response_id(link.clinic_id, link.link_id),
        link_id=link.link_id,
        survey_key=answered.key,
        survey_version=answered.version,
        patient_id=link.patient_id,
        visit_id=link.visit_id,
        language=language,
        csat=answers.csat,
        nps=answers.nps,
        comment=comment,
        answered_at=answered_at,
    )
    kept = {
        name: sa.func.coalesce(survey_response.c[name], wanted.excluded[name])
        for name in ("csat", "nps", "comment")
    }
    await connection.execute(
        wanted.on_conflict_do_update(index_elements=["clinic_id", "response_id"], set_=kept)
    )


async def load_survey(connection: AsyncConnection, clinic_id: uuid.UUID, key: str) -> Survey | None:
    """The newest version of a clinic's survey; None where the clinic changed nothing."""
    row = (
        await connection.execute(
            sa.select(survey.c.version, survey.c.definition)
            .where(survey.c.clinic_id == clinic_id, survey.c.survey_key == key)
            .order_by(survey.c.version.desc())
            .limit(1)
        )
    ).one_or_none()
    if row is None:
        return None
    return Survey(
        key=key,
        version=row.version,
        wording={
            language: Wording(**wording) for language, wording in row.definition["wording"].items()
        },
        case_rule=CaseRule(**row.definition["case_rule"]),
    )


async def insert_survey(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    changed: Survey,
    *,
    changed_at: datetime,
    changed_by: str,
) -> bool:
    """Stores a new version; says False when somebody stored the same version before."""
    inserted = await connection.execute(
        insert(survey)
        .values(
            clinic_id=clinic_id,
            survey_key=changed.key,
            version=changed.version,
            definition={
                "wording": {key: asdict(wording) for key, wording in changed.wording.items()},
                "case_rule": asdict(changed.case_rule),
            },
            changed_at=changed_at,
            changed_by=changed_by,
        )
        .on_conflict_do_nothing()
        .returning(survey.c.version)
    )
    return inserted.first() is not None


async def forget_comments(
    connection: AsyncConnection, pairs: Sequence[tuple[uuid.UUID, uuid.UUID]]
) -> None:
    """Removes what erased patients wrote; their scores stay, as facts without a person."""
    await connection.execute(
        sa.text("""
            UPDATE survey_response AS t SET comment = NULL
            FROM unnest(CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]))
                AS u (clinic_id, patient_id)
            WHERE t.clinic_id = u.clinic_id AND t.patient_id = u.patient_id
                AND t.comment IS NOT NULL
        """),
        {
            "clinics": [clinic_id for clinic_id, _ in pairs],
            "patients": [patient_id for _, patient_id in pairs],
        },
    )
