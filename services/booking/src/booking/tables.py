"""Tables of booking, each with the precedence that decides which report stands.

Columns form groups. A group changes as a whole, and only where the incoming fact's precedence is greater
(docs/adr/0011); '' is smaller than any. An appointment has two groups: the schedule (newest of booked and
rescheduled) and the status (newest of all). Rows that something else referred to first are stubs.

There are no foreign keys: events come in any order, so a stub would be made for each anyway, and checking
them costs an index look-up a row on the path that takes in every visit of a clinic.
"""

import sqlalchemy as sa

from revisit_chassis.db import NAMING_CONVENTION

METADATA = sa.MetaData(naming_convention=NAMING_CONVENTION)

ID = sa.Uuid()
TIME = sa.DateTime(timezone=True)
SPAN = sa.Interval()
PRECEDENCE = sa.Text(collation="C")


def _precedence(name: str = "precedence") -> "sa.Column[str]":
    return sa.Column(name, PRECEDENCE, nullable=False, server_default="")


def _version() -> "sa.Column[int]":
    return sa.Column("version", sa.Integer, nullable=False, server_default="0")


clinic = sa.Table(
    "clinic",
    METADATA,
    sa.Column("clinic_id", ID, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("time_zone", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("country", sa.Text, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    # Visits before it are imported history. Never NULL: without it, the moment of the registration.
    sa.Column("live_from", TIME, nullable=False),
    _version(),
    _precedence(),
)

patient = sa.Table(
    "patient",
    METADATA,
    sa.Column("clinic_id", ID, primary_key=True),
    sa.Column("patient_id", ID, primary_key=True),
    sa.Column("birth_year", sa.SmallInteger),
    sa.Column("sex", sa.Text),
    sa.Column("language", sa.Text),
    sa.Column("time_zone", sa.Text),
    sa.Column("family_id", ID),
    sa.Column("payer", sa.Text),
    sa.Column("employer_id", ID),
    sa.Column("is_chronic", sa.Boolean),
    sa.Column("acquisition_channel", sa.Text),
    sa.Column("acquisition_cost_minor", sa.BigInteger),
    sa.Column("acquisition_currency", sa.Text),
    # Name, full date of birth, contacts: JSON under the key ring, bound to this row. Only a PUT fills them.
    sa.Column("identity_encrypted", sa.LargeBinary),
    sa.Column("contacts_encrypted", sa.LargeBinary),
    # When the newest name and contacts were told; no event of a type that moves `precedence` carries them.
    sa.Column("contacts_told_at", TIME),
    # Final: whatever is reported after it, the row stays empty.
    sa.Column("erased_at", TIME),
    _version(),
    _precedence(),
)

practitioner = sa.Table(
    "practitioner",
    METADATA,
    sa.Column("clinic_id", ID, primary_key=True),
    sa.Column("practitioner_id", ID, primary_key=True),
)

service = sa.Table(
    "service",
    METADATA,
    sa.Column("clinic_id", ID, primary_key=True),
    sa.Column("service_code", sa.Text, primary_key=True),
)

appointment = sa.Table(
    "appointment",
    METADATA,
    sa.Column("clinic_id", ID, primary_key=True),
    sa.Column("appointment_id", ID, primary_key=True),
    # The schedule.
    sa.Column("practitioner_id", ID),
    sa.Column("service_code", sa.Text),
    sa.Column("specialty_code", sa.Text),
    sa.Column("starts_at", TIME),
    sa.Column("ends_at", TIME),
    sa.Column("booked_at", TIME),
    sa.Column("channel", sa.Text),
    sa.Column("modality", sa.Text),
    # When the timer takes it for missed; NULL once judged to be imported history.
    sa.Column("no_show_due_at", TIME),
    _precedence("schedule_precedence"),
    # The status and what belongs to it alone.
    sa.Column("patient_id", ID, nullable=False),
    sa.Column("status", sa.Text),
    sa.Column("status_at", TIME),
    sa.Column("cancelled_by", sa.Text),
    sa.Column("cancel_reason_code", sa.Text),
    sa.Column("is_late_cancellation", sa.Boolean),
    sa.Column("marked_by", sa.Text),
    _precedence("status_precedence"),
    # A no-show is the timer's guess, and yields to whatever people report later, though it happened
    # earlier. While the status is a guess or rests on a correction of one, `guess_precedence` equals
    # `status_precedence`, and `guess_over` is the precedence of the report that it rests on.
    _precedence("guess_precedence"),
    _precedence("guess_over"),
    # Why the patient did not come, once somebody has reached them.
    sa.Column("no_show_reason_code", sa.Text),
    # Known at the reception only; no event carries them before the visit is over.
    sa.Column("arrived_at", TIME),
    sa.Column("started_at", TIME),
    sa.Column("move_requested_at", TIME),
    sa.Column("no_show_risk_band", sa.Text),
    _precedence("no_show_risk_precedence"),
    _version(),
    sa.Index(
        None,
        "no_show_due_at",
        postgresql_where=sa.text("status IN ('booked', 'confirmed')"),
    ),
    sa.Index(
        None,
        "clinic_id",
        "appointment_id",
        postgresql_where=sa.text("move_requested_at IS NOT NULL"),
    ),
    sa.Index(
        "appointment_guess_idx",
        "clinic_id",
        "appointment_id",
        postgresql_where=sa.text("guess_precedence <> ''"),
    ),
)

visit = sa.Table(
    "visit",
    METADATA,
    sa.Column("clinic_id", ID, primary_key=True),
    sa.Column("visit_id", ID, primary_key=True),
    sa.Column("appointment_id", ID),
    sa.Column("patient_id", ID, nullable=False),
    sa.Column("practitioner_id", ID),
    sa.Column("service_code", sa.Text),
    sa.Column("specialty_code", sa.Text),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("arrived_at", TIME),
    sa.Column("started_at", TIME),
    sa.Column("completed_at", TIME, nullable=False),
    sa.Column("next_visit_due_on", sa.Date),
    sa.Column("referral_reason", sa.Text),
    sa.Column("referral_urgency", sa.Text),
    sa.Column("charged_minor", sa.BigInteger),
    sa.Column("cost_minor", sa.BigInteger),
    sa.Column("currency", sa.Text),
    _precedence(),
    # For waiting times. BRIN, because a B-tree entry a visit would cost on the path of every visit.
    sa.Index(None, "completed_at", postgresql_using="brin"),
)

lost_lead = sa.Table(
    "lost_lead",
    METADATA,
    sa.Column("clinic_id", ID, primary_key=True),
    sa.Column("lead_id", ID, primary_key=True),
    sa.Column("patient_id", ID),
    sa.Column("channel", sa.Text),
    sa.Column("reason_code", sa.Text),
    sa.Column("lost_at", TIME, nullable=False),
    _precedence(),
)

identifier = sa.Table(
    "identifier",
    METADATA,
    sa.Column("clinic_id", ID, primary_key=True),
    sa.Column("noun", sa.Text, primary_key=True),
    sa.Column("id", ID, primary_key=True),
    sa.Column("identifier", sa.Text, nullable=False),
)
"""The clinic's own names of what we call by UUID; those of an erased patient are not kept."""

link = sa.Table(
    "link",
    METADATA,
    sa.Column("clinic_id", ID, primary_key=True),
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("appointment_id", ID, nullable=False),
    sa.Column("patient_id", ID, nullable=False),
    sa.Column("language", sa.Text),
    sa.Column("issued_at", TIME, nullable=False),
    sa.Column("expires_at", TIME, nullable=False),
    sa.Column("used_at", TIME),
    # The start as it was known here when the link came, then the one that was last answered about.
    sa.Column("known_start", TIME),
)
"""Links to /a/{token} that engagement sent; the token itself is stored nowhere."""


# What the statements of `projection` take: one group's columns of a table, as a composite type of the
# database; a time comes as the span since 1970 (`revisit_chassis.db.since_epoch`). A column more is a new
# type beside the old one, which the release before still uses.
REPORTS = sa.MetaData()


def _reported(name: str, table: sa.Table, *columns: str) -> sa.Table:
    kinds = {column: table.c[column].type for column in columns}
    return sa.Table(
        name,
        REPORTS,
        *(sa.Column(column, SPAN if kind is TIME else kind) for column, kind in kinds.items()),
    )


reported_clinic = _reported(
    "reported_clinic",
    clinic,
    *("clinic_id", "name", "time_zone", "language", "country", "currency", "live_from"),
    "precedence",
)
reported_patient = _reported(
    "reported_patient",
    patient,
    *("clinic_id", "patient_id", "birth_year", "sex", "language", "time_zone", "family_id"),
    *("payer", "employer_id", "is_chronic", "acquisition_channel", "acquisition_cost_minor"),
    *("acquisition_currency", "precedence"),
)
reported_schedule = _reported(
    "reported_schedule",
    appointment,
    *("clinic_id", "appointment_id", "patient_id", "practitioner_id", "service_code"),
    *("specialty_code", "starts_at", "ends_at", "booked_at", "channel", "modality"),
    *("no_show_due_at", "schedule_precedence"),
)
reported_status = _reported(
    "reported_status",
    appointment,
    *("clinic_id", "appointment_id", "patient_id", "status", "status_at", "cancelled_by"),
    *("cancel_reason_code", "is_late_cancellation", "marked_by", "status_precedence"),
)
reported_risk = _reported(
    "reported_risk",
    appointment,
    *("clinic_id", "appointment_id", "patient_id", "no_show_risk_band"),
    "no_show_risk_precedence",
)
reported_visit = _reported("reported_visit", visit, *visit.columns.keys())
reported_lead = _reported("reported_lead", lost_lead, *lost_lead.columns.keys())
