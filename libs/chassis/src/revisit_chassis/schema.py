"""The chassis' own tables in each service's database."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from revisit_chassis.db import metadata
from revisit_chassis.tenancy import Operations, Roles, list_clinics, protect

METADATA = metadata()

idempotency_key = sa.Table(
    "idempotency_key",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("route", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("body_digest", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.SmallInteger, comment="of the stored answer; null while in flight"),
    sa.Column("headers", pg.JSONB),
    sa.Column("answer", sa.LargeBinary, comment="encrypted where the service has keys"),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    comment="Answers to requests with an Idempotency-Key, given again to a repeat.",
)

revoked_token = sa.Table(
    "revoked_token",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("jti", sa.Text, primary_key=True),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    comment="Tokens that are refused though their signature is good.",
)

audit_entry = sa.Table(
    "audit_entry",
    METADATA,
    sa.Column("clinic_id", pg.UUID, primary_key=True),
    sa.Column("entry_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("correlation_id", sa.Text),
    comment="Who did what to which record; append-only.",
)


def create(op: Operations, roles: Roles) -> None:
    """Makes the tables; part of a service's first migration.

    Args:
        op: Of the migration.
        roles: The service's users.
    """
    METADATA.create_all(op.get_bind())
    protect(op, "idempotency_key", roles, worker=True)
    list_clinics(op, "idempotency_key", roles)
    # Append-only also for the service itself.
    protect(op, "audit_entry", roles, privileges="SELECT, INSERT")
    protect(op, "revoked_token", roles, worker=True)
    # Every API reads the whole list: it holds random ids of tokens and nothing of a clinic's.
    op.execute(
        f'CREATE POLICY revoked_token_read ON revoked_token FOR SELECT TO "{roles.app}" USING (true)'
    )
