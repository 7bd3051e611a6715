"""Scoring as due work: patients whose facts changed, and patients whom time alone has changed.

Facts of up to 500 patients are read in one statement, judged by `domain`, compared with what stands and
written where they differ. Runs with the worker's role: it sees who is due in all clinics, names those
clinics, and only then reads facts.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, set_clinics
from revisit_events.consumer import FeedStatus
from revisit_events.contracts import PatientChurnRiskChanged, PatientSegmentChanged
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.outbox import publish
from scoring.domain import HORIZON_DAYS, MODEL_VERSION, STEP, Assessment, Facts, assess

BATCH = 500
MARKS = 1000
SOURCE = "/scoring"

_TAKE_CHANGED = """
SELECT clinic_id, patient_id, position FROM rescore ORDER BY position LIMIT $1
"""
_FORGET_CHANGED = "DELETE FROM rescore WHERE position = ANY ($1::bigint[])"
_TAKE_AGED = """
SELECT clinic_id, patient_id, review_at AS due_at FROM score WHERE review_at <= $2
ORDER BY review_at, clinic_id, patient_id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
_FACTS = """
SELECT given.clinic_id, given.patient_id, given.due_at,
  v.visits, v.first_visit_at, v.last_visit_at, v.charged_minor, v.last_outcome, v.complaint_visits,
  r.interval_days AS service_interval_days,
  EXISTS (
    SELECT FROM appointment_fact AS a
    WHERE a.clinic_id = given.clinic_id AND a.patient_id = given.patient_id
      AND a.status IN ('booked', 'confirmed', 'arrived', 'in_progress') AND a.starts_at > given.due_at
  ) AS has_future_booking,
  (SELECT max(a.status_at) FROM appointment_fact AS a
   WHERE a.clinic_id = given.clinic_id AND a.patient_id = given.patient_id AND a.status = 'no_show'
  ) AS last_no_show_at,
  (SELECT max(s.answered_at) FROM answer_fact AS s
   WHERE s.clinic_id = given.clinic_id AND s.patient_id = given.patient_id
     AND (s.kind = 'csat' AND s.score <= 2 OR s.kind = 'nps' AND s.score <= 6)
  ) AS last_low_score_at,
  p.birth_year, p.family_id, p.payer, p.employer_id, p.is_chronic, p.erased_at,
  s.segment_group, s.segment_standing, s.band, s.told_probability, s.version
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS given (clinic_id, patient_id, due_at)
LEFT JOIN LATERAL (
  SELECT count(*) AS visits, min(completed_at) AS first_visit_at, max(completed_at) AS last_visit_at,
    coalesce(sum(charged_minor), 0) AS charged_minor,
    (array_agg(outcome ORDER BY completed_at DESC, visit_id))[1] AS last_outcome,
    (array_agg(service_code ORDER BY completed_at DESC, visit_id))[1] AS last_service_code,
    count(*) FILTER (WHERE kind = 'complaint') AS complaint_visits
  FROM visit_fact AS f WHERE f.clinic_id = given.clinic_id AND f.patient_id = given.patient_id
) AS v ON true
LEFT JOIN patient AS p ON p.clinic_id = given.clinic_id AND p.patient_id = given.patient_id
LEFT JOIN service_rhythm AS r
  ON r.clinic_id = given.clinic_id AND r.service_code = v.last_service_code
LEFT JOIN score AS s ON s.clinic_id = given.clinic_id AND s.patient_id = given.patient_id
"""
_WRITE = """
INSERT INTO score AS t (clinic_id, patient_id, visits, first_visit_at, last_visit_at, charged_minor,
  segment_group, segment_standing, probability, told_probability, band, reasons, model_version,
  scored_at, review_at)
SELECT clinic_id, patient_id, visits, first_visit_at, last_visit_at, charged_minor, segment_group,
  segment_standing, probability, told_probability, band, string_to_array(reasons, ' '), $12,
  scored_at, review_at
FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::timestamptz[], $5::timestamptz[], $6::bigint[],
  $7::text[], $8::text[], $9::float8[], $10::float8[], $11::text[], $13::text[], $14::timestamptz[],
  $15::timestamptz[])
  AS given (clinic_id, patient_id, visits, first_visit_at, last_visit_at, charged_minor,
    segment_group, segment_standing, probability, told_probability, band, reasons, scored_at, review_at)
ORDER BY clinic_id, patient_id
ON CONFLICT (clinic_id, patient_id) DO UPDATE SET
  visits = excluded.visits, first_visit_at = excluded.first_visit_at,
  last_visit_at = excluded.last_visit_at, charged_minor = excluded.charged_minor,
  segment_group = excluded.segment_group, segment_standing = excluded.segment_standing,
  probability = excluded.probability, told_probability = excluded.told_probability,
  band = excluded.band, reasons = excluded.reasons, model_version = excluded.model_version,
  scored_at = excluded.scored_at, review_at = excluded.review_at, version = t.version + 1
"""
_REMOVE = """
DELETE FROM score USING unnest($1::uuid[], $2::uuid[]) AS given (clinic_id, patient_id)
WHERE score.clinic_id = given.clinic_id AND score.patient_id = given.patient_id
"""


