"""Table of reviews; their text, author and address are encrypted and stay here."""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import BYTEA, UUID

from revisit_chassis.db import metadata
from revisit_chassis.tenancy import Roles, list_clinics, protect

METADATA = metadata()

UUID_ = UUID(as_uuid=True)
TIME = sa.DateTime(timezone=True)

review = sa.Table(
    "review",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("review_id", UUID_, primary_key=True),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("rating_1_to_5", sa.SmallInteger, nullable=False),
    sa.Column("published_at", TIME, nullable=False),
    sa.Column("detected_at", TIME, nullable=False),
    sa.Column("patient_id", UUID_),
    sa.Column("practitioner_id", UUID_),
    sa.Column("text", BYTEA),
    sa.Column("author", BYTEA),
    sa.Column("url", BYTEA),
    # When the clinic could first know of a low state of it, whatever it was edited to; NULL: never low.
    sa.Column("low_detected_at", TIME),
    sa.Column("precedence", sa.Text(collation="C"), nullable=False),
    sa.CheckConstraint("rating_1_to_5 BETWEEN 1 AND 5", name="rating"),
    sa.Index("ix_review_published", "clinic_id", "published_at", "review_id"),
    sa.Index(
        "ix_review_patient",
        "clinic_id",
        "patient_id",
        postgresql_where=sa.text("patient_id IS NOT NULL"),
    ),
)


def create(op: Operations, roles: Roles) -> None:
    """Creates the table with row-level security; called by the initial migration."""
    review.create(op.get_bind())
    protect(op, review.name, roles)
    list_clinics(op, review.name, roles)
