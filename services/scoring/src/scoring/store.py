"""Questions of the API: scores, segments, key figures, targets."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, tzinfo
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from scoring.domain import figures
from scoring.domain.facts import zone_of
from scoring.domain.figures import Interval
from scoring.domain.segments import LIFE_SITUATION, TREATMENT_STATE, LifeSituation, TreatmentState


@dataclass(frozen=True, slots=True)
class Score:
    """What stands of a patient."""

    patient_id: UUID
    visits: int
    first_visit_at: datetime
    last_visit_at: datetime
    charged_minor: int
    currency: str | None
    life_situation: str
    treatment_state: str
    recency: int
    frequency: int
    monetary: int | None
    probability: float
    band: str
    reasons: Sequence[str]
    horizon_days: int
    model_version: str
    scored_at: datetime


@dataclass(frozen=True, slots=True)
class Target:
    """A version of a clinic's target for a key figure."""

    kpi: str
    profile: str
    version: int
    value: float
    direction: str
    definition: str


@dataclass(frozen=True, slots=True)
class InteractionCount:
    """How often something happened."""

    kind: str
    code: str | None
    count: int


async def zone_of_clinic(connection: AsyncConnection, clinic_id: UUID) -> tzinfo:
    """Gives a clinic's time zone; UTC while it is unknown."""
    found = await connection.exec_driver_sql(
        "SELECT time_zone FROM clinic WHERE clinic_id = $1", (clinic_id,)
    )
    return zone_of(found.scalar())


async def score_of(connection: AsyncConnection, clinic_id: UUID, patient_id: UUID) -> Score | None:
    """Gives a patient's score; none for somebody without a visit."""
    rows = await connection.exec_driver_sql(
        "SELECT * FROM score WHERE clinic_id = $1 AND patient_id = $2", (clinic_id, patient_id)
    )
    row = rows.first()
    return None if row is None else _score(row)


async def segment_counts(connection: AsyncConnection, clinic_id: UUID) -> dict[str, dict[str, int]]:
    """Gives the number of patients in each segment, by axis."""
    rows = await connection.exec_driver_sql(
        "SELECT life_situation, treatment_state, count(*) AS n FROM score WHERE clinic_id = $1 "
        "GROUP BY 1, 2",
        (clinic_id,),
    )
    counts: dict[str, dict[str, int]] = {
        LIFE_SITUATION: {segment.value: 0 for segment in LifeSituation},
        TREATMENT_STATE: {segment.value: 0 for segment in TreatmentState},
    }
    for row in rows:
        counts[LIFE_SITUATION][row.life_situation] += row.n
        counts[TREATMENT_STATE][row.treatment_state] += row.n
    return counts


async def patients_of_segment(
    connection: AsyncConnection, clinic_id: UUID, segment: str, after: UUID | None, limit: int
) -> list[Score]:
    """Gives a page of the patients of a segment of either axis, by id."""
    rows = await connection.exec_driver_sql(
        "SELECT * FROM score WHERE clinic_id = $1 AND $2::text IN (life_situation, treatment_state) "
        "AND ($3::uuid IS NULL OR patient_id > $3) ORDER BY patient_id LIMIT $4",
        (clinic_id, segment, after, limit),
    )
    return [_score(row) for row in rows]


async def most_at_risk(connection: AsyncConnection, clinic_id: UUID, limit: int) -> list[Score]:
    """Gives the patients with the greatest churn risk; of equal risk, those whom it costs most to lose.

    Many are at the greatest probability there is: among them more visits, then more money, come first.
    """
    rows = await connection.exec_driver_sql(
        "SELECT * FROM score WHERE clinic_id = $1 "
        "ORDER BY probability DESC, visits DESC, charged_minor DESC, patient_id LIMIT $2",
        (clinic_id, limit),
    )
    return [_score(row) for row in rows]


