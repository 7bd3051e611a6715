"""Scoring as due work: patients whose facts changed, and patients whom time alone has changed.

Facts of a batch of patients are read in one statement, judged by `domain`, compared with what stands and
written where they differ. Runs with the worker's role: it sees who is due in all clinics, names those
clinics, and only then reads facts.
"""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, fetch, fetch_value, is_infrastructure_fault, set_clinics
from revisit_chassis.failpoint import failpoint
from revisit_events.contracts import EventData, PatientChurnRiskChanged, PatientSegmentChanged
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.feed import FeedStatus
from revisit_events.outbox import publish
from scoring.domain.assessment import Assessment, assess
from scoring.domain.churn import MODEL_VERSION, STEP, Band
from scoring.domain.facts import WINDOW, Facts, zone_of
from scoring.domain.segments import LIFE_SITUATION, TREATMENT_STATE
from scoring.facts import FORGET_SCORE
from scoring.metrics import SET_ASIDE

BATCH = 500
"""Aged patients of a transaction."""
MARKS = 1000
"""Marks of a transaction: patients whose facts changed, often several of one."""
TRIED_AGAIN_AFTER = timedelta(days=1)
SOURCE = "/scoring"

log = structlog.get_logger()

# By their places in the table, which hold for one statement: no mark is ever updated, and one that was
# deleted meanwhile (a rebuild does) is passed over.
_TAKE_CHANGED = """
DELETE FROM rescore WHERE ctid = ANY (ARRAY (
  SELECT ctid FROM rescore WHERE not_before IS NULL OR not_before <= $2 ORDER BY position LIMIT $1
)) RETURNING clinic_id, patient_id
"""
_TAKE_AGED = """
SELECT clinic_id, patient_id, review_at AS due_at FROM score WHERE review_at <= $2
ORDER BY review_at, clinic_id, patient_id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
# Who never had a score keeps the mark in place of a review.
_LATER = """
WITH put_off AS (
  UPDATE score SET review_at = $3 WHERE clinic_id = $1 AND patient_id = $2 RETURNING patient_id
)
INSERT INTO rescore (clinic_id, patient_id, not_before)
SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM put_off)
"""
# A visit decides over marks: an appointment that one names was kept, and is neither ahead nor missed.
# Money of another currency than the clinic's is in no sum.
_FACTS = """
SELECT given.clinic_id, given.patient_id, given.due_at, c.time_zone, c.currency,
  v.visits, v.first_visit_at, v.last_visit_at, v.charged_minor, v.last_outcome, v.complaint_visits,
  v.recent_visits, v.recent_since, v.recent_charged_minor,
  q.charged_minor AS average_cheque_minor, r.interval_days AS service_interval_days,
  a.booked_until, a.last_no_show_at,
  (SELECT max(s.answered_at) FROM answer_fact AS s
   WHERE s.clinic_id = given.clinic_id AND s.patient_id = given.patient_id
     AND (s.kind = 'csat' AND s.score <= 2 OR s.kind = 'nps' AND s.score <= 6)
  ) AS last_low_score_at,
  p.birth_year, p.family_id, p.payer, p.employer_id, coalesce(p.is_chronic, false) AS is_chronic,
  p.erased_at IS NOT NULL AS is_erased,
  s.life_situation, s.treatment_state, s.band, s.told_probability, s.version
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS given (clinic_id, patient_id, due_at)
LEFT JOIN clinic AS c ON c.clinic_id = given.clinic_id
LEFT JOIN LATERAL (
  SELECT count(*) AS visits, min(completed_at) AS first_visit_at, max(completed_at) AS last_visit_at,
    coalesce(sum(charged_minor) FILTER (WHERE is_own_currency), 0)::bigint AS charged_minor,
    (array_agg(outcome ORDER BY completed_at DESC, visit_id))[1] AS last_outcome,
    (array_agg(service_code ORDER BY completed_at DESC, visit_id))[1] AS last_service_code,
    count(*) FILTER (WHERE kind = 'complaint') AS complaint_visits,
    count(*) FILTER (WHERE is_recent) AS recent_visits,
    min(completed_at) FILTER (WHERE is_recent) AS recent_since,
    coalesce(sum(charged_minor) FILTER (WHERE is_recent AND is_own_currency), 0)::bigint
      AS recent_charged_minor
  FROM (
    SELECT *, completed_at > given.due_at - $4::interval AS is_recent,
      currency IS NULL OR currency IS NOT DISTINCT FROM c.currency AS is_own_currency
    FROM visit_fact AS f WHERE f.clinic_id = given.clinic_id AND f.patient_id = given.patient_id
  ) AS f
) AS v ON true
LEFT JOIN LATERAL (
  SELECT
    max(a.starts_at) FILTER (
      WHERE a.status IN ('booked', 'confirmed', 'arrived') AND a.starts_at > given.due_at
    ) AS booked_until,
    max(a.status_at) FILTER (WHERE a.status = 'no_show') AS last_no_show_at
  FROM appointment_fact AS a
  WHERE a.clinic_id = given.clinic_id AND a.patient_id = given.patient_id
    AND NOT EXISTS (
      SELECT FROM visit_fact AS f
      WHERE f.clinic_id = a.clinic_id AND f.patient_id = a.patient_id
        AND f.appointment_id = a.appointment_id
    )
) AS a ON true
LEFT JOIN patient AS p ON p.clinic_id = given.clinic_id AND p.patient_id = given.patient_id
LEFT JOIN service_rhythm AS r
  ON r.clinic_id = given.clinic_id AND r.service_code = v.last_service_code
