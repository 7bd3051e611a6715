"""Tables of complaints and of the causes recorded for them."""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import BYTEA, UUID

from revisit_chassis.db import metadata
from revisit_chassis.tenancy import Roles, list_clinics, protect

METADATA = metadata()

UUID_ = UUID(as_uuid=True)
TIME = sa.DateTime(timezone=True)

complaint = sa.Table(
    "complaint",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    # Made from origin and origin_id where there is one: a survey or a review opens one case.
    sa.Column("complaint_id", UUID_, primary_key=True),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("origin_id", UUID_),
    sa.Column("patient_id", UUID_),
    sa.Column("visit_id", UUID_),
    sa.Column("practitioner_id", UUID_),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("cause_code", sa.Text, nullable=False),
    sa.Column("opened_at", TIME, nullable=False),
    sa.Column("due_at", TIME, nullable=False),
    sa.Column("rule_version", sa.Integer),
    # Encrypted, both; NULL as well once the patient was erased.
    sa.Column("text", BYTEA),
    sa.Column("resolution_text", BYTEA),
    sa.Column("resolution_code", sa.Text),
    sa.Column("resolved_at", TIME),
    sa.Column("resolved_by", sa.Text),
    sa.Column("causes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.CheckConstraint(
        "(resolved_at IS NULL) = (resolution_code IS NULL)", name="resolved_with_code"
    ),
    sa.Index("ix_complaint_opened", "clinic_id", "opened_at", "complaint_id"),
    sa.Index("ix_complaint_patient", "clinic_id", "patient_id"),
)

complaint_cause = sa.Table(
    "complaint_cause",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("complaint_id", UUID_, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("cause_code", sa.Text, nullable=False),
    sa.Column("recorded_at", TIME, nullable=False),
    sa.Column("recorded_by", sa.Text, nullable=False),
)


def create(op: Operations, roles: Roles) -> None:
    """Creates the tables with row-level security; called by the initial migration."""
    for table in (complaint, complaint_cause):
        table.create(op.get_bind())
        protect(op, table.name, roles)
    list_clinics(op, complaint.name, roles)
