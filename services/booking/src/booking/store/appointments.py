"""Appointments and visits."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from booking import tables
from booking.domain.appointment import Appointment, Cancellation, CancelledBy, Schedule, Status
from booking.store.rows import Key, is_row
from revisit_events.envelope import precedence

PRESENCE_RANK: Mapping[Status, int] = {Status.ARRIVED: 40, Status.IN_PROGRESS: 50}
"""Ranks of the two steps that only booking knows, between those of the published ones."""


async def appointment(
    connection: AsyncConnection, clinic_id: UUID, appointment_id: UUID, *, for_update: bool = False
) -> Appointment | None:
    """One appointment, locked until the transaction ends if `for_update`."""
    query = sa.select(tables.appointment).where(
        is_row(tables.appointment, clinic_id, appointment_id=appointment_id)
    )
    query = query.with_for_update() if for_update else query
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else appointment_from_row(row)


async def lock_appointments(
    connection: AsyncConnection, keys: Sequence[Key]
) -> dict[Key, Appointment]:
    """Those of the appointments that exist, locked in the order of their keys."""
    table = tables.appointment
    query = (
        sa.select(table)
        .where(sa.tuple_(table.c.clinic_id, table.c.appointment_id).in_(sorted(set(keys))))
        .order_by(table.c.clinic_id, table.c.appointment_id)
        .with_for_update()
    )
    rows = (await connection.execute(query)).mappings()
    return {(row["clinic_id"], row["appointment_id"]): appointment_from_row(row) for row in rows}


async def move_requests(
    connection: AsyncConnection, clinic_id: UUID, after: UUID | None, limit: int
) -> list[Appointment]:
    """Appointments that patients asked to move, by id, from the one after `after`."""
    table = tables.appointment
    query = (
        sa.select(table)
        .where(table.c.clinic_id == clinic_id, table.c.move_requested_at.is_not(None))
        .where(table.c.status.in_(["booked", "confirmed"]))
        .order_by(table.c.appointment_id)
        .limit(limit)
    )
    query = query.where(table.c.appointment_id > after) if after else query
    return [appointment_from_row(row) for row in (await connection.execute(query)).mappings()]


def appointment_from_row(row: Mapping[Any, Any]) -> Appointment:
    """The value of a row of `appointment`."""
    schedule = cancellation = None
    if row["starts_at"] is not None:
        schedule = Schedule(**{name: row[name] for name in Schedule.__dataclass_fields__})
    if row["status"] == Status.CANCELLED:
        cancellation = Cancellation(
            CancelledBy(row["cancelled_by"]),
            row["cancel_reason_code"] or "",
            bool(row["is_late_cancellation"]),
        )
    return Appointment(
        appointment_id=row["appointment_id"],
        patient_id=row["patient_id"],
        status=Status(row["status"]) if row["status"] else None,
        schedule=schedule,
        status_at=row["status_at"],
        version=row["version"],
        cancellation=cancellation,
        marked_by=row["marked_by"],
        arrived_at=row["arrived_at"],
        started_at=row["started_at"],
        move_requested_at=row["move_requested_at"],
    )


async def save_presence(connection: AsyncConnection, clinic_id: UUID, present: Appointment) -> None:
    """Writes arrival and start, which no event carries, at their place in the order of facts."""
    status, status_at = present.status, present.status_at
    if status is None or status not in PRESENCE_RANK or status_at is None:
        raise ValueError(status)
    place = precedence(status_at, present.version, PRESENCE_RANK[status], "/booking")
    await connection.execute(
        sa.update(tables.appointment)
        .where(is_row(tables.appointment, clinic_id, appointment_id=present.appointment_id))
        .values(
            status=status.value,
            status_at=status_at,
            status_precedence=place,
            cancelled_by=None,
            cancel_reason_code=None,
            is_late_cancellation=None,
            marked_by=None,
            arrived_at=present.arrived_at,
            started_at=present.started_at,
            version=present.version,
        )
    )


async def save_move_requests(
    connection: AsyncConnection, wishes: Sequence[tuple[UUID, Appointment]]
) -> None:
    """Writes that patients asked for another time.

    Args:
        connection: Inside a transaction of the clinics.
        wishes: Clinic and appointment after the wish; at least one.
    """
    await connection.exec_driver_sql(
        """
        UPDATE appointment SET move_requested_at = wish.at, version = wish.version
        FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::int[])
          AS wish (clinic_id, appointment_id, at, version)
        WHERE appointment.clinic_id = wish.clinic_id
          AND appointment.appointment_id = wish.appointment_id
        """,
        (
            [clinic_id for clinic_id, _ in wishes],
            [wish.appointment_id for _, wish in wishes],
            [wish.move_requested_at for _, wish in wishes],
            [wish.version for _, wish in wishes],
        ),
    )


async def visit_exists(connection: AsyncConnection, clinic_id: UUID, visit_id: UUID) -> bool:
    """Whether the id of a visit is taken."""
    query = sa.select(sa.literal(1)).where(is_row(tables.visit, clinic_id, visit_id=visit_id))
    return (await connection.execute(query)).first() is not None