@dataclass(frozen=True, slots=True)
class Judged:
    """A patient with what was read and what follows from it."""

    row: Any
    assessment: Assessment
    told_probability: float
    at: datetime


class Rescore:
    """Scores patients whose facts changed, and those whom time alone has moved.

    One kind of work, under one lock: two scorers at once would tell two changes under one version.

    Args:
        database: With the worker's role.
        feed: Of the consumer; during a flood of events changes wait until they are taken in.
    """

    name = "rescore"

    def __init__(self, database: Database, feed: FeedStatus) -> None:
        self._database = database
        self._feed = feed

    async def run_due(self, clock: Clock) -> int:
        """Scores a batch; gives how many patients."""
        done = 0 if self._feed.is_flooded else await self._score_changed(clock)
        return done or await self._score_aged(clock)

    async def next_due_at(self) -> datetime | None:
        """Gives when the next patient is due; a change is due at once."""
        async with self._database.single() as connection:
            found = await connection.exec_driver_sql(
                "SELECT CASE WHEN EXISTS (SELECT FROM rescore) THEN '2000-01-01Z'::timestamptz "
                "ELSE (SELECT min(review_at) FROM score) END"
            )
            moment: datetime | None = found.scalar()
        return moment

    async def _score_changed(self, clock: Clock) -> int:
        async with self._database.connect() as connection:
            rows = (await connection.exec_driver_sql(_TAKE_CHANGED, (MARKS,))).all()
            if not rows:
                return 0
            # Marks are taken off before facts are read: a mark that comes meanwhile stays.
            await connection.exec_driver_sql(_FORGET_CHANGED, ([row.position for row in rows],))
            now = clock.now()
            due = [
                (*pair, now) for pair in sorted({(row.clinic_id, row.patient_id) for row in rows})
            ]
            await _name_clinics(connection, due)
            await rescore(connection, due)
        return len(due)

    async def _score_aged(self, clock: Clock) -> int:
        """Scores each patient as of the day on which it was due."""
        async with self._database.connect() as connection:
            rows = await connection.exec_driver_sql(_TAKE_AGED, (BATCH, clock.now()))
            due = [(row.clinic_id, row.patient_id, clock.at(row.due_at)) for row in rows]
            if due:
                await _name_clinics(connection, due)
                await rescore(connection, due)
        return len(due)


async def _name_clinics(
    connection: AsyncConnection, due: Sequence[tuple[uuid.UUID, uuid.UUID, datetime]]
) -> None:
    await set_clinics(connection, {clinic_id for clinic_id, _, _ in due})


