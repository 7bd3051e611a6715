"""Tables of surveys, of the links to them and of the responses."""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, UUID

from revisit_chassis.db import metadata
from revisit_chassis.tenancy import Roles, list_clinics, owner_lookup, protect

METADATA = metadata()

UUID_ = UUID(as_uuid=True)
TIME = sa.DateTime(timezone=True)

survey = sa.Table(
    "survey",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("survey_key", sa.Text, primary_key=True),
    # Every version is kept: a response and a case name the one they came from.
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("definition", JSONB, nullable=False),
    sa.Column("changed_at", TIME, nullable=False),
    sa.Column("changed_by", sa.Text, nullable=False),
)

survey_link = sa.Table(
    "survey_link",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    sa.Column("link_id", UUID_, primary_key=True),
    # SHA-256 of the token, hexadecimal; the token itself is nowhere.
    sa.Column("token_hash", sa.Text, nullable=False),
    sa.Column("patient_id", UUID_, nullable=False),
    sa.Column("visit_id", UUID_, nullable=False),
    sa.Column("language", sa.Text),
    sa.Column("expires_at", TIME, nullable=False),
    # Looked up before any clinic is known, so not led by clinic_id; 128 random bits never meet.
    sa.Index("uq_survey_link_token_hash", "token_hash", unique=True),
)

survey_response = sa.Table(
    "survey_response",
    METADATA,
    sa.Column("clinic_id", UUID_, primary_key=True),
    # Made from the link: a link has one response at most.
    sa.Column("response_id", UUID_, primary_key=True),
    sa.Column("link_id", UUID_, nullable=False),
    sa.Column("survey_key", sa.Text, nullable=False),
    sa.Column("survey_version", sa.Integer, nullable=False),
    sa.Column("patient_id", UUID_, nullable=False),
    # Whom the patient saw is looked up by the visit, which may be told of later.
    sa.Column("visit_id", UUID_, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("csat", sa.SmallInteger),
    sa.Column("nps", sa.SmallInteger),
    # Encrypted; NULL as well once the patient was erased.
    sa.Column("comment", BYTEA),
    sa.Column("answered_at", TIME, nullable=False),
    sa.CheckConstraint("csat BETWEEN 1 AND 5", name="csat"),
    sa.CheckConstraint("nps BETWEEN 0 AND 10", name="nps"),
    sa.Index("ix_survey_response_patient", "clinic_id", "patient_id"),
)


def create(op: Operations, roles: Roles) -> None:
    """Creates the tables with row-level security; called by the initial migration."""
    for table in (survey, survey_link, survey_response):
        table.create(op.get_bind())
        protect(op, table.name, roles)
    owner_lookup(op, survey_link.name, roles, function="clinic_of_link", column="token_hash")
    list_clinics(op, survey_response.name, roles)
