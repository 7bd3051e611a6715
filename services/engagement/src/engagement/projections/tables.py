"""Projections of clinic, patient, appointment and visit.

Every attribute group stands by its own precedence (docs/adr/0011): a row is changed only where
`excluded.precedence` is greater, compared byte by byte (`COLLATE "C"`). An event whose aggregate
nobody introduced makes a stub: the attributes that only other events know stay NULL until those
arrive.
"""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import BYTEA, UUID

from revisit_chassis.db import NAMING_CONVENTION
from revisit_chassis.tenancy import Roles, list_clinics, protect

METADATA = sa.MetaData(naming_convention=NAMING_CONVENTION)

UUID_ = UUID(as_uuid=True)
TIME = sa.DateTime(timezone=True)
PRECEDENCE = sa.Text(collation="C")

clinic = sa.Table(
    "clinic",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("time_zone", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("country", sa.Text, nullable=False),
    # Never NULL: a clinic registered without it is live from the time of that event.
    sa.Column("live_from", TIME, nullable=False),
    sa.Column("precedence", PRECEDENCE, nullable=False),
)

patient = sa.Table(
    "patient",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, primary_key=True),
    # From patient.registered and patient.updated; NULL where unknown: the clinic's stands then.
    sa.Column("language", sa.Text),
    sa.Column("time_zone", sa.Text),
    sa.Column("precedence", PRECEDENCE),
    # From patient.contact_changed; NULL ciphertext with a precedence is a tombstone.
    sa.Column("contact_ciphertext", BYTEA),
    sa.Column("contact_precedence", PRECEDENCE),
    # Terminal: whatever arrives after it, nothing personal is stored again.
    sa.Column("erased_at", TIME),
)

appointment = sa.Table(
    "appointment",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("appointment_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, nullable=False),
    # The schedule: the newest of booked and rescheduled; NULL while only other events arrived.
    sa.Column("practitioner_id", UUID_),
    sa.Column("service_code", sa.Text),
    sa.Column("modality", sa.Text),
    sa.Column("starts_at", TIME),
    sa.Column("ends_at", TIME),
    sa.Column("booked_at", TIME),
    # When this start was agreed: at the booking, or at the last move.
    sa.Column("scheduled_at", TIME),
    sa.Column("schedule_precedence", PRECEDENCE),
    # The newest of all life-cycle events: booked, confirmed, arrived, completed, cancelled,
    # no_show.
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("status_precedence", PRECEDENCE, nullable=False),
    sa.Index("ix_appointment_patient", "clinic_id", "patient_id", "starts_at"),
)

visit = sa.Table(
    "visit",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("visit_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, nullable=False),
    sa.Column("appointment_id", UUID_),
    sa.Column("practitioner_id", UUID_),
    sa.Column("service_code", sa.Text),
    sa.Column("kind", sa.Text),
    sa.Column("outcome", sa.Text),
    sa.Column("referral_urgency", sa.Text),
    sa.Column("next_visit_due_on", sa.Date),
    sa.Column("completed_at", TIME, nullable=False),
    sa.Column("precedence", PRECEDENCE, nullable=False),
    sa.Index("ix_visit_patient", "clinic_id", "patient_id", "completed_at"),
)

TABLES = (clinic, patient, appointment, visit)


def create(op: Operations, roles: Roles) -> None:
    """Creates the tables with row-level security; called by the initial migration."""
    for table in TABLES:
        table.create(op.get_bind())
        protect(op, table.name, roles)
    list_clinics(op, patient.name, roles)
    op.execute("""
        CREATE TYPE told_visit AS (
            clinic_id uuid, visit_id uuid, patient_id uuid, appointment_id uuid, practitioner_id uuid,
            service_code text, kind text, outcome text, referral_urgency text, next_visit_due_on date,
            completed_at timestamptz, precedence text
        )
    """)
    op.execute(
        "COMMENT ON TYPE told_visit IS 'What the handler hands over; a column more is a new type.'"
    )