async def rescore(
    connection: AsyncConnection, due: Sequence[tuple[uuid.UUID, uuid.UUID, datetime]]
) -> None:
    """Scores patients from their facts and publishes what changed.

    Args:
        connection: In a transaction that sees their clinics.
        due: Clinic, patient, and the moment as of which to judge.
    """
    rows = (
        await connection.exec_driver_sql(
            _FACTS, ([d[0] for d in due], [d[1] for d in due], [d[2] for d in due])
        )
    ).all()
    gone = [row for row in rows if not row.visits or row.erased_at is not None]
    if gone:
        await connection.exec_driver_sql(
            _REMOVE, ([row.clinic_id for row in gone], [row.patient_id for row in gone])
        )
    judged = [_judge(row) for row in rows if row.visits and row.erased_at is None]
    await _write(connection, judged)
    await publish(connection, [event for one in judged for event in _changes(one)])


def _judge(row: Any) -> Judged:
    facts = Facts(
        visits=row.visits,
        first_visit_at=row.first_visit_at,
        last_visit_at=row.last_visit_at,
        charged_minor=int(row.charged_minor),
        last_outcome=row.last_outcome,
        complaint_visits=row.complaint_visits,
        service_interval_days=row.service_interval_days,
        has_future_booking=row.has_future_booking,
        last_no_show_at=row.last_no_show_at,
        last_low_score_at=row.last_low_score_at,
        birth_year=row.birth_year,
        family_id=row.family_id,
        payer=row.payer,
        employer_id=row.employer_id,
        is_chronic=bool(row.is_chronic),
    )
    assessment = assess(facts, row.due_at)
    churn = assessment.churn
    is_told = (
        row.band is not None
        and row.band == churn.band
        and abs(churn.probability - row.told_probability) < STEP
    )
    told = row.told_probability if is_told else churn.probability
    return Judged(row, assessment, told, row.due_at)


async def _write(connection: AsyncConnection, judged: Sequence[Judged]) -> None:
    if not judged:
        return
    churns = [one.assessment.churn for one in judged]
    await connection.exec_driver_sql(
        _WRITE,
        (
            [one.row.clinic_id for one in judged],
            [one.row.patient_id for one in judged],
            [one.row.visits for one in judged],
            [one.row.first_visit_at for one in judged],
            [one.row.last_visit_at for one in judged],
            [int(one.row.charged_minor) for one in judged],
            [one.assessment.group.value for one in judged],
            [one.assessment.standing.value for one in judged],
            [churn.probability for churn in churns],
            [one.told_probability for one in judged],
            [churn.band.value for churn in churns],
            MODEL_VERSION,
            [" ".join(churn.reasons) for churn in churns],
            [one.at for one in judged],
            [one.assessment.review_at for one in judged],
        ),
    )


def _changes(one: Judged) -> list[AnyEvent]:
    row, found = one.row, one.assessment
    version = (row.version or 0) + 1
    events: list[AnyEvent] = []
    for axis, before, after in (
        ("life_situation", row.segment_group, found.group.value),
        ("treatment_state", row.segment_standing, found.standing.value),
    ):
        if before != after:
            data = PatientSegmentChanged.model_validate(
                {"patient_id": row.patient_id, "axis": axis, "from": before, "to": after}
            )
            events.append(_own(row, data, one.at, version, axis))
    # A first, low risk is no news.
    is_news = row.band is not None or found.churn.band != "low"
    if is_news and (row.told_probability is None or one.told_probability != row.told_probability):
        risk = PatientChurnRiskChanged(
            patient_id=row.patient_id,
            probability=found.churn.probability,
            band=found.churn.band.value,
            horizon_days=HORIZON_DAYS,
            main_reasons=found.churn.reasons,
            model_version=MODEL_VERSION,
        )
        events.append(_own(row, risk, one.at, version, "churn"))
    return events


def _own(row: Any, data: Any, at: datetime, version: int, what: str) -> AnyEvent:
    return new_event(
        data,
        source=SOURCE,
        clinic_id=row.clinic_id,
        time=at,
        sequence=version,
        # The same change is the same event, however often its transaction is tried; a patient who
        # was forgotten and came back begins anew at version 1, at another moment.
        id=f"{what}-{row.patient_id}-{version}-{at.isoformat()}",
    )
