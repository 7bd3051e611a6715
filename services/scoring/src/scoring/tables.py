"""Tables of scoring: facts by event, the scores made of them, the queue of who is to be scored.

The migrations create them; this is the place to read them. A test compares the two.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from revisit_chassis.db import metadata

METADATA = metadata()


def _precedence(name: str = "precedence") -> "sa.Column[str]":
    return sa.Column(name, sa.Text(collation="C"), nullable=False, server_default="")


def _time(name: str, *, nullable: bool = True) -> "sa.Column[object]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


clinic = sa.Table(
    "clinic",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("time_zone", sa.Text, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    _precedence(),
)

patient = sa.Table(
    "patient",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("patient_id", pg.UUID, primary_key=True),
    sa.Column("birth_year", sa.SmallInteger),
    sa.Column("sex", sa.Text),
    sa.Column("family_id", pg.UUID),
    sa.Column("payer", sa.Text),
    sa.Column("employer_id", pg.UUID),
    sa.Column("is_chronic", sa.Boolean, nullable=False, server_default="false"),
    # Final: nothing that identifies is stored again, whatever arrives afterwards.
    _time("erased_at"),
    _precedence(),
)

visit_fact = sa.Table(
    "visit_fact",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("visit_id", pg.UUID, primary_key=True),
    sa.Column("patient_id", pg.UUID, nullable=False),
    sa.Column("practitioner_id", pg.UUID),
    sa.Column("service_code", sa.Text),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    _time("arrived_at"),
    _time("started_at"),
    _time("completed_at", nullable=False),
    sa.Column("charged_minor", sa.BigInteger),
    sa.Column("currency", sa.Text, comment="the clinic's when null"),
    _precedence(),
    sa.Index("visit_fact_patient_idx", "clinic_id", "patient_id", "completed_at"),
)

appointment_fact = sa.Table(
    "appointment_fact",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("appointment_id", pg.UUID, primary_key=True),
    # The schedule stands by the newest of booked and rescheduled.
    sa.Column("practitioner_id", pg.UUID),
    sa.Column("service_code", sa.Text),
    _time("starts_at"),
    _precedence("schedule_precedence"),
    # Patient and status stand by the newest of all events of the appointment.
    sa.Column("patient_id", pg.UUID, nullable=False),
    sa.Column("status", sa.Text, nullable=False, server_default="booked"),
    _time("status_at"),
    _precedence("status_precedence"),
    sa.Index("appointment_fact_patient_idx", "clinic_id", "patient_id"),
)

answer_fact = sa.Table(
    "answer_fact",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("answer_id", pg.UUID, primary_key=True),
    sa.Column("patient_id", pg.UUID),
    sa.Column("practitioner_id", pg.UUID),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("score", sa.Float, nullable=False),
    sa.Column("verdict", sa.Text, comment="top, middle, bottom; null where no rule counts it"),
    _time("answered_at", nullable=False),
    _precedence(),
    sa.Index("answer_fact_patient_idx", "clinic_id", "patient_id"),
)

interaction_fact = sa.Table(
    "interaction_fact",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True, comment="event name"),
    sa.Column("subject", sa.Text, primary_key=True, comment="what it is about"),
    sa.Column("patient_id", pg.UUID),
    sa.Column("code", sa.Text, comment="journey, reason, state, cause or verdict"),
    _time("at", nullable=False),
    _precedence(),
)

service_rhythm = sa.Table(
    "service_rhythm",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("service_code", sa.Text, primary_key=True),
    sa.Column("interval_days", sa.Float, nullable=False),
    sa.Column("gaps", sa.Integer, nullable=False),
)

rfm_cut = sa.Table(
    "rfm_cut",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("last_visit_epoch", pg.ARRAY(sa.Float), nullable=False),
    sa.Column("visits", pg.ARRAY(sa.Float), nullable=False),
    sa.Column("charged_minor", pg.ARRAY(sa.Float), nullable=False),
    comment="Values that part a clinic's patients into fifths.",
)

rhythm_due = sa.Table(
    "rhythm_due",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    _time("due_at", nullable=False),
    comment="When a clinic's rhythms and cuts are found anew.",
)

# Append-only, without a key on the patient: a consumer never waits for the scorer, and a mark that is
# made while the scorer works is a row of its own, so none gets lost.
rescore = sa.Table(
    "rescore",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("position", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("patient_id", pg.UUID, nullable=False),
    sa.Index("rescore_position_idx", "position"),
    comment="Patients whose facts changed.",
)

score = sa.Table(
    "score",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("patient_id", pg.UUID, primary_key=True),
    sa.Column("visits", sa.Integer, nullable=False),
    _time("first_visit_at", nullable=False),
    _time("last_visit_at", nullable=False),
    sa.Column("last_service_code", sa.Text),
    sa.Column("charged_minor", sa.BigInteger, nullable=False),
    sa.Column("life_situation", sa.Text, nullable=False),
    sa.Column("treatment_state", sa.Text, nullable=False),
    sa.Column("probability", sa.Float, nullable=False),
    sa.Column("told_probability", sa.Float, nullable=False),
    sa.Column("band", sa.Text, nullable=False),
    sa.Column("horizon_days", sa.Integer, nullable=False),
    sa.Column("reasons", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    _time("scored_at", nullable=False),
    _time("review_at"),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Index("score_review_idx", "review_at", postgresql_where=sa.text("review_at IS NOT NULL")),
    sa.Index("score_risk_idx", "clinic_id", "probability"),
)

target = sa.Table(
    "target",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("kpi", sa.Text, primary_key=True),
    sa.Column("profile", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("direction", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    _time("set_at", nullable=False),
)

# Without `score`: its versions number the events that were published, and a rebuild queues everybody,
# so every score is compared with the rebuilt facts and only real differences are told.
PROJECTIONS = (
    "rescore",
    "rhythm_due",
    "service_rhythm",
    "rfm_cut",
    "interaction_fact",
    "answer_fact",
    "appointment_fact",
    "visit_fact",
    "patient",
    "clinic",
)
"""What a rebuild makes again from the event log."""
