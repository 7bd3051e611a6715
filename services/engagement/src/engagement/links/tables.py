"""Links whose pages engagement serves: the preferences behind each message."""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import UUID

from revisit_chassis.db import NAMING_CONVENTION
from revisit_chassis.tenancy import Roles, owner_lookup, protect

METADATA = sa.MetaData(naming_convention=NAMING_CONVENTION)

UUID_ = UUID(as_uuid=True)
TIME = sa.DateTime(timezone=True)

link = sa.Table(
    "link",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    # SHA-256 of the token, hexadecimal; the token itself is stored nowhere.
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("patient_id", UUID_, nullable=False),
    sa.Column("message_id", UUID_, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("expires_at", TIME, nullable=False),
    sa.UniqueConstraint("token_hash"),
    # An erasure finds a patient's links.
    sa.Index("ix_link_patient", "clinic_id", "patient_id"),
)


def create(op: Operations, roles: Roles) -> None:
    """Creates the table with row-level security and the way from a token to its clinic."""
    link.create(op.get_bind())
    protect(op, link.name, roles)
    owner_lookup(op, link.name, roles, function="clinic_of_link", column="token_hash")
