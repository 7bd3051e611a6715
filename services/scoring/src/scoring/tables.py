"""Tables of scoring: facts by event, the scores made of them, the queue of who is to be scored."""

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
    sa.Column("time_zone", sa.Text, nullable=False, server_default="UTC"),
    sa.Column("currency", sa.Text),
    _precedence(),
)

patient = sa.Table(
    "patient",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("patient_id", pg.UUID, primary_key=True),
    sa.Column("birth_year", sa.SmallInteger),
    sa.Column("family_id", pg.UUID),
    sa.Column("payer", sa.Text),
    sa.Column("employer_id", pg.UUID),
    sa.Column("is_chronic", sa.Boolean, nullable=False, server_default="false"),
    _time("erased_at"),
    _precedence(),
)

visit_fact = sa.Table(
    "visit_fact",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("visit_id", pg.UUID, primary_key=True),
    sa.Column("patient_id", pg.UUID, nullable=False),
    sa.Column("appointment_id", pg.UUID),
    sa.Column("practitioner_id", pg.UUID),
    sa.Column("service_code", sa.Text),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    _time("arrived_at"),
    _time("started_at"),
    _time("completed_at", nullable=False),
    sa.Column("charged_minor", sa.BigInteger),
    sa.Column("currency", sa.Text, comment="the clinic's when none is named"),
    _precedence(),
    sa.Index("visit_fact_patient_idx", "clinic_id", "patient_id", "completed_at"),
)

appointment_fact = sa.Table(
    "appointment_fact",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("appointment_id", pg.UUID, primary_key=True),
    sa.Column("patient_id", pg.UUID, nullable=False),
    sa.Column("practitioner_id", pg.UUID),
    sa.Column("service_code", sa.Text),
    _time("starts_at"),
    _precedence("schedule_precedence"),
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
    sa.Column("visit_id", pg.UUID),
    sa.Column("practitioner_id", pg.UUID, comment="as told; where the visit is known, it decides"),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("score", sa.Float, nullable=False),
    _time("answered_at", nullable=False),
    _precedence(),
    sa.Index("answer_fact_patient_idx", "clinic_id", "patient_id"),
)

interaction_fact = sa.Table(
    "interaction_fact",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True, comment="event name"),
    sa.Column("subject", sa.Text, primary_key=True, comment="id of the aggregate"),
    sa.Column("patient_id", pg.UUID),
    sa.Column("code", sa.Text, comment="journey, reason, state, cause or verdict"),
    sa.Column("about_id", pg.UUID, comment="of a link: its subject, such as the visit of a survey"),
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

average_cheque = sa.Table(
    "average_cheque",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("charged_minor", sa.BigInteger, nullable=False),
    sa.Column("visits", sa.Integer, nullable=False),
    comment="Of the paid visits of the last 24 months, in the clinic's currency.",
)

rhythm_due = sa.Table(
    "rhythm_due",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    _time("due_at", nullable=False),
    comment="When a clinic's rhythms and average cheque are found anew.",
)

rescore = sa.Table(
    "rescore",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("position", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("patient_id", pg.UUID, nullable=False),
    # Business time; only of those who could not be scored.
    _time("not_before"),
    sa.Index("rescore_position_idx", "position"),
    comment="Patients whose facts changed; append-only, so that a mark is never lost in another one.",
)

score = sa.Table(
    "score",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("patient_id", pg.UUID, primary_key=True),
    sa.Column("visits", sa.Integer, nullable=False),
    _time("first_visit_at", nullable=False),
    _time("last_visit_at", nullable=False),
    sa.Column("charged_minor", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text),
    sa.Column("life_situation", sa.Text, nullable=False),
    sa.Column("treatment_state", sa.Text, nullable=False),
    sa.Column("recency", sa.SmallInteger, nullable=False),
    sa.Column("frequency", sa.SmallInteger, nullable=False),
    sa.Column("monetary", sa.SmallInteger),
    sa.Column("probability", sa.Float, nullable=False),
    sa.Column("told_probability", sa.Float, nullable=False),
    sa.Column("band", sa.Text, nullable=False),
    sa.Column("reasons", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("horizon_days", sa.Integer, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    _time("scored_at", nullable=False),
    _time("review_at", nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.Index("score_review_idx", "review_at"),
    sa.Index("score_risk_idx", "clinic_id", "probability", "visits", "charged_minor"),
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
    sa.Column("definition", sa.Text, nullable=False),
    _time("set_at", nullable=False),
)

FACTS = (
    "rescore",
    "interaction_fact",
    "answer_fact",
    "appointment_fact",
    "visit_fact",
    "patient",
    "clinic",
)
"""What a rebuild empties, in this order. Scores follow from the facts: they keep their versions,
so that what was told of them is never told again under the same id. Rhythms and average cheques are no
handler's work: emptied, they would be missing until the next refresh, and patients would be judged by
defaults meanwhile."""