LEFT JOIN average_cheque AS q ON q.clinic_id = given.clinic_id
LEFT JOIN score AS s ON s.clinic_id = given.clinic_id AND s.patient_id = given.patient_id
"""
_WRITE = """
INSERT INTO score AS t (clinic_id, patient_id, visits, first_visit_at, last_visit_at, charged_minor,
  currency, life_situation, treatment_state, recency, frequency, monetary, probability,
  told_probability, band, reasons, horizon_days, model_version, scored_at, review_at)
SELECT clinic_id, patient_id, visits, first_visit_at, last_visit_at, charged_minor, currency,
  life_situation, treatment_state, recency, frequency, monetary, probability, told_probability, band,
  string_to_array(reasons, ' '), horizon_days, $20, scored_at, review_at
FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::timestamptz[], $5::timestamptz[], $6::bigint[],
  $7::text[], $8::text[], $9::text[], $10::smallint[], $11::smallint[], $12::smallint[],
  $13::float8[], $14::float8[], $15::text[], $16::text[], $17::int[], $18::timestamptz[],
  $19::timestamptz[])
  AS given (clinic_id, patient_id, visits, first_visit_at, last_visit_at, charged_minor, currency,
    life_situation, treatment_state, recency, frequency, monetary, probability, told_probability,
    band, reasons, horizon_days, scored_at, review_at)
ORDER BY clinic_id, patient_id
ON CONFLICT (clinic_id, patient_id) DO UPDATE SET
  visits = excluded.visits, first_visit_at = excluded.first_visit_at,
  last_visit_at = excluded.last_visit_at, charged_minor = excluded.charged_minor,
  currency = excluded.currency, life_situation = excluded.life_situation,
  treatment_state = excluded.treatment_state, recency = excluded.recency,
  frequency = excluded.frequency, monetary = excluded.monetary, probability = excluded.probability,
  told_probability = excluded.told_probability, band = excluded.band, reasons = excluded.reasons,
  horizon_days = excluded.horizon_days, model_version = excluded.model_version,
  scored_at = excluded.scored_at, review_at = excluded.review_at, version = t.version + 1
"""

Due = tuple[uuid.UUID, uuid.UUID, datetime]
"""Clinic, patient, and the moment as of which to judge."""


@dataclass(frozen=True, slots=True)
class Told:
    """What stands of a patient who was scored before."""

    life_situation: str
    treatment_state: str
    band: str
    probability: float
    version: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A patient with what was read and what follows from it."""

    clinic_id: uuid.UUID
    patient_id: uuid.UUID
    at: datetime
    facts: Facts
    charged_minor: int
    currency: str | None
    assessment: Assessment
    before: Told | None

    @property
    def version(self) -> int:
        """The version of the score that is written."""
        return self.before.version + 1 if self.before else 1

    @property
    def told_probability(self) -> float:
        """The probability that others know after this: the last one told, unless it moved enough."""
        churn, before = self.assessment.churn, self.before
        if before is None or before.band != churn.band:
            return churn.probability
        # Stored probabilities have four digits; their difference has the noise of floats beyond.
        has_moved = round(abs(churn.probability - before.probability), 4) >= STEP
        return churn.probability if has_moved else before.probability


