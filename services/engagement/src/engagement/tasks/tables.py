"""Tables of contact tasks and of the attempts made on them."""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import UUID

from engagement.tasks.domain import CLOSED_BY_BOOKING, SNOOZE_LIMIT
from revisit_chassis.db import NAMING_CONVENTION
from revisit_chassis.tenancy import Roles, protect

METADATA = sa.MetaData(naming_convention=NAMING_CONVENTION)

UUID_ = UUID(as_uuid=True)
TIME = sa.DateTime(timezone=True)
IS_OPEN = "outcome IS NULL"
_ABOUT_NEXT_APPOINTMENT = ", ".join(f"'{reason}'" for reason in sorted(CLOSED_BY_BOOKING))

task = sa.Table(
    "task",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    # Made from patient, reason, subject and occurrence: opening the same task again meets its own key.
    sa.Column("task_id", UUID_, primary_key=True),
    sa.Column("patient_id", UUID_, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("subject_id", UUID_, nullable=False),
    sa.Column("escalation", sa.SmallInteger, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("opened_at", TIME, nullable=False),
    sa.Column("due_at", TIME, nullable=False),
    # From when to work it: at once or when it is due, moved on by every snooze.
    sa.Column("next_at", TIME, nullable=False),
    sa.Column("expires_at", TIME, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("snoozes", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("minutes", sa.Integer, nullable=False, server_default="0"),
    # A lease in real time: it frees the task of a caller who went home.
    sa.Column("claimed_by", sa.Text),
    sa.Column("claimed_until", TIME),
    sa.Column("outcome", sa.Text),
    sa.Column("closed_at", TIME),
    sa.Column("closed_by", sa.Text),
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.CheckConstraint("(outcome IS NULL) = (closed_at IS NULL)", name="closed_with_outcome"),
    sa.CheckConstraint(f"snoozes BETWEEN 0 AND {SNOOZE_LIMIT}", name="snoozes"),
    # One contact about the next appointment at a time, whoever opens it.
    sa.Index(
        "uq_task_open_about_next_appointment",
        "clinic_id",
        "patient_id",
        unique=True,
        postgresql_where=sa.text(f"{IS_OPEN} AND reason IN ({_ABOUT_NEXT_APPOINTMENT})"),
    ),
    sa.Index("ix_task_patient", "clinic_id", "patient_id", "opened_at"),
    sa.Index("ix_task_due", "clinic_id", "due_at", "task_id"),
    sa.Index(
        "ix_task_open_next",
        "clinic_id",
        sa.text("priority DESC"),
        "next_at",
        postgresql_where=sa.text(IS_OPEN),
    ),
    # Across clinics: the worker looks for tasks out of time.
    sa.Index("ix_task_open_expires", "expires_at", postgresql_where=sa.text(IS_OPEN)),
)

task_attempt = sa.Table(
    "task_attempt",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("task_id", UUID_, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("minutes", sa.Integer, nullable=False),
    sa.Column("made_at", TIME, nullable=False),
    sa.Column("made_by", sa.Text, nullable=False),
)


def create(op: Operations, roles: Roles) -> None:
    """Creates the tables with row-level security; called by the initial migration."""
    task.create(op.get_bind())
    protect(op, task.name, roles, worker="due")
    task_attempt.create(op.get_bind())
    protect(op, task_attempt.name, roles)
