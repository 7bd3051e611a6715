"""Statements that turn a batch of events into facts.

Each takes arrays, keeps of each thing the event of the greatest precedence, in the batch and against
what is stored, and writes in the order of the key, so that two batches never wait for each other in a
circle. Those that change a patient's facts queue the patient for scoring in the same statement.
"""
# ruff: noqa: S608  (constants put together from constants)

_QUEUE = """
INSERT INTO rescore (clinic_id, patient_id)
SELECT DISTINCT clinic_id, patient_id FROM given WHERE patient_id IS NOT NULL
"""

# A correction may have moved the fact to another patient: both are scored again.
_QUEUE_BOTH = """
INSERT INTO rescore (clinic_id, patient_id)
SELECT clinic_id, patient_id FROM given WHERE patient_id IS NOT NULL
UNION SELECT clinic_id, patient_id FROM kept WHERE patient_id IS NOT NULL
"""

CLINIC = """
WITH given AS (
  SELECT DISTINCT ON (clinic_id) * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[])
    AS t (clinic_id, time_zone, currency, precedence)
  ORDER BY clinic_id, precedence COLLATE "C" DESC
), kept AS (
  INSERT INTO clinic AS t (clinic_id, time_zone, currency, precedence) SELECT * FROM given
  ON CONFLICT (clinic_id) DO UPDATE SET
    time_zone = excluded.time_zone, currency = excluded.currency, precedence = excluded.precedence
  WHERE excluded.precedence > t.precedence
  RETURNING t.clinic_id, (old.time_zone, old.currency) IS DISTINCT FROM (new.time_zone, new.currency)
    AS is_changed
), due AS (
  INSERT INTO rhythm_due (clinic_id, due_at)
  SELECT clinic_id, left(precedence, 27)::timestamptz + interval '7 days' FROM given
  ORDER BY clinic_id ON CONFLICT DO NOTHING
)
-- Local days and sums of money follow from zone and currency: whoever was scored without them is again.
INSERT INTO rescore (clinic_id, patient_id)
SELECT DISTINCT clinic_id, patient_id FROM visit_fact
WHERE clinic_id IN (SELECT clinic_id FROM kept WHERE is_changed)
"""

PATIENT = f"""
WITH given AS (
  SELECT DISTINCT ON (clinic_id, patient_id) * FROM unnest($1::uuid[], $2::uuid[], $3::int[],
    $4::uuid[], $5::text[], $6::uuid[], $7::boolean[], $8::text[])
    AS t (clinic_id, patient_id, birth_year, family_id, payer, employer_id, is_chronic, precedence)
  ORDER BY clinic_id, patient_id, precedence COLLATE "C" DESC
), kept AS (
  INSERT INTO patient AS t (clinic_id, patient_id, birth_year, family_id, payer, employer_id, is_chronic,
                            precedence)
  SELECT * FROM given
  ON CONFLICT (clinic_id, patient_id) DO UPDATE SET
    birth_year = excluded.birth_year, family_id = excluded.family_id,
    payer = excluded.payer, employer_id = excluded.employer_id, is_chronic = excluded.is_chronic,
    precedence = excluded.precedence
  WHERE excluded.precedence > t.precedence AND t.erased_at IS NULL
)
{_QUEUE}
"""

# Erasure is final: whatever comes later or earlier, nothing that identifies is kept again.
ERASE = f"""
WITH given AS (
  SELECT clinic_id, patient_id, min(at) AS at FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[])
    AS t (clinic_id, patient_id, at)
  GROUP BY clinic_id, patient_id ORDER BY clinic_id, patient_id
), kept AS (
  INSERT INTO patient AS t (clinic_id, patient_id, erased_at) SELECT * FROM given
  ON CONFLICT (clinic_id, patient_id) DO UPDATE SET
    birth_year = NULL, family_id = NULL, payer = NULL, employer_id = NULL,
    is_chronic = false, precedence = '', erased_at = least(t.erased_at, excluded.erased_at)
)
{_QUEUE}
"""

FORGET_SCORE = """
DELETE FROM score USING unnest($1::uuid[], $2::uuid[]) AS given (clinic_id, patient_id)
WHERE score.clinic_id = given.clinic_id AND score.patient_id = given.patient_id
"""

