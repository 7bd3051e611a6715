"""The first tables: delivery, projections, consent, messages, links, pauses, tasks, 2Z."""

from alembic import op

from engagement.checks import tables as checks
from engagement.consent import tables as consent
from engagement.links import tables as links
from engagement.messages import tables as messages
from engagement.pauses import tables as pauses
from engagement.projections import tables as projections
from engagement.tasks import tables as tasks
from engagement.two_z import tables as two_z
from revisit_chassis import schema as chassis
from revisit_chassis.migrate import migration_roles
from revisit_events import schema as events

revision = "0001"
down_revision = None

PACKAGES = (
    chassis,
    events,
    projections,
    consent,
    messages,
    links,
    pauses,
    checks,
    tasks,
    two_z,
)


def upgrade() -> None:
    roles = migration_roles(op)
    for package in PACKAGES:
        package.create(op, roles)
