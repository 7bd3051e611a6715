"""Tables of the 2Z rule: when each patient is to be looked at again, and the releases.

There is no state in here: whether a patient is released, booked, has a task or is a violation
follows from the facts at the moment of asking. `two_z` only says when somebody has to ask next.
"""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import UUID

from revisit_chassis.db import NAMING_CONVENTION
from revisit_chassis.tenancy import Roles, protect

METADATA = sa.MetaData(naming_convention=NAMING_CONVENTION)

UUID_ = UUID(as_uuid=True)
TIME = sa.DateTime(timezone=True)

two_z = sa.Table(
    "two_z",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, primary_key=True),
    # NULL: only a new fact can change the state.
    sa.Column("check_at", TIME),
    # Across clinics: the worker looks for checks that are due.
    sa.Index("ix_two_z_check_at", "check_at", postgresql_where=sa.text("check_at IS NOT NULL")),
)

release = sa.Table(
    "release",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("release_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("approved_by", sa.Text, nullable=False),
    sa.Column("recorded_by", sa.Text, nullable=False),
    sa.Column("released_at", TIME, nullable=False),
    sa.Index("ix_release_patient", "clinic_id", "patient_id", "released_at"),
)


def create(op: Operations, roles: Roles) -> None:
    """Creates the tables with row-level security; called by the initial migration."""
    two_z.create(op.get_bind())
    protect(op, two_z.name, roles, worker="due")
    release.create(op.get_bind())
    protect(op, release.name, roles)
