"""Projections of clinic, patient and visit, as far as feedback needs them.

A row is changed only where `excluded.precedence` is greater, compared byte by byte (`COLLATE "C"`).
"""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import UUID

from revisit_chassis.db import metadata
from revisit_chassis.tenancy import Roles, protect

METADATA = metadata()

UUID_ = UUID(as_uuid=True)
TIME = sa.DateTime(timezone=True)
PRECEDENCE = sa.Text(collation="C")

clinic = sa.Table(
    "clinic",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    # Where the event names none, its own time: what was published before is history.
    sa.Column("live_from", TIME, nullable=False),
    sa.Column("precedence", PRECEDENCE, nullable=False),
)

# Only who was erased: whatever arrives later, nothing personal of them is stored again.
erased_patient = sa.Table(
    "erased_patient",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, primary_key=True),
    sa.Column("erased_at", TIME, nullable=False),
)

visit = sa.Table(
    "visit",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("visit_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, nullable=False),
    sa.Column("practitioner_id", UUID_),
    sa.Column("completed_at", TIME, nullable=False),
    sa.Column("precedence", PRECEDENCE, nullable=False),
)


def create(op: Operations, roles: Roles) -> None:
    """Creates the tables with row-level security; called by the initial migration."""
    for table in (clinic, erased_patient, visit):
        table.create(op.get_bind())
        protect(op, table.name, roles)
