"""A clinic's habits, found anew each week: the interval between visits by service, the average cheque.

Both are rounded (whole days; two significant digits), so that a single visit changes neither, and who
depends on what did change is scored again.
"""

from datetime import datetime

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, fetch, fetch_value, set_clinics
from revisit_chassis.failpoint import failpoint
from scoring.domain.facts import WINDOW

FEWEST = 20
"""With fewer returns or paid visits the defaults say more than the data."""

# The days after which half of the visits to a service were followed by another one, estimated after Kaplan
# and Meier (1958): a visit that nothing has followed yet counts for as long as it could be seen. Left out,
# such visits would make a young clinic's rhythm as short as its history, and everybody late. Where fewer
# than half were followed within what could be seen, or too few returned, there is no rhythm (any more).
_RHYTHMS = """
WITH gap AS (
  SELECT service_code, completed_at AS begun_at, lead(completed_at) OVER w AS ended_at
  FROM visit_fact WHERE clinic_id = $1
  WINDOW w AS (PARTITION BY patient_id ORDER BY completed_at, visit_id)
), by_day AS (
  SELECT service_code, days, count(*) AS seen, count(ended_at) AS returned
  FROM gap, LATERAL (
    SELECT extract(epoch FROM coalesce(ended_at, $3::timestamptz) - begun_at) / 86400.0 AS exact_days
  ) AS e, LATERAL (SELECT round(exact_days) AS days) AS d
  WHERE exact_days >= 1 AND service_code IS NOT NULL
  GROUP BY service_code, days
), at_risk AS (
  SELECT *, sum(seen) OVER (PARTITION BY service_code ORDER BY days DESC) AS open
  FROM by_day
), survival AS (
  SELECT service_code, days, returned,
    -- Logarithms do not quite add up: an exact half comes out a little above it.
    exp(sum(ln(nullif(1 - returned / open::float8, 0))) OVER so_far) AS share,
    -- All that were left returned: the share is 0, which has no logarithm.
    bool_or(returned = open) OVER so_far AS is_over
  FROM at_risk
  WINDOW so_far AS (PARTITION BY service_code ORDER BY days)
), found AS (
  SELECT service_code, min(days) FILTER (WHERE is_over OR share <= 0.5 + 1e-9) AS interval_days,
    sum(returned) AS gaps
  FROM survival GROUP BY service_code
  HAVING sum(returned) >= $2 AND bool_or(is_over OR share <= 0.5 + 1e-9)
), gone AS (
  DELETE FROM service_rhythm WHERE clinic_id = $1 AND service_code NOT IN (SELECT service_code FROM found)
  RETURNING service_code
), kept AS (
  INSERT INTO service_rhythm AS t (clinic_id, service_code, interval_days, gaps)
  SELECT $1, service_code, interval_days, gaps FROM found ORDER BY service_code
  ON CONFLICT (clinic_id, service_code) DO UPDATE SET
    interval_days = excluded.interval_days, gaps = excluded.gaps
  RETURNING service_code, old.interval_days IS DISTINCT FROM new.interval_days AS is_changed
)
INSERT INTO rescore (clinic_id, patient_id)
SELECT $1, patient_id FROM (
  SELECT DISTINCT ON (patient_id) patient_id, service_code FROM visit_fact WHERE clinic_id = $1
  ORDER BY patient_id, completed_at DESC, visit_id
) AS last_visit
WHERE service_code IN (
  SELECT service_code FROM gone UNION SELECT service_code FROM kept WHERE is_changed
)
"""
_CHEQUE = """
WITH paid AS (
  SELECT avg(charged_minor) AS charged_minor, count(*) AS visits
  FROM visit_fact AS f JOIN clinic AS c USING (clinic_id)
  WHERE clinic_id = $1 AND charged_minor > 0 AND completed_at > $3::timestamptz - $4::interval
    AND (f.currency IS NULL OR f.currency IS NOT DISTINCT FROM c.currency)
), found AS (
  SELECT round(charged_minor, 1 - floor(log(charged_minor))::int) AS charged_minor, visits
  FROM paid WHERE visits >= $2
), gone AS (
  DELETE FROM average_cheque WHERE clinic_id = $1 AND NOT EXISTS (SELECT FROM found)
  RETURNING true AS is_changed
), kept AS (
  INSERT INTO average_cheque AS t (clinic_id, charged_minor, visits)
  SELECT $1, charged_minor, visits FROM found
  ON CONFLICT (clinic_id) DO UPDATE SET
    charged_minor = excluded.charged_minor, visits = excluded.visits
  RETURNING old.charged_minor IS DISTINCT FROM new.charged_minor AS is_changed
)
INSERT INTO rescore (clinic_id, patient_id)
SELECT DISTINCT clinic_id, patient_id FROM visit_fact
WHERE clinic_id = $1 AND (SELECT bool_or(is_changed) FROM (TABLE gone UNION TABLE kept) AS either)
"""
_DUE = """
SELECT clinic_id FROM rhythm_due WHERE due_at <= $1 ORDER BY due_at LIMIT 1
FOR UPDATE SKIP LOCKED
"""


class RefreshRhythms:
    """Finds the habits of a clinic a week after the last time.

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
            clinic_id = await fetch_value(connection, _DUE, now)
            if clinic_id is None:
                return 0
            await set_clinics(connection, [clinic_id])
            await fetch(connection, _RHYTHMS, clinic_id, FEWEST, now)
            await fetch(connection, _CHEQUE, clinic_id, FEWEST, now, WINDOW)
            await fetch(
                connection,
                "UPDATE rhythm_due SET due_at = $2::timestamptz + interval '7 days' "
                "WHERE clinic_id = $1",
                clinic_id,
                now,
            )
            failpoint("rhythm.before_commit")
        return 1

    async def next_due_at(self) -> datetime | None:
        """Gives when the next clinic is due."""
        async with self._database.single() as connection:
            moment: datetime | None = await fetch_value(
                connection, "SELECT min(due_at) FROM rhythm_due"
            )
        return moment
