"""Tables of the intake: which events were taken, and those that were refused."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from revisit_chassis.db import metadata
from revisit_chassis.tenancy import Operations, Roles, list_clinics, protect

METADATA = metadata()

intake = sa.Table(
    "intake",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("body_digest", sa.LargeBinary, nullable=False),
    comment="Identity of every event taken from outside, for ever.",
)

rejected_event = sa.Table(
    "rejected_event",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("rejected_event_id", pg.UUID, primary_key=True, comment="made of the body"),
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, comment="the last time"),
    sa.Column("times", sa.Integer, nullable=False, comment="how often it was sent"),
    sa.Column("event_id", sa.Text),
    sa.Column("source", sa.Text),
    sa.Column("event_type", sa.Text),
    sa.Column("problem", pg.JSONB, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False, comment="encrypted: it may be personal data"),
    sa.Column("replayed_at", sa.DateTime(timezone=True), comment="when a replay was taken"),
    sa.Index("rejected_event_received_idx", "clinic_id", "received_at", "rejected_event_id"),
    comment="Events that were refused, kept for a while so that they can be tried again.",
)


def create(op: Operations, roles: Roles) -> None:
    """Makes the tables; part of the first migration of a service with an intake.

    Args:
        op: Of the migration.
        roles: The service's users.
    """
    METADATA.create_all(op.get_bind())
    op.execute(
        "CREATE TYPE intake_claim AS (clinic_id uuid, source text, event_id text, body_digest bytea)"
    )
    op.execute(
        "CREATE TYPE intake_event AS (clinic_id uuid, topic text, key text, event_id text, headers text,"
        " data bytea, source text, body_digest bytea)"
    )
    protect(op, "intake", roles, privileges="SELECT, INSERT")
    protect(op, "rejected_event", roles)
    list_clinics(op, "rejected_event", roles)