class Rescore:
    """Scores patients whose facts changed, and those whom time alone has moved.

    One kind of work, under one lock: two scorers at once would tell two changes under one version.

    Args:
        database: With the worker's role.
        feed: Of the consumer in the same process; amid a flood of events changes wait until it is over.
    """

    name = "rescore"

    def __init__(self, database: Database, feed: FeedStatus) -> None:
        self._database = database
        self._feed = feed

    async def run_due(self, clock: Clock) -> int:
        """Scores a batch; gives how many patients."""
        done = 0
        if not self._feed.is_flooded:
            done = await self._score("changed", self._take_changed, clock)
        return done or await self._score("aged", self._take_aged, clock)

    async def next_due_at(self) -> datetime | None:
        """Gives when the next patient is due; a change is due at once."""
        async with self._database.single() as connection:
            moment: datetime | None = await fetch_value(
                connection,
                "SELECT CASE WHEN EXISTS (SELECT FROM rescore WHERE not_before IS NULL) "
                "THEN '2000-01-01Z'::timestamptz ELSE least("
                "(SELECT min(review_at) FROM score), (SELECT min(not_before) FROM rescore)) END",
            )
        return moment

    async def _score(
        self,
        work: str,
        take: Callable[[AsyncConnection, Clock], Awaitable[list[Due]]],
        clock: Clock,
    ) -> int:
        due: list[Due] = []
        try:
            async with self._database.connect() as connection:
                due = await take(connection, clock)
                await _rescore(connection, due)
                if due:
                    failpoint("rescore.before_commit")
        except Exception as error:
            if is_infrastructure_fault(error) or not due:
                raise
            # Without the text: a driver's error repeats the values it was given.
            cause = type(error).__name__
            log.error("scoring.batch_failed", work=work, patients=len(due), error=cause)  # noqa: TRY400
        else:
            return len(due)
        # The batch was rolled back with its marks: each patient alone, so that one harms no other.
        async with self._database.connect() as connection:
            due = await take(connection, clock)
            for one in due:
                await self._score_alone(connection, work, one, clock)
        return len(due)

    async def _score_alone(
        self, connection: AsyncConnection, work: str, one: Due, clock: Clock
    ) -> None:
        clinic_id, patient_id, _ = one
        try:
            async with connection.begin_nested():
                await _rescore(connection, [one])
        except Exception as error:
            if is_infrastructure_fault(error):
                raise
            SET_ASIDE.labels(work).inc()
            log.error(  # noqa: TRY400
                "scoring.set_aside",
                work=work,
                clinic_id=str(clinic_id),
                patient_id=str(patient_id),
                error=type(error).__name__,
            )
            await set_clinics(connection, [clinic_id])
            await fetch(connection, _LATER, clinic_id, patient_id, clock.now() + TRIED_AGAIN_AFTER)

    @staticmethod
    async def _take_changed(connection: AsyncConnection, clock: Clock) -> list[Due]:
        # Marks are taken off before facts are read: a mark that comes meanwhile stays.
        rows = await fetch(connection, _TAKE_CHANGED, MARKS, clock.now())
        now = clock.now()
        return [(*pair, now) for pair in sorted({(row.clinic_id, row.patient_id) for row in rows})]

    @staticmethod
    async def _take_aged(connection: AsyncConnection, clock: Clock) -> list[Due]:
        """Takes patients, each to be judged as of the day on which it was due."""
        rows = await fetch(connection, _TAKE_AGED, BATCH, clock.now())
        return [(row.clinic_id, row.patient_id, clock.at(row.due_at)) for row in rows]


