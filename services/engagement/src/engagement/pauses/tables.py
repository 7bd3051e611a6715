"""What is paused in a clinic."""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import UUID

from revisit_chassis.db import NAMING_CONVENTION
from revisit_chassis.tenancy import Roles, protect

METADATA = sa.MetaData(naming_convention=NAMING_CONVENTION)

pause = sa.Table(
    "pause",
    METADATA,
    sa.Column("clinic_id", UUID(as_uuid=True), primary_key=True),
    # `clinic`, `journey:<key>` or `channel:<name>`.
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("paused_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("paused_by", sa.Text, nullable=False),
)


def create(op: Operations, roles: Roles) -> None:
    """Creates the table with row-level security; called by the initial migration."""
    pause.create(op.get_bind())
    protect(op, pause.name, roles)