VISIT = f"""
WITH given AS (
  SELECT DISTINCT ON (clinic_id, visit_id) * FROM unnest($1::told_visit[])
  ORDER BY clinic_id, visit_id, precedence COLLATE "C" DESC
), kept AS (
  INSERT INTO visit_fact AS t (clinic_id, visit_id, patient_id, appointment_id, practitioner_id,
                               service_code, kind, outcome, arrived_at, started_at, completed_at,
                               charged_minor, currency, precedence)
  SELECT * FROM given
  ON CONFLICT (clinic_id, visit_id) DO UPDATE SET
    patient_id = excluded.patient_id, appointment_id = excluded.appointment_id,
    practitioner_id = excluded.practitioner_id, service_code = excluded.service_code,
    kind = excluded.kind, outcome = excluded.outcome, arrived_at = excluded.arrived_at,
    started_at = excluded.started_at, completed_at = excluded.completed_at,
    charged_minor = excluded.charged_minor, currency = excluded.currency,
    precedence = excluded.precedence
  WHERE excluded.precedence > t.precedence
  RETURNING t.clinic_id, old.patient_id
)
{_QUEUE_BOTH}
"""

SCHEDULE = f"""
WITH given AS (
  SELECT DISTINCT ON (clinic_id, appointment_id) * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[],
    $4::uuid[], $5::text[], $6::timestamptz[], $7::text[])
    AS t (clinic_id, appointment_id, patient_id, practitioner_id, service_code, starts_at, precedence)
  ORDER BY clinic_id, appointment_id, precedence COLLATE "C" DESC
), kept AS (
  INSERT INTO appointment_fact AS t (clinic_id, appointment_id, patient_id, practitioner_id,
                                     service_code, starts_at, schedule_precedence)
  SELECT * FROM given
  ON CONFLICT (clinic_id, appointment_id) DO UPDATE SET
    practitioner_id = excluded.practitioner_id, service_code = excluded.service_code,
    starts_at = excluded.starts_at, schedule_precedence = excluded.schedule_precedence
  WHERE excluded.schedule_precedence > t.schedule_precedence
)
{_QUEUE}
"""

STATUS = f"""
WITH given AS (
  SELECT DISTINCT ON (clinic_id, appointment_id) * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[],
    $4::text[], $5::timestamptz[], $6::text[])
    AS t (clinic_id, appointment_id, patient_id, status, status_at, precedence)
  ORDER BY clinic_id, appointment_id, precedence COLLATE "C" DESC
), kept AS (
  INSERT INTO appointment_fact AS t (clinic_id, appointment_id, patient_id, status, status_at,
                                     status_precedence)
  SELECT * FROM given
  ON CONFLICT (clinic_id, appointment_id) DO UPDATE SET
    patient_id = excluded.patient_id, status = excluded.status, status_at = excluded.status_at,
    status_precedence = excluded.status_precedence
  WHERE excluded.status_precedence > t.status_precedence
  RETURNING t.clinic_id, old.patient_id
)
{_QUEUE_BOTH}
"""

ANSWER = f"""
WITH given AS (
  SELECT DISTINCT ON (clinic_id, answer_id) * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[],
    $4::uuid[], $5::uuid[], $6::text[], $7::float8[], $8::timestamptz[], $9::text[])
    AS t (clinic_id, answer_id, patient_id, visit_id, practitioner_id, kind, score, answered_at,
          precedence)
  ORDER BY clinic_id, answer_id, precedence COLLATE "C" DESC
), kept AS (
  INSERT INTO answer_fact AS t (clinic_id, answer_id, patient_id, visit_id, practitioner_id, kind,
                                score, answered_at, precedence)
  SELECT * FROM given
  ON CONFLICT (clinic_id, answer_id) DO UPDATE SET
    patient_id = excluded.patient_id, visit_id = excluded.visit_id,
    practitioner_id = excluded.practitioner_id, kind = excluded.kind, score = excluded.score,
    answered_at = excluded.answered_at, precedence = excluded.precedence
  WHERE excluded.precedence > t.precedence
  RETURNING t.clinic_id, old.patient_id
)
{_QUEUE_BOTH}
"""

INTERACTION = """
INSERT INTO interaction_fact AS t (clinic_id, kind, subject, patient_id, code, about_id, at, precedence)
SELECT DISTINCT ON (clinic_id, kind, subject) * FROM unnest($1::uuid[], $2::text[], $3::text[],
  $4::uuid[], $5::text[], $6::uuid[], $7::timestamptz[], $8::text[])
  AS given (clinic_id, kind, subject, patient_id, code, about_id, at, precedence)
ORDER BY clinic_id, kind, subject, precedence COLLATE "C" DESC
ON CONFLICT (clinic_id, kind, subject) DO UPDATE SET
  patient_id = excluded.patient_id, code = excluded.code, about_id = excluded.about_id,
  at = excluded.at, precedence = excluded.precedence
WHERE excluded.precedence > t.precedence
"""