async def _rescore(connection: AsyncConnection, due: Sequence[Due]) -> None:
    """Scores patients from their facts and publishes what changed."""
    if not due:
        return
    await set_clinics(connection, {clinic_id for clinic_id, _, _ in due})
    judged, gone = await _judge(connection, due)
    if gone:
        await fetch(
            connection,
            FORGET_SCORE,
            [clinic_id for clinic_id, _ in gone],
            [patient_id for _, patient_id in gone],
        )
    await _write(connection, judged)
    await publish(connection, [event for one in judged for event in _changes(one)])


async def _judge(
    connection: AsyncConnection, due: Sequence[Due]
) -> tuple[list[Judged], list[tuple[uuid.UUID, uuid.UUID]]]:
    """Gives those who can be judged, and those who have no visit or were erased."""
    rows = await fetch(
        connection, _FACTS, [d[0] for d in due], [d[1] for d in due], [d[2] for d in due], WINDOW
    )
    judged, gone = [], []
    for row in rows:
        if not row.visits or row.is_erased:
            gone.append((row.clinic_id, row.patient_id))
            continue
        facts = Facts(**{field.name: getattr(row, field.name) for field in fields(Facts)})
        before = None
        if row.version is not None:
            before = Told(
                row.life_situation, row.treatment_state, row.band, row.told_probability, row.version
            )
        judged.append(
            Judged(
                clinic_id=row.clinic_id,
                patient_id=row.patient_id,
                at=row.due_at,
                facts=facts,
                charged_minor=row.charged_minor,
                currency=row.currency,
                assessment=assess(facts, row.due_at.astimezone(zone_of(row.time_zone))),
                before=before,
            )
        )
    return judged, gone


async def _write(connection: AsyncConnection, judged: Sequence[Judged]) -> None:
    if not judged:
        return
    found = [one.assessment for one in judged]
    await fetch(
        connection,
        _WRITE,
        [one.clinic_id for one in judged],
        [one.patient_id for one in judged],
        [one.facts.visits for one in judged],
        [one.facts.first_visit_at for one in judged],
        [one.facts.last_visit_at for one in judged],
        [one.charged_minor for one in judged],
        [one.currency for one in judged],
        [verdict.life_situation.value for verdict in found],
        [verdict.treatment_state.value for verdict in found],
        [verdict.rfm.recency for verdict in found],
        [verdict.rfm.frequency for verdict in found],
        [verdict.rfm.monetary for verdict in found],
        [verdict.churn.probability for verdict in found],
        [one.told_probability for one in judged],
        [verdict.churn.band.value for verdict in found],
        [" ".join(verdict.churn.reasons) for verdict in found],
        [verdict.churn.horizon_days for verdict in found],
        [one.at for one in judged],
        [verdict.review_at for verdict in found],
        MODEL_VERSION,
    )


def _changes(one: Judged) -> list[AnyEvent]:
    found, before = one.assessment, one.before
    events: list[AnyEvent] = []
    for axis, left, entered in (
        (LIFE_SITUATION, before and before.life_situation, found.life_situation.value),
        (TREATMENT_STATE, before and before.treatment_state, found.treatment_state.value),
    ):
        if left != entered:
            data = PatientSegmentChanged(
                patient_id=one.patient_id, axis=axis, from_=left or None, to=entered
            )
            events.append(_own(one, data, axis))
    # A first, low risk is no news.
    is_first = before is None and found.churn.band is not Band.LOW
    if is_first or (before is not None and one.told_probability != before.probability):
        risk = PatientChurnRiskChanged(
            patient_id=one.patient_id,
            probability=found.churn.probability,
            band=found.churn.band.value,
            horizon_days=found.churn.horizon_days,
            main_reasons=found.churn.reasons,
            model_version=MODEL_VERSION,
        )
        events.append(_own(one, risk, "churn"))
    return events


def _own(one: Judged, data: EventData, what: str) -> AnyEvent:
    return new_event(
        data,
        source=SOURCE,
        clinic_id=one.clinic_id,
        time=one.at,
        sequence=one.version,
        # The same change is the same event, however often its transaction is tried; a patient who
        # was forgotten and came back begins anew at version 1, at another moment.
        id=f"{what}-{one.patient_id}-{one.version}-{one.at.isoformat()}",
    )
