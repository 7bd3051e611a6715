"""The first tables: delivery, intake, projections, surveys, reviews, complaints."""

from alembic import op

from feedback.complaints import tables as complaints
from feedback.projections import tables as projections
from feedback.reviews import tables as reviews
from feedback.surveys import tables as surveys
from revisit_chassis import schema as chassis
from revisit_chassis.migrate import migration_roles
from revisit_events import intake_tables as intake
from revisit_events import schema as events

revision = "0001"
down_revision = None

PACKAGES = (chassis, events, intake, projections, surveys, reviews, complaints)


def upgrade() -> None:
    roles = migration_roles(op)
    for package in PACKAGES:
        package.create(op, roles)
