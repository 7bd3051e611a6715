"""The consent ledger, the head of each patient's chain, and what stands now."""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import UUID

from revisit_chassis.db import NAMING_CONVENTION
from revisit_chassis.tenancy import Roles, protect

METADATA = sa.MetaData(naming_convention=NAMING_CONVENTION)

UUID_ = UUID(as_uuid=True)
TIME = sa.DateTime(timezone=True)

consent_entry = sa.Table(
    "consent_entry",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("wording_version", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("given_at", TIME, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    # When it came in: inside the chain, because it decides with `given_at` what stands.
    sa.Column("recorded_at", TIME, nullable=False),
    # Outside the chain: by whose hand.
    sa.Column("recorded_by", sa.Text, nullable=False),
)

# Kept apart from the entries so that a chain cut short shows; its row is the lock of the chain.
consent_chain = sa.Table(
    "consent_chain",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, primary_key=True),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("head", sa.Text, nullable=False),
)

consent = sa.Table(
    "consent",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, primary_key=True),
    sa.Column("purpose", sa.Text, primary_key=True),
    sa.Column("channel", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("wording_version", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("given_at", TIME, nullable=False),
    sa.Column("recorded_at", TIME, nullable=False),
)


def create(op: Operations, roles: Roles) -> None:
    """Creates the tables with row-level security; called by the initial migration."""
    for table, privileges in (
        (consent_entry, "SELECT, INSERT"),
        (consent_chain, "SELECT, INSERT, UPDATE"),
        (consent, "SELECT, INSERT, UPDATE"),
    ):
        table.create(op.get_bind())
        protect(op, table.name, roles, privileges=privileges)