# A visit that names an appointment says that it was kept, whatever marks say, now or later.
_ATTENDANCE = """
SELECT count(*) FILTER (WHERE v.appointment_id IS NULL) AS missed, count(*) AS n
FROM (SELECT * FROM appointment_fact WHERE clinic_id = $1) AS a
FULL JOIN (
  SELECT DISTINCT ON (appointment_id) appointment_id, practitioner_id, completed_at
  FROM visit_fact WHERE clinic_id = $1 AND appointment_id IS NOT NULL
  ORDER BY appointment_id, completed_at, visit_id
) AS v ON v.appointment_id = a.appointment_id
WHERE (v.appointment_id IS NOT NULL OR a.status = 'no_show')
  AND coalesce(a.starts_at, v.completed_at, a.status_at) >= $2
  AND coalesce(a.starts_at, v.completed_at, a.status_at) < $3
  AND ($4::uuid IS NULL OR coalesce(v.practitioner_id, a.practitioner_id) = $4)
"""
_VISITS = """
SELECT count(*) AS n,
  count(*) FILTER (WHERE wait IS NOT NULL) AS waits,
  coalesce(sum(wait), 0)::float8 AS wait_sum, coalesce(sum(wait ^ 2), 0)::float8 AS wait_squares,
  count(*) FILTER (WHERE wait < $5::int) AS short_waits
FROM (
  SELECT CASE WHEN started_at >= arrived_at
         THEN extract(epoch FROM started_at - arrived_at) / 60 END AS wait
  FROM visit_fact WHERE clinic_id = $1 AND completed_at >= $2 AND completed_at < $3
    AND ($4::uuid IS NULL OR practitioner_id = $4)
) AS visit
"""
_RETURNS = """
SELECT count(*) AS n, count(*) FILTER (WHERE returned) AS hits FROM (
  SELECT EXISTS (
    SELECT FROM visit_fact AS later
    WHERE later.clinic_id = first.clinic_id AND later.patient_id = first.patient_id
      AND later.completed_at > first.completed_at
      AND later.completed_at <= first.completed_at + $5::int * interval '1 day'
      AND (later.completed_at AT TIME ZONE $7::text)::date > (first.completed_at AT TIME ZONE $7::text)::date
  ) AS returned
  FROM visit_fact AS first
  WHERE clinic_id = $1 AND completed_at >= $2 AND completed_at < $3
    AND ($4::uuid IS NULL OR practitioner_id = $4)
    -- Only visits observed long enough: the others could still be returned from.
    AND completed_at <= $6::timestamptz - $5::int * interval '1 day'
) AS cohort
"""
# The visit says whom the patient saw; the answer may have been given before the visit was known.
_ANSWERS = """
SELECT count(*) FILTER (WHERE a.kind = 'csat') AS csat_n,
  count(*) FILTER (WHERE a.kind = 'csat' AND score >= 4) AS csat_hits,
  count(*) FILTER (WHERE a.kind = 'nps') AS nps_n,
  count(*) FILTER (WHERE a.kind = 'nps' AND score >= 9) AS promoters,
  count(*) FILTER (WHERE a.kind = 'nps' AND score <= 6) AS detractors
FROM answer_fact AS a LEFT JOIN visit_fact AS v USING (clinic_id, visit_id)
WHERE clinic_id = $1 AND answered_at >= $2 AND answered_at < $3
  AND ($4::uuid IS NULL OR coalesce(v.practitioner_id, a.practitioner_id) = $4)
"""
# IN is answered by one reading of the clinic's answers; EXISTS, planned for few, by one for each link.
_RESPONSES = """
SELECT count(*) AS n, count(*) FILTER (WHERE answered) AS hits FROM (
  SELECT DISTINCT about_id, about_id IN (
    SELECT visit_id FROM answer_fact WHERE clinic_id = $1 AND visit_id IS NOT NULL
  ) AS answered
  FROM interaction_fact AS i LEFT JOIN visit_fact AS v ON v.clinic_id = $1 AND v.visit_id = about_id
  WHERE i.clinic_id = $1 AND i.kind = 'link.issued' AND i.code = 'survey'
    AND i.at >= $2 AND i.at < $3 AND ($4::uuid IS NULL OR v.practitioner_id = $4)
) AS asked
"""


