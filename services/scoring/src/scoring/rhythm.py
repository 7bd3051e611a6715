"""The typical interval between visits of each service of a clinic, found anew each week."""

from datetime import datetime

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, set_clinics

FEWEST_GAPS = 20
"""With fewer returns the six-month default says more than the data."""

# The median of the gaps after which patients returned, by the service they returned from. Gaps that
# have not ended yet are not in it: it is the rhythm of those who do return.
_REFRESH = """
INSERT INTO service_rhythm AS t (clinic_id, service_code, interval_days, gaps)
SELECT clinic_id, service_code, percentile_cont(0.5) WITHIN GROUP (ORDER BY days), count(*)
FROM (
  SELECT clinic_id, service_code,
    extract(epoch FROM lead(completed_at) OVER w - completed_at) / 86400.0 AS days
  FROM visit_fact WHERE clinic_id = $1
  WINDOW w AS (PARTITION BY patient_id ORDER BY completed_at, visit_id)
) AS gap
WHERE days >= 1 AND service_code IS NOT NULL
GROUP BY clinic_id, service_code HAVING count(*) >= $2
ORDER BY clinic_id, service_code
ON CONFLICT (clinic_id, service_code) DO UPDATE SET
  interval_days = excluded.interval_days, gaps = excluded.gaps
"""
_DUE = """
SELECT clinic_id FROM rhythm_due WHERE due_at <= $1 ORDER BY due_at LIMIT 1
FOR UPDATE SKIP LOCKED
"""


class RefreshRhythms:
    """Finds the rhythms of a clinic's services a week after the last time.

    Args:
        database: With the worker's role.
    """

    name = "refresh_rhythms"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_due(self, clock: Clock) -> int:
        """Does one clinic; gives 1, or 0 when none was due."""
        now = clock.now()
        async with self._database.connect() as connection:
            clinic_id = (await connection.exec_driver_sql(_DUE, (now,))).scalar()
            if clinic_id is None:
                return 0
            await set_clinics(connection, [clinic_id])
            await connection.exec_driver_sql(_REFRESH, (clinic_id, FEWEST_GAPS))
            await connection.exec_driver_sql(
                "UPDATE rhythm_due SET due_at = $2::timestamptz + interval '7 days' "
                "WHERE clinic_id = $1",
                (clinic_id, now),
            )
        return 1

    async def next_due_at(self) -> datetime | None:
        """Gives when the next clinic is due."""
        async with self._database.single() as connection:
            found = await connection.exec_driver_sql("SELECT min(due_at) FROM rhythm_due")
            moment: datetime | None = found.scalar()
        return moment
