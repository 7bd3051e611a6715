"""Clinics, patients, appointments, visits and links, beside the tables of the libraries."""

import sqlalchemy as sa
from alembic import op

from revisit_chassis import schema as chassis_schema
from revisit_chassis.migrate import migration_roles
from revisit_chassis.tenancy import list_clinics, owner_lookup, protect
from revisit_events import schema as events_schema

revision = "0001"
down_revision = None


TYPES = (
    "CREATE TYPE named_row AS (clinic_id uuid, id uuid)",
    "CREATE TYPE named_code AS (clinic_id uuid, code text)",
    """
    CREATE TYPE reported_clinic AS (
      clinic_id uuid, name text, time_zone text, language text, country text, currency text,
      live_from interval, precedence text
    )
    """,
    """
    CREATE TYPE reported_patient AS (
      clinic_id uuid, patient_id uuid, birth_year smallint, sex text, language text, time_zone text,
      family_id uuid, payer text, employer_id uuid, is_chronic boolean, acquisition_channel text,
      acquisition_cost_minor bigint, acquisition_currency text, precedence text
    )
    """,
    """
    CREATE TYPE reported_schedule AS (
      clinic_id uuid, appointment_id uuid, patient_id uuid, practitioner_id uuid, service_code text,
      specialty_code text, starts_at interval, ends_at interval, booked_at interval,
      channel text, modality text, no_show_due_at interval, schedule_precedence text
    )
    """,
    """
    CREATE TYPE reported_status AS (
      clinic_id uuid, appointment_id uuid, patient_id uuid, status text, status_at interval,
      cancelled_by text, cancel_reason_code text, is_late_cancellation boolean, marked_by text,
      status_precedence text
    )
    """,
    """
    CREATE TYPE reported_risk AS (
      clinic_id uuid, appointment_id uuid, patient_id uuid, no_show_risk_band text,
      no_show_risk_precedence text
    )
    """,
    """
    CREATE TYPE reported_visit AS (
      clinic_id uuid, visit_id uuid, appointment_id uuid, patient_id uuid, practitioner_id uuid,
      service_code text, specialty_code text, kind text, outcome text, arrived_at interval,
      started_at interval, completed_at interval, next_visit_due_on date,
      referral_reason text, referral_urgency text, charged_minor bigint, cost_minor bigint,
      currency text, precedence text
    )
    """,
    """
    CREATE TYPE reported_lead AS (
      clinic_id uuid, lead_id uuid, patient_id uuid, channel text, reason_code text,
      lost_at interval, precedence text
    )
    """,
)


