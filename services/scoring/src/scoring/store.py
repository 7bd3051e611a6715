"""Questions of the API: scores, segments, key figures, targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from scoring import domain
from scoring.domain import Interval

KPIS = (
    "no_show_rate",
    "visits",
    "waiting_minutes",
    "waiting_under_15_minutes",
    "return_6_months",
    "return_12_months",
    "csat",
    "nps",
)


@dataclass(frozen=True, slots=True)
class Kpi:
    """A key figure with what it was counted over."""

    key: str
    found: Interval
    unit: str
    population: str
    exclusions: str


async def score_of(connection: AsyncConnection, patient_id: UUID) -> Any | None:
    """Gives a patient's score row; none for somebody without a visit."""
    rows = await connection.exec_driver_sql(
        "SELECT * FROM score WHERE patient_id = $1 "
        "AND clinic_id = ANY (current_setting('app.clinics')::uuid[])",
        (patient_id,),
    )
    return rows.first()


async def segment_counts(connection: AsyncConnection, clinic_id: UUID) -> dict[str, dict[str, int]]:
    """Gives the number of patients in each segment, by axis."""
    rows = await connection.exec_driver_sql(
        "SELECT segment_group, segment_standing, count(*) AS n FROM score WHERE clinic_id = $1 "
        "GROUP BY 1, 2",
        (clinic_id,),
    )
    counts: dict[str, dict[str, int]] = {
        "life_situation": {segment.value: 0 for segment in domain.Group},
        "treatment_state": {segment.value: 0 for segment in domain.Standing},
    }
    for row in rows:
        counts["life_situation"][row.segment_group] += row.n
        counts["treatment_state"][row.segment_standing] += row.n
    return counts


async def patients_of_segment(
    connection: AsyncConnection, clinic_id: UUID, segment: str, after: UUID | None, limit: int
) -> Sequence[Any]:
    """Gives a page of the patients of a segment of either axis, by id."""
    rows = await connection.exec_driver_sql(
        "SELECT * FROM score WHERE clinic_id = $1 AND $2::text IN (segment_group, segment_standing) "
        "AND ($3::uuid IS NULL OR patient_id > $3) ORDER BY patient_id LIMIT $4",
        (clinic_id, segment, after, limit),
    )
    return rows.all()


async def most_at_risk(connection: AsyncConnection, clinic_id: UUID, limit: int) -> Sequence[Any]:
    """Gives the patients with the greatest churn risk, the greatest first."""
    rows = await connection.exec_driver_sql(
        "SELECT * FROM score WHERE clinic_id = $1 ORDER BY probability DESC, patient_id LIMIT $2",
        (clinic_id, limit),
    )
    return rows.all()


_ATTENDANCE = """
SELECT count(*) FILTER (WHERE status = 'no_show') AS missed,
       count(*) FILTER (WHERE status IN ('completed', 'no_show')) AS n
FROM appointment_fact
WHERE clinic_id = $1 AND coalesce(starts_at, status_at) >= $2 AND coalesce(starts_at, status_at) < $3
  AND ($4::uuid IS NULL OR practitioner_id = $4)
"""
_VISITS = """
SELECT count(*) AS n,
  count(*) FILTER (WHERE wait IS NOT NULL) AS waits,
  coalesce(sum(wait), 0)::float8 AS wait_sum, coalesce(sum(wait ^ 2), 0)::float8 AS wait_squares,
  count(*) FILTER (WHERE wait < 15) AS short_waits
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
  ) AS returned
  FROM visit_fact AS first
  WHERE clinic_id = $1 AND completed_at >= $2 AND completed_at < $3
    AND ($4::uuid IS NULL OR practitioner_id = $4)
    -- Only visits observed long enough: the others could still be returned from.
    AND completed_at <= $6::timestamptz - $5::int * interval '1 day'
) AS cohort
"""
_ANSWERS = """
SELECT count(*) FILTER (WHERE kind = 'csat') AS csat_n,
  count(*) FILTER (WHERE kind = 'csat' AND score >= 4) AS csat_hits,
  count(*) FILTER (WHERE kind = 'nps') AS nps_n,
  count(*) FILTER (WHERE kind = 'nps' AND score >= 9) AS promoters,
  count(*) FILTER (WHERE kind = 'nps' AND score <= 6) AS detractors
FROM answer_fact
WHERE clinic_id = $1 AND answered_at >= $2 AND answered_at < $3
  AND ($4::uuid IS NULL OR practitioner_id = $4)
"""


