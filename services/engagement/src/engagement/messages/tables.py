"""Messages and enrolments.

Two clocks meet in `message`. `due_at`, `expires_at`, `decided_at` are business time, from the
injected clock; `planned_at`, `lease_until` and `retry_at` are technical and hold real time.
"""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, UUID

from revisit_chassis.db import NAMING_CONVENTION
from revisit_chassis.tenancy import Roles, list_clinics, protect

METADATA = sa.MetaData(naming_convention=NAMING_CONVENTION)

UUID_ = UUID(as_uuid=True)
TIME = sa.DateTime(timezone=True)

message = sa.Table(
    "message",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    # UUIDv5 of the business key: planning a message again meets its own key.
    sa.Column("message_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, nullable=False),
    sa.Column("journey", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("subject_id", UUID_, nullable=False),
    sa.Column("occurrence", sa.Text, nullable=False),
    sa.Column("legal_class", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("due_at", TIME, nullable=False),
    sa.Column("expires_at", TIME, nullable=False),
    # Real time: what was sent before it may be on its way to us still.
    sa.Column("planned_at", TIME, nullable=False, server_default=sa.func.now()),
    # Fence: every claim counts up, and only the holder of the count may write an outcome.
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_until", TIME),
    sa.Column("calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("retry_at", TIME),
    sa.Column("waiting_for", sa.Text),
    sa.Column("channel", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("decision", JSONB),
    sa.Column("decided_at", TIME),
    # The encrypted text of an SMS in flight: a repeated call must say the same under the same key.
    sa.Column("draft", BYTEA),
    sa.Column("provider_id", sa.Text),
    # What the provider reported later: `delivered` or `failed`.
    sa.Column("delivery", sa.Text),
    sa.Column("delivery_at", TIME),
    sa.CheckConstraint(
        "state IN ('scheduled', 'sending', 'sent', 'uncertain', 'dropped')", name="state"
    ),
    # A lease belongs to work in hand: nothing that has ended can be claimed again.
    sa.CheckConstraint("lease_until IS NULL OR state IN ('scheduled', 'sending')", name="lease"),
    sa.CheckConstraint("state <> 'dropped' OR reason IS NOT NULL", name="dropped_with_reason"),
    sa.Index("ix_message_patient", "clinic_id", "patient_id", "due_at"),
    sa.Index("ix_message_subject", "clinic_id", "subject_id"),
    # From a receipt to its clinic: no provider reports of a message for which none was called.
    sa.Index("ix_message_called", "message_id", postgresql_where=sa.text("calls > 0")),
    # The four ways in which a message becomes work; across clinics, in order.
    sa.Index(
        "ix_message_due",
        "due_at",
        "message_id",
        postgresql_where=sa.text(
            "state = 'scheduled' AND retry_at IS NULL AND lease_until IS NULL"
        ),
    ),
    sa.Index(
        "ix_message_retry",
        "retry_at",
        postgresql_where=sa.text("retry_at IS NOT NULL AND lease_until IS NULL"),
    ),
    sa.Index(
        "ix_message_waiting_expires",
        "expires_at",
        postgresql_where=sa.text("retry_at IS NOT NULL AND lease_until IS NULL"),
    ),
    sa.Index(
        "ix_message_lease",
        "lease_until",
        postgresql_where=sa.text("lease_until IS NOT NULL"),
    ),
)

enrolment = sa.Table(
    "enrolment",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    # UUIDv5 of patient, journey and subject: one run of a journey for each.
    sa.Column("enrolment_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, nullable=False),
    sa.Column("journey", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("subject_id", UUID_, nullable=False),
)


def _clinic_of_message(op: Operations, roles: Roles) -> None:
    """Makes `clinic_of_message(id)`: a receipt names its message, and nothing says whose that is.

    The function runs as the owner, who gets a policy of his own on this one table; it gives a
    clinic's id for that of a message for which a provider was called, and nothing else.
    """
    op.execute("CREATE POLICY message_lookup ON message FOR SELECT TO CURRENT_USER USING (true)")
    op.execute(
        """
        CREATE FUNCTION clinic_of_message(id uuid) RETURNS uuid
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
        AS $$ SELECT clinic_id FROM message WHERE message_id = id AND calls > 0 LIMIT 1 $$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION clinic_of_message(uuid) FROM PUBLIC")
    op.execute(f'GRANT EXECUTE ON FUNCTION clinic_of_message(uuid) TO "{roles.app}"')


def create(op: Operations, roles: Roles) -> None:
    """Creates the tables with row-level security; called by the initial migration."""
    message.create(op.get_bind())
    op.execute("""
        CREATE TYPE planned_message AS (
            clinic_id uuid, message_id uuid, patient_id uuid, journey text, step text, subject_id uuid,
            occurrence text, legal_class text, due_at timestamptz, expires_at timestamptz,
            erased_at timestamptz
        )
    """)
    op.execute(
        "COMMENT ON TYPE planned_message IS 'What planning hands over; a column more is a new type.'"
    )
    protect(op, message.name, roles, worker="due")
    _clinic_of_message(op, roles)
    list_clinics(op, message.name, roles)
    enrolment.create(op.get_bind())
    op.execute("""
        CREATE TYPE new_enrolment AS (
            clinic_id uuid, enrolment_id uuid, patient_id uuid, subject_id uuid
        )
    """)
    op.execute(
        "COMMENT ON TYPE new_enrolment IS 'What enrolling takes; a column more is a new type.'"
    )
    protect(op, enrolment.name, roles)
