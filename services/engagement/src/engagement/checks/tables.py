"""When each patient is to be looked at again for the 2Z rule.

There is no state in here: whether a patient is released, booked, has a task or is a violation
follows from the facts at the moment of asking. `two_z` only says when somebody has to ask next.
"""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import UUID

from revisit_chassis.db import NAMING_CONVENTION
from revisit_chassis.tenancy import Roles, protect

METADATA = sa.MetaData(naming_convention=NAMING_CONVENTION)

two_z = sa.Table(
    "two_z",
    METADATA,
    sa.Column("clinic_id", UUID(as_uuid=True), primary_key=True),
    sa.Column("patient_id", UUID(as_uuid=True), primary_key=True),
    # NULL: only a new fact can change the state.
    sa.Column("check_at", sa.DateTime(timezone=True)),
    # Across clinics: the worker looks for checks that are due.
    sa.Index("ix_two_z_check_at", "check_at", postgresql_where=sa.text("check_at IS NOT NULL")),
)


def create(op: Operations, roles: Roles) -> None:
    """Creates the table with row-level security; called by the initial migration."""
    two_z.create(op.get_bind())
    op.execute(
        "CREATE TYPE wanted_check AS (clinic_id uuid, patient_id uuid, check_at timestamptz)"
    )
    op.execute(
        "COMMENT ON TYPE wanted_check IS 'What asking for a check takes; a column more is a new type.'"
    )
    protect(op, two_z.name, roles, worker="due")
