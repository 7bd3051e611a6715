"""Statements that bring booking's rows to what was reported: one a table, arrays of rows in.

Of several reports about one row the statement itself takes the one that stands.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from booking import tables
from booking.store.named import stubs_of
from revisit_chassis.db import EPOCH_IN_SQL


def insert_statement(table: sa.Table, reported: sa.Table, precedence: str, source: str = "") -> str:
    """SQL that takes an array of rows that are not there yet, the greatest precedence of each row.

    Args:
        table: Target; its primary key decides what one row is.
        reported: The type of the rows, `tables.REPORTED`: one group's columns, keys included.
        precedence: Name of the group's precedence column.
        source: Where the rows come from, and on which condition; the first parameter if not given.
    """
    keys = ", ".join(column.name for column in table.primary_key)
    names = ", ".join(reported.columns.keys())
    values = ", ".join(
        f"{EPOCH_IN_SQL} + {column.name}" if column.type is tables.SPAN else column.name
        for column in reported.columns
    )
    # Every name comes from the table objects of this package.
    return (
        f"INSERT INTO {table.name} ({names}) "  # noqa: S608
        f"SELECT DISTINCT ON ({keys}) {values} FROM {source or f'unnest($1::{reported.name}[])'} "
        f'ORDER BY {keys}, {precedence} COLLATE "C" DESC'
    )


def upsert_statement(
    table: sa.Table,
    reported: sa.Table,
    precedence: str,
    *,
    source: str = "",
    keep: Sequence[str] = (),
    also_set: str = "",
    only_where: str = "",
) -> str:
    """SQL that takes an array of rows and lets the greatest precedence of each row stand.

    Args:
        table: As for `insert_statement`.
        reported: The same.
        precedence: The same.
        source: The same.
        keep: Columns for a new row only.
        also_set: Further assignments where the row changes.
        only_where: Further condition for a change.
    """
    keys = [column.name for column in table.primary_key]
    columns = reported.columns.keys()
    changes = [f"{name} = excluded.{name}" for name in columns if name not in {*keys, *keep}]
    changes += [also_set] if also_set else []
    condition = f"excluded.{precedence} > {table.name}.{precedence}"
    condition += f" AND {only_where}" if only_where else ""
    return (
        f"{insert_statement(table, reported, precedence, source)} "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {', '.join(changes)} WHERE {condition}"
    )


SCHEDULES = upsert_statement(
    tables.appointment,
    tables.reported_schedule,
    "schedule_precedence",
    keep=("patient_id",),
    # A new plan answers the wish to move the old one; reported late it changes the plan alone.
    also_set="move_requested_at = NULL, version = appointment.version + 1",
)


def _statuses(source: str = "") -> str:
    return upsert_statement(
        tables.appointment,
        tables.reported_status,
        "status_precedence",
        source=source,
        also_set="version = appointment.version + 1",
    )


_STUBS_OF_VISITS = stubs_of(
    "SELECT clinic_id, patient_id FROM visits",
    "SELECT clinic_id, practitioner_id FROM visits WHERE practitioner_id IS NOT NULL",
    "SELECT clinic_id, service_code FROM visits WHERE service_code IS NOT NULL",
)


def _with_all_they_name(visits: str) -> str:
    """SQL that takes visits and the statuses in which they leave appointments, and does all that is to do.

    The appointments read how many stubs there are, and the visits how many appointments, so that locks come
    in their order (`stubs_of`).

    Args:
        visits: The visits' own statement, from `_VISITS_GIVEN`.
    """
    return f"""
WITH visits AS MATERIALIZED (
  SELECT * FROM unnest($1::reported_visit[])
), {_STUBS_OF_VISITS}, appointments AS (
  {_statuses("unnest($2::reported_status[]) WHERE (SELECT number FROM stubs) >= 0")}
  RETURNING true
)
{visits}
"""  # noqa: S608  (made of constants)


_VISITS_GIVEN = "visits WHERE (SELECT number FROM stubs) + (SELECT count(*) FROM appointments) >= 0"
_VISIT = tables.visit, tables.reported_visit, "precedence"
STATUSES = _statuses()
VISITS = upsert_statement(*_VISIT)
VISITS_ALONE = _with_all_they_name(upsert_statement(*_VISIT, source=_VISITS_GIVEN))
NEW_VISITS_ALONE = _with_all_they_name(insert_statement(*_VISIT, source=_VISITS_GIVEN))
LEADS = upsert_statement(tables.lost_lead, tables.reported_lead, "precedence")
CLINICS = upsert_statement(
    tables.clinic,
    tables.reported_clinic,
    "precedence",
    also_set="version = clinic.version + 1",
)
PATIENTS = upsert_statement(
    tables.patient,
    tables.reported_patient,
    "precedence",
    also_set="version = patient.version + 1",
    only_where="patient.erased_at IS NULL",
)
LOCKED_PATIENT = """
UPDATE patient SET
  birth_year = $3, sex = $4, language = $5, time_zone = $6, family_id = $7, payer = $8,
  employer_id = $9, is_chronic = $10, acquisition_channel = $11, acquisition_cost_minor = $12,
  acquisition_currency = $13, precedence = $14, version = $15,
  identity_encrypted = coalesce($16, identity_encrypted),
  contacts_encrypted = coalesce($17, contacts_encrypted),
  contacts_told_at = coalesce($18, contacts_told_at)
WHERE clinic_id = $1 AND patient_id = $2
"""
ERASE = """
INSERT INTO patient (clinic_id, patient_id, erased_at)
SELECT clinic_id, patient_id, min(erased_at)
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS erased (clinic_id, patient_id, erased_at)
GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (clinic_id, patient_id) DO UPDATE SET
  birth_year = NULL, sex = NULL, language = NULL, time_zone = NULL, family_id = NULL, payer = NULL,
  employer_id = NULL, is_chronic = NULL, acquisition_channel = NULL, acquisition_cost_minor = NULL,
  acquisition_currency = NULL, identity_encrypted = NULL, contacts_encrypted = NULL, precedence = '',
  contacts_told_at = NULL,
  erased_at = least(patient.erased_at, excluded.erased_at), version = patient.version + 1
"""
LOCK_PATIENTS = """
SELECT FROM patient JOIN unnest($1::uuid[], $2::uuid[]) AS meant (clinic_id, patient_id)
  USING (clinic_id, patient_id)
ORDER BY clinic_id, patient_id FOR UPDATE OF patient
"""
# What is retained for a replay is told again as it was; a contact block must not be.
FORGET_CONTACTS = """
UPDATE outbox SET data = NULL
FROM unnest($1::uuid[], $2::uuid[]) AS erased (clinic_id, patient_id)
WHERE outbox.clinic_id = erased.clinic_id AND topic = 'patient.contact_changed' AND data IS NOT NULL
  AND key = erased.clinic_id || ':' || erased.patient_id
"""