async def key_figures(
    connection: AsyncConnection,
    clinic_id: UUID,
    start: datetime,
    end: datetime,
    practitioner_id: UUID | None,
    now: datetime,
) -> list[Kpi]:
    """Gives the key figures of a span of time.

    Args:
        connection: Sees the clinic.
        clinic_id: Whose.
        start: First moment.
        end: The moment after the last one.
        practitioner_id: Of one practitioner only.
        now: Up to which returns could be observed.
    """
    span = (clinic_id, start, end, practitioner_id)
    attendance = (await connection.exec_driver_sql(_ATTENDANCE, span)).one()
    visits = (await connection.exec_driver_sql(_VISITS, span)).one()
    answers = (await connection.exec_driver_sql(_ANSWERS, span)).one()
    figures = [
        Kpi(
            "no_show_rate",
            domain.share(attendance.missed, attendance.n),
            "share",
            "appointments that were completed or missed, by their planned start",
            "cancelled, rescheduled and open appointments; visits without an appointment",
        ),
        Kpi(
            "visits",
            Interval(float(visits.n), None, None, visits.n),
            "visits",
            "completed visits, by their end",
            "none",
        ),
        Kpi(
            "waiting_minutes",
            domain.mean(visits.wait_sum, visits.wait_squares, visits.waits),
            "minutes",
            "completed visits with arrival and start",
            "visits without either time, or started before arrival",
        ),
        Kpi(
            "waiting_under_15_minutes",
            domain.share(visits.short_waits, visits.waits),
            "share",
            "completed visits with arrival and start",
            "visits without either time, or started before arrival",
        ),
        Kpi(
            "csat",
            domain.share(answers.csat_hits, answers.csat_n),
            "share",
            "answers to the satisfaction question; 4 and 5 of 5 count",
            "questions left open",
        ),
        Kpi(
            "nps",
            domain.net_promoter_score(answers.promoters, answers.detractors, answers.nps_n),
            "points",
            "answers to the recommendation question",
            "questions left open",
        ),
    ]
    for months, days in ((6, 182), (12, 365)):
        row = (await connection.exec_driver_sql(_RETURNS, (*span, days, now))).one()
        figures.append(
            Kpi(
                f"return_{months}_months",
                domain.share(row.hits, row.n),
                "share",
                f"completed visits at least {days} days ago",
                "visits not yet observed so long",
            )
        )
    return figures


async def interaction_counts(connection: AsyncConnection, clinic_id: UUID) -> Sequence[Any]:
    """Gives the number of interactions by kind and code."""
    rows = await connection.exec_driver_sql(
        "SELECT kind, code, count(*) AS count FROM interaction_fact WHERE clinic_id = $1 "
        "GROUP BY 1, 2 ORDER BY 1, 2",
        (clinic_id,),
    )
    return rows.all()


async def set_target(
    connection: AsyncConnection,
    clinic_id: UUID,
    *,
    kpi: str,
    profile: str,
    value: float,
    direction: str,
    definition: str,
    now: datetime,
) -> int:
    """Adds a version of a target unless it says the same as the newest; gives the number that stands."""
    await connection.exec_driver_sql(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (f"{clinic_id} {kpi} {profile}",)
    )
    newest = (
        await connection.exec_driver_sql(
            "SELECT * FROM target WHERE clinic_id = $1 AND kpi = $2 AND profile = $3 "
            "ORDER BY version DESC LIMIT 1",
            (clinic_id, kpi, profile),
        )
    ).first()
    said = (value, direction, definition)
    if newest is not None and (newest.value, newest.direction, newest.definition) == said:
        return int(newest.version)
    version = 1 if newest is None else newest.version + 1
    await connection.exec_driver_sql(
        "INSERT INTO target (clinic_id, kpi, profile, version, value, direction, definition, set_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        (clinic_id, kpi, profile, version, *said, now),
    )
    return int(version)


async def targets(connection: AsyncConnection, clinic_id: UUID) -> Sequence[Any]:
    """Gives the newest version of each target."""
    rows = await connection.exec_driver_sql(
        "SELECT DISTINCT ON (kpi, profile) * FROM target WHERE clinic_id = $1 "
        "ORDER BY kpi, profile, version DESC",
        (clinic_id,),
    )
    return rows.all()
