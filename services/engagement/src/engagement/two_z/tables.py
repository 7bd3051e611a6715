"""The table of releases, and when an appointment stops to count, as SQL.

The state of a patient stands nowhere: it follows from the facts at the moment of asking.
"""

from datetime import timedelta

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import UUID

from engagement.two_z.domain import ASSUMED_DURATION, LONGEST_APPOINTMENT, UNATTENDED_AFTER
from revisit_chassis.db import NAMING_CONVENTION
from revisit_chassis.tenancy import Roles, protect

METADATA = sa.MetaData(naming_convention=NAMING_CONVENTION)

UUID_ = UUID(as_uuid=True)
TIME = sa.DateTime(timezone=True)


def _interval(length: timedelta) -> str:
    return f"interval '{length.total_seconds():.0f} s'"


# When an appointment stops to count as booked; also where its end is unknown or makes no sense.
BOOKED_UNTIL = f"""greatest(starts_at, least(
    coalesce(ends_at, starts_at + {_interval(ASSUMED_DURATION)}),
    starts_at + {_interval(LONGEST_APPOINTMENT)}
)) + {_interval(UNATTENDED_AFTER)}"""

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
    """Creates the table with row-level security; called by the initial migration."""
    release.create(op.get_bind())
    protect(op, release.name, roles)
