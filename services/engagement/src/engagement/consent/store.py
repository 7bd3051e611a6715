"""Rows of the consent ledger, of the head of each chain, and of what stands now."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.consent.domain import GENESIS, ConsentState, Entry, Purpose, Statement

_ENTRY = "purpose, channel, state, wording_version, source, given_at, recorded_at"


class LedgerRow(NamedTuple):
    """An entry with its place in the chain and its digest."""

    position: int
    entry: Entry
    digest: str


async def locked_chain(
    connection: AsyncConnection, clinic_id: UUID, patient_id: UUID
) -> tuple[int, str]:
    """Length and last digest of a patient's chain, which nobody else lengthens until the commit."""
    await connection.exec_driver_sql(
        "INSERT INTO consent_chain (clinic_id, patient_id, length, head) VALUES ($1, $2, 0, $3) "
        "ON CONFLICT DO NOTHING",
        (clinic_id, patient_id, GENESIS),
    )
    return await chain(connection, clinic_id, patient_id, lock="FOR UPDATE")


async def chain(
    connection: AsyncConnection, clinic_id: UUID, patient_id: UUID, *, lock: str = ""
) -> tuple[int, str]:
    """Length and last digest of a patient's chain."""
    result = await connection.exec_driver_sql(
        "SELECT length, head FROM consent_chain "  # noqa: S608  # the lock is a constant of ours
        f"WHERE clinic_id = $1 AND patient_id = $2 {lock}",
        (clinic_id, patient_id),
    )
    row = result.one_or_none()
    return (row.length, row.head) if row else (0, GENESIS)


async def ledger(connection: AsyncConnection, clinic_id: UUID, patient_id: UUID) -> list[LedgerRow]:
    """A patient's ledger in order."""
    rows = await connection.exec_driver_sql(
        f"SELECT position, digest, {_ENTRY} FROM consent_entry "  # noqa: S608  # constant
        "WHERE clinic_id = $1 AND patient_id = $2 ORDER BY position",
        (clinic_id, patient_id),
    )
    return [LedgerRow(row.position, _entry(row), row.digest) for row in rows]


async def append(
    connection: AsyncConnection,
    clinic_id: UUID,
    patient_id: UUID,
    rows: Sequence[LedgerRow],
    *,
    by: str,
) -> None:
    """Lengthens a chain; the caller has locked it."""
    await connection.exec_driver_sql(
        f"""
        INSERT INTO consent_entry (clinic_id, patient_id, recorded_by, position, digest, {_ENTRY})
        SELECT $1, $2, $3, * FROM unnest($4::int[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[])
        """,  # noqa: S608  # built of the constant above
        (
            clinic_id,
            patient_id,
            by,
            [row.position for row in rows],
            [row.digest for row in rows],
            *_columns([row.entry for row in rows]),
        ),
    )
    await connection.exec_driver_sql(
        "UPDATE consent_chain SET length = $3, head = $4 WHERE clinic_id = $1 AND patient_id = $2",
        (clinic_id, patient_id, rows[-1].position, rows[-1].digest),
    )


async def standing(connection: AsyncConnection, clinic_id: UUID, patient_id: UUID) -> list[Entry]:
    """What stands now, by purpose and channel."""
    rows = await connection.exec_driver_sql(
        f"SELECT {_ENTRY} FROM consent "  # noqa: S608  # constant
        "WHERE clinic_id = $1 AND patient_id = $2 ORDER BY purpose, channel",
        (clinic_id, patient_id),
    )
    return [_entry(row) for row in rows]


async def let_stand(
    connection: AsyncConnection, clinic_id: UUID, patient_id: UUID, entries: Sequence[Entry]
) -> None:
    """Makes entries what stands, at most one a purpose and channel."""
    await connection.exec_driver_sql(
        f"""
        INSERT INTO consent (clinic_id, patient_id, {_ENTRY})
        SELECT $1, $2, * FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::timestamptz[], $9::timestamptz[])
        ON CONFLICT (clinic_id, patient_id, purpose, channel) DO UPDATE SET
            state = excluded.state, wording_version = excluded.wording_version,
            source = excluded.source, given_at = excluded.given_at,
            recorded_at = excluded.recorded_at
        """,  # noqa: S608  # built of the constant above
        (clinic_id, patient_id, *_columns(entries)),
    )


def _columns(entries: Sequence[Entry]) -> tuple[list[object], ...]:
    said = [entry.statement for entry in entries]
    return (
        [one.purpose.value for one in said],
        [one.channel for one in said],
        [one.state.value for one in said],
        [one.wording_version for one in said],
        [one.source for one in said],
        [one.given_at for one in said],
        [entry.recorded_at for entry in entries],
    )


def _entry(row: Any) -> Entry:
    statement = Statement(
        purpose=Purpose(row.purpose),
        channel=row.channel,
        state=ConsentState(row.state),
        wording_version=row.wording_version,
        source=row.source,
        given_at=row.given_at,
    )
    return Entry(statement, row.recorded_at)
