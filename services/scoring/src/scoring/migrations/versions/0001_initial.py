"""Facts, scores and targets, beside the tables of the libraries."""

from alembic import op

from revisit_chassis import schema as chassis_schema
from revisit_chassis.migrate import migration_roles
from revisit_chassis.tenancy import protect
from revisit_events import schema as events_schema

revision = "0001"
down_revision = None

_TABLES = """
CREATE TABLE clinic (
  clinic_id uuid PRIMARY KEY, time_zone text NOT NULL DEFAULT 'UTC', currency text,
  precedence text COLLATE "C" NOT NULL DEFAULT '');
CREATE TABLE patient (
  clinic_id uuid, patient_id uuid, birth_year smallint, family_id uuid, payer text,
  employer_id uuid, is_chronic boolean NOT NULL DEFAULT false, erased_at timestamptz,
  precedence text COLLATE "C" NOT NULL DEFAULT '', PRIMARY KEY (clinic_id, patient_id));
CREATE TABLE visit_fact (
  clinic_id uuid, visit_id uuid, patient_id uuid NOT NULL, appointment_id uuid, practitioner_id uuid,
  service_code text, kind text NOT NULL, outcome text NOT NULL, arrived_at timestamptz,
  started_at timestamptz, completed_at timestamptz NOT NULL, charged_minor bigint, currency text,
  precedence text COLLATE "C" NOT NULL DEFAULT '', PRIMARY KEY (clinic_id, visit_id));
CREATE INDEX visit_fact_patient_idx ON visit_fact (clinic_id, patient_id, completed_at);
CREATE TYPE told_visit AS (
  clinic_id uuid, visit_id uuid, patient_id uuid, appointment_id uuid, practitioner_id uuid,
  service_code text, kind text, outcome text, arrived_at timestamptz, started_at timestamptz,
  completed_at timestamptz, charged_minor bigint, currency text, precedence text
);
CREATE TABLE appointment_fact (
  clinic_id uuid, appointment_id uuid, patient_id uuid NOT NULL, practitioner_id uuid,
  service_code text, starts_at timestamptz, schedule_precedence text COLLATE "C" NOT NULL DEFAULT '',
  status text NOT NULL DEFAULT 'booked', status_at timestamptz,
  status_precedence text COLLATE "C" NOT NULL DEFAULT '', PRIMARY KEY (clinic_id, appointment_id));
CREATE INDEX appointment_fact_patient_idx ON appointment_fact (clinic_id, patient_id);
CREATE TABLE answer_fact (
  clinic_id uuid, answer_id uuid, patient_id uuid, visit_id uuid, practitioner_id uuid, kind text NOT NULL,
  score double precision NOT NULL, answered_at timestamptz NOT NULL,
  precedence text COLLATE "C" NOT NULL DEFAULT '', PRIMARY KEY (clinic_id, answer_id));
CREATE INDEX answer_fact_patient_idx ON answer_fact (clinic_id, patient_id);
CREATE TABLE interaction_fact (
  clinic_id uuid, kind text, subject text, patient_id uuid, code text, about_id uuid, at timestamptz NOT NULL,
  precedence text COLLATE "C" NOT NULL DEFAULT '', PRIMARY KEY (clinic_id, kind, subject));
CREATE TABLE service_rhythm (
  clinic_id uuid, service_code text, interval_days double precision NOT NULL, gaps integer NOT NULL,
  PRIMARY KEY (clinic_id, service_code));
CREATE TABLE average_cheque (
  clinic_id uuid PRIMARY KEY, charged_minor bigint NOT NULL, visits integer NOT NULL);
CREATE TABLE rhythm_due (clinic_id uuid PRIMARY KEY, due_at timestamptz NOT NULL);
CREATE TABLE rescore (
  clinic_id uuid, position bigint GENERATED ALWAYS AS IDENTITY, patient_id uuid NOT NULL,
  not_before timestamptz, PRIMARY KEY (clinic_id, position));
CREATE INDEX rescore_position_idx ON rescore (position);
CREATE TABLE score (
  clinic_id uuid, patient_id uuid, visits integer NOT NULL, first_visit_at timestamptz NOT NULL,
  last_visit_at timestamptz NOT NULL, charged_minor bigint NOT NULL, currency text,
  life_situation text NOT NULL, treatment_state text NOT NULL, recency smallint NOT NULL,
  frequency smallint NOT NULL, monetary smallint, probability double precision NOT NULL,
  told_probability double precision NOT NULL, band text NOT NULL, reasons text[] NOT NULL,
  horizon_days integer NOT NULL, model_version text NOT NULL, scored_at timestamptz NOT NULL,
  review_at timestamptz NOT NULL, version integer NOT NULL DEFAULT 1, PRIMARY KEY (clinic_id, patient_id));
CREATE INDEX score_review_idx ON score (review_at);
CREATE INDEX score_risk_idx ON score (clinic_id, probability, visits, charged_minor);
CREATE TABLE target (
  clinic_id uuid, kpi text, profile text, version integer, value double precision NOT NULL,
  direction text NOT NULL, definition text NOT NULL, set_at timestamptz NOT NULL,
  PRIMARY KEY (clinic_id, kpi, profile, version))
"""


def upgrade() -> None:
    roles = migration_roles(op)
    chassis_schema.create(op, roles)
    events_schema.create(op, roles)
    for statement in _TABLES.split(";\n"):
        op.execute(statement)
    for table in (
        "clinic",
        "patient",
        "visit_fact",
        "appointment_fact",
        "answer_fact",
        "interaction_fact",
        "service_rhythm",
        "average_cheque",
        "target",
    ):
        protect(op, table, roles)
    # The scorer sees in all clinics who is to be scored, and names those clinics before the rest.
    protect(op, "score", roles, worker="due")
    protect(op, "rescore", roles, worker=True)
    protect(op, "rhythm_due", roles, worker="due")
