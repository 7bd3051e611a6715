"""The 2Z statement as queries: computed from the facts as they stand, at any moment.

It reads no result of the repair, so what the repair believes and what is true can be compared.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.two_z.domain import ACTIVE_STATUSES, State
from engagement.two_z.tables import BOOKED_UNTIL


@dataclass(frozen=True, slots=True)
class Counts:
    """Patients in scope by state, each counted once."""

    released: int
    booked: int
    task_open: int
    violations: int

    @property
    def in_scope(self) -> int:
        """Patients whose deadline has passed."""
        return self.released + self.booked + self.task_open + self.violations


_JUDGED = f"""
    WITH in_scope AS (
        SELECT patient_id, max(completed_at) AS completed_at FROM visit
        WHERE clinic_id = :clinic_id AND completed_at < :today_since
            AND completed_at >= (SELECT live_from FROM clinic WHERE clinic_id = :clinic_id)
        GROUP BY patient_id
    ), judged AS (
        SELECT s.patient_id, CASE
            WHEN EXISTS (
                SELECT FROM patient AS p WHERE p.clinic_id = :clinic_id
                    AND p.patient_id = s.patient_id AND p.erased_at IS NOT NULL
            ) OR EXISTS (
                SELECT FROM release AS r WHERE r.clinic_id = :clinic_id
                    AND r.patient_id = s.patient_id AND r.released_at >= s.completed_at
            ) THEN 'released'
            WHEN EXISTS (
                SELECT FROM appointment AS a WHERE a.clinic_id = :clinic_id
                    AND a.patient_id = s.patient_id AND {BOOKED_UNTIL} > :now
                    AND a.status = ANY (CAST(:active AS text[]))
            ) THEN 'booked'
            WHEN EXISTS (
                SELECT FROM task AS t WHERE t.clinic_id = :clinic_id
                    AND t.patient_id = s.patient_id AND t.outcome IS NULL AND t.expires_at > :now
            ) THEN 'task_open'
            ELSE 'violation' END AS state
        FROM in_scope AS s
    )
"""  # noqa: S608  # built of constants
_COUNTS = sa.text(
    f"{_JUDGED} SELECT state, count(*) AS patients FROM judged GROUP BY state"  # noqa: S608
)
_VIOLATIONS = sa.text(f"""
    {_JUDGED}
    SELECT patient_id FROM judged
    WHERE state = 'violation' AND (CAST(:after AS uuid) IS NULL OR patient_id > :after)
    ORDER BY patient_id LIMIT :limit
""")  # noqa: S608  # both parts are constants


async def counts(
    connection: AsyncConnection, clinic_id: uuid.UUID, today_since: datetime, now: datetime
) -> Counts:
    """The statement's numbers, computed from the facts as they stand.

    Visits completed before `today_since`, the first moment of the clinic's local day, are due;
    appointments and tasks are judged at `now`.
    """
    rows = await connection.execute(_COUNTS, _moment(clinic_id, today_since, now))
    found: dict[str, int] = {row.state: row.patients for row in rows}
    return Counts(
        released=found.get(State.RELEASED, 0),
        booked=found.get(State.BOOKED, 0),
        task_open=found.get(State.TASK_OPEN, 0),
        violations=found.get(State.VIOLATION, 0),
    )


async def violations(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    today_since: datetime,
    now: datetime,
    *,
    after: uuid.UUID | None,
    limit: int,
) -> list[uuid.UUID]:
    """Patients in none of the three states, in the order of their ids."""
    rows = await connection.execute(
        _VIOLATIONS, _moment(clinic_id, today_since, now) | {"after": after, "limit": limit}
    )
    return [row.patient_id for row in rows]


def _moment(clinic_id: uuid.UUID, today_since: datetime, now: datetime) -> dict[str, object]:
    return {
        "clinic_id": clinic_id,
        "today_since": today_since,
        "active": list(ACTIVE_STATUSES),
        "now": now,
    }