async def key_figures(
    connection: AsyncConnection,
    clinic_id: UUID,
    start: datetime,
    end: datetime,
    practitioner_id: UUID | None,
    *,
    now: datetime,
    zone: tzinfo,
) -> dict[str, Interval]:
    """Gives the key figures of a span of time, in the order of their definitions.

    Args:
        connection: Sees the clinic.
        clinic_id: Whose.
        start: First moment.
        end: The moment after the last one.
        practitioner_id: Of one practitioner only.
        now: Up to which returns and answers could be observed.
        zone: Of the clinic.
    """
    span = (clinic_id, start, end, practitioner_id)
    attendance = await _one(connection, _ATTENDANCE, *span)
    visits = await _one(connection, _VISITS, *span, figures.SHORT_WAIT_MINUTES)
    answers = await _one(connection, _ANSWERS, *span)
    responses = await _one(connection, _RESPONSES, *span)
    found = {
        "no_show_rate": figures.share(attendance.missed, attendance.n),
        "visits": Interval(float(visits.n), None, None, visits.n),
        "waiting_minutes": figures.mean(visits.wait_sum, visits.wait_squares, visits.waits),
        "waiting_under_15_minutes": figures.share(visits.short_waits, visits.waits),
        "csat": figures.share(answers.csat_hits, answers.csat_n),
        "nps": figures.net_promoter_score(answers.promoters, answers.detractors, answers.nps_n),
        "survey_response_rate": figures.share(responses.hits, responses.n),
    }
    for kpi, days in figures.RETURN_DAYS.items():
        row = await _one(connection, _RETURNS, *span, days, now, str(zone))
        found[kpi] = figures.share(row.hits, row.n)
    return {kpi: found[kpi] for kpi in figures.DEFINITIONS}


async def interaction_counts(
    connection: AsyncConnection, clinic_id: UUID
) -> list[InteractionCount]:
    """Gives the number of interactions by kind and code."""
    rows = await connection.exec_driver_sql(
        "SELECT kind, code, count(*) AS n FROM interaction_fact WHERE clinic_id = $1 "
        "GROUP BY 1, 2 ORDER BY 1, 2",
        (clinic_id,),
    )
    return [InteractionCount(row.kind, row.code, row.n) for row in rows]


async def lock_target(
    connection: AsyncConnection, clinic_id: UUID, kpi: str, profile: str
) -> Target | None:
    """Gives the newest version of a target that nobody else can change until this transaction ends."""
    await connection.exec_driver_sql(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (f"{clinic_id} {kpi} {profile}",)
    )
    return await target_of(connection, clinic_id, kpi, profile)


async def target_of(
    connection: AsyncConnection, clinic_id: UUID, kpi: str, profile: str
) -> Target | None:
    """Gives the newest version of a target."""
    rows = await connection.exec_driver_sql(
        "SELECT * FROM target WHERE clinic_id = $1 AND kpi = $2 AND profile = $3 "
        "ORDER BY version DESC LIMIT 1",
        (clinic_id, kpi, profile),
    )
    row = rows.first()
    return None if row is None else _target(row)


async def add_target(
    connection: AsyncConnection, clinic_id: UUID, target: Target, now: datetime
) -> None:
    """Adds a version of a target; the caller holds its lock."""
    await connection.exec_driver_sql(
        "INSERT INTO target (clinic_id, kpi, profile, version, value, direction, definition, set_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        (
            clinic_id,
            target.kpi,
            target.profile,
            target.version,
            target.value,
            target.direction,
            target.definition,
            now,
        ),
    )


async def targets(connection: AsyncConnection, clinic_id: UUID) -> list[Target]:
    """Gives the newest version of each target."""
    rows = await connection.exec_driver_sql(
        "SELECT DISTINCT ON (kpi, profile) * FROM target WHERE clinic_id = $1 "
        "ORDER BY kpi, profile, version DESC",
        (clinic_id,),
    )
    return [_target(row) for row in rows]


async def _one(
    connection: AsyncConnection, statement: str, *values: object
) -> "Row[tuple[int, ...]]":
    return (await connection.exec_driver_sql(statement, values)).one()


def _score(row: "Row[tuple[object, ...]]") -> Score:
    return Score(**{field.name: getattr(row, field.name) for field in fields(Score)})


def _target(row: "Row[tuple[object, ...]]") -> Target:
    return Target(**{field.name: getattr(row, field.name) for field in fields(Target)})