def upgrade() -> None:
    roles = migration_roles(op)
    chassis_schema.create(op, roles)
    events_schema.create(op, roles, with_intake=True)

    op.create_table(
        "clinic",
        sa.Column("clinic_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("country", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("live_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("precedence", sa.Text(collation="C"), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("clinic_id", name=op.f("clinic_pkey")),
    )

    op.create_table(
        "patient",
        sa.Column("clinic_id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("birth_year", sa.SmallInteger(), nullable=True),
        sa.Column("sex", sa.Text(), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("time_zone", sa.Text(), nullable=True),
        sa.Column("family_id", sa.Uuid(), nullable=True),
        sa.Column("payer", sa.Text(), nullable=True),
        sa.Column("employer_id", sa.Uuid(), nullable=True),
        sa.Column("is_chronic", sa.Boolean(), nullable=True),
        sa.Column("acquisition_channel", sa.Text(), nullable=True),
        sa.Column("acquisition_cost_minor", sa.BigInteger(), nullable=True),
        sa.Column("acquisition_currency", sa.Text(), nullable=True),
        sa.Column("identity_encrypted", sa.LargeBinary(), nullable=True),
        sa.Column("contacts_encrypted", sa.LargeBinary(), nullable=True),
        sa.Column("contacts_told_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("precedence", sa.Text(collation="C"), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("clinic_id", "patient_id", name=op.f("patient_pkey")),
    )

    op.create_table(
        "practitioner",
        sa.Column("clinic_id", sa.Uuid(), nullable=False),
        sa.Column("practitioner_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("clinic_id", "practitioner_id", name=op.f("practitioner_pkey")),
    )

    op.create_table(
        "service",
        sa.Column("clinic_id", sa.Uuid(), nullable=False),
        sa.Column("service_code", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("clinic_id", "service_code", name=op.f("service_pkey")),
    )

    op.create_table(
        "appointment",
        sa.Column("clinic_id", sa.Uuid(), nullable=False),
        sa.Column("appointment_id", sa.Uuid(), nullable=False),
        sa.Column("practitioner_id", sa.Uuid(), nullable=True),
        sa.Column("service_code", sa.Text(), nullable=True),
        sa.Column("specialty_code", sa.Text(), nullable=True),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("booked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("channel", sa.Text(), nullable=True),
        sa.Column("modality", sa.Text(), nullable=True),
        sa.Column("no_show_due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("schedule_precedence", sa.Text(collation="C"), server_default="", nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("status_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_by", sa.Text(), nullable=True),
        sa.Column("cancel_reason_code", sa.Text(), nullable=True),
        sa.Column("is_late_cancellation", sa.Boolean(), nullable=True),
        sa.Column("marked_by", sa.Text(), nullable=True),
        sa.Column("status_precedence", sa.Text(collation="C"), server_default="", nullable=False),
        sa.Column("guess_precedence", sa.Text(collation="C"), server_default="", nullable=False),
        sa.Column("guess_over", sa.Text(collation="C"), server_default="", nullable=False),
        sa.Column("no_show_reason_code", sa.Text(), nullable=True),
        sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("move_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("no_show_risk_band", sa.Text(), nullable=True),
        sa.Column(
            "no_show_risk_precedence", sa.Text(collation="C"), server_default="", nullable=False
        ),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("clinic_id", "appointment_id", name=op.f("appointment_pkey")),
    )
    op.create_index(
        op.f("appointment_clinic_id_appointment_id_idx"),
        "appointment",
        ["clinic_id", "appointment_id"],
        unique=False,
        postgresql_where=sa.text("move_requested_at IS NOT NULL"),
    )
    op.create_index(
        "appointment_guess_idx",
        "appointment",
        ["clinic_id", "appointment_id"],
        unique=False,
        postgresql_where=sa.text("guess_precedence <> ''"),
    )
    op.create_index(
        op.f("appointment_no_show_due_at_idx"),
        "appointment",
        ["no_show_due_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('booked', 'confirmed')"),
    )

    op.create_table(
        "visit",
        sa.Column("clinic_id", sa.Uuid(), nullable=False),
        sa.Column("visit_id", sa.Uuid(), nullable=False),
        sa.Column("appointment_id", sa.Uuid(), nullable=True),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("practitioner_id", sa.Uuid(), nullable=True),
        sa.Column("service_code", sa.Text(), nullable=True),
        sa.Column("specialty_code", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_visit_due_on", sa.Date(), nullable=True),
        sa.Column("referral_reason", sa.Text(), nullable=True),
        sa.Column("referral_urgency", sa.Text(), nullable=True),
        sa.Column("charged_minor", sa.BigInteger(), nullable=True),
        sa.Column("cost_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("precedence", sa.Text(collation="C"), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("clinic_id", "visit_id", name=op.f("visit_pkey")),
    )
    op.create_index(
        op.f("visit_completed_at_idx"),
        "visit",
        ["completed_at"],
        unique=False,
        postgresql_using="brin",
    )

    op.create_table(
        "lost_lead",
        sa.Column("clinic_id", sa.Uuid(), nullable=False),
        sa.Column("lead_id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=True),
        sa.Column("channel", sa.Text(), nullable=True),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("lost_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("precedence", sa.Text(collation="C"), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("clinic_id", "lead_id", name=op.f("lost_lead_pkey")),
    )

    op.create_table(
        "identifier",
        sa.Column("clinic_id", sa.Uuid(), nullable=False),
        sa.Column("noun", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("clinic_id", "noun", "id", name=op.f("identifier_pkey")),
    )

    op.create_table(
        "link",
        sa.Column("clinic_id", sa.Uuid(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("appointment_id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Uuid(), nullable=False),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("known_start", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("clinic_id", "token_hash", name=op.f("link_pkey")),
    )
    protect(op, "clinic", roles, worker="due")
    protect(op, "patient", roles)
    protect(op, "practitioner", roles)
    protect(op, "service", roles)
    protect(op, "appointment", roles, worker="due")
    protect(op, "visit", roles)
    protect(op, "lost_lead", roles)
    protect(op, "identifier", roles)
    protect(op, "link", roles)
    owner_lookup(op, "link", roles, function="clinic_of_link", column="token_hash")
    # Erasure takes the contact blocks out of what the outbox retains; nothing else of it ever changes.
    op.execute(f'GRANT UPDATE (data) ON outbox TO "{roles.app}"')
    # What is encrypted is encrypted anew after a rotation, clinic by clinic.
    list_clinics(op, "patient", roles)
    for statement in TYPES:
        op.execute(statement)
