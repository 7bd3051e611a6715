"""Appointments and visits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from booking import tables
from booking.domain.appointment import Appointment, Cancellation, CancelledBy, Schedule, Status
from booking.store.rows import Key, is_row, sequence_of, time_of
from revisit_events.envelope import precedence


@dataclass(frozen=True, slots=True)
class Standing:
    """What an appointment's status stands by."""

    status: str
    precedence: str

    @property
    def is_no_show(self) -> bool:
        """Whether it is a no-show."""
        return self.status == Status.NO_SHOW

    @property
    def at(self) -> datetime:
        """Time of the report."""
        at = time_of(self.precedence)
        if at is None:
            raise ValueError(self.status)
        return at

    @property
    def sequence(self) -> int:
        """Sequence of the report."""
        return sequence_of(self.precedence)


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


async def reserve_appointment(
    connection: AsyncConnection, clinic_id: UUID, appointment_id: UUID, patient_id: UUID
) -> Appointment:
    """One appointment, locked; a stub where there was none, so that a second booking waits for the first."""
    await connection.exec_driver_sql(
        "INSERT INTO appointment (clinic_id, appointment_id, patient_id) VALUES ($1, $2, $3) "
        "ON CONFLICT DO NOTHING",
        (clinic_id, appointment_id, patient_id),
    )
    query = (
        sa.select(tables.appointment)
        .where(is_row(tables.appointment, clinic_id, appointment_id=appointment_id))
        .with_for_update()
    )
    return appointment_from_row((await connection.execute(query)).mappings().one())


async def move_requests(
    connection: AsyncConnection, clinic_id: UUID, after: UUID | None, limit: int
) -> list[Appointment]:
    """Appointments that patients asked to move, by id, from the one after `after`; whom to call.

    An erased patient cannot be called.
    """
    table, patients = tables.appointment, tables.patient
    erased = sa.exists().where(
        patients.c.clinic_id == table.c.clinic_id,
        patients.c.patient_id == table.c.patient_id,
        patients.c.erased_at.is_not(None),
    )
    query = (
        sa.select(table)
        .where(table.c.clinic_id == clinic_id, table.c.move_requested_at.is_not(None))
        .where(table.c.status.in_(["booked", "confirmed"]), ~erased)
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
        sequence=sequence_of(row["status_precedence"]),
        rests_on=row["guess_over"]
        if row["guess_precedence"] == row["status_precedence"]
        else row["status_precedence"],
        cancellation=cancellation,
        marked_by=row["marked_by"],
        arrived_at=row["arrived_at"],
        started_at=row["started_at"],
        move_requested_at=row["move_requested_at"],
        no_show_reason_code=row["no_show_reason_code"] if row["status"] == "no_show" else None,
    )


async def save_presence(connection: AsyncConnection, clinic_id: UUID, present: Appointment) -> None:
    """Writes arrival and start, which no event carries, at their place in the order of facts."""
    status, status_at = present.status, present.status_at
    if status is None or status not in PRESENCE_RANK or status_at is None:
        raise ValueError(status)
    place = precedence(status_at, present.own_sequence, PRESENCE_RANK[status], "/booking")
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


async def save_no_show_reason(
    connection: AsyncConnection, clinic_id: UUID, appointment_id: UUID, reason_code: str
) -> None:
    """Writes why a patient did not come, as they told somebody who reached them."""
    await connection.execute(
        sa.update(tables.appointment)
        .where(is_row(tables.appointment, clinic_id, appointment_id=appointment_id))
        .values(no_show_reason_code=reason_code, version=tables.appointment.c.version + 1)
    )


async def save_guesses(
    connection: AsyncConnection, guesses: Sequence[tuple[Key, str, str]]
) -> None:
    """Writes that the statuses are guesses, or corrections of guesses, and what each rests on.

    Args:
        connection: Inside a transaction of the clinics.
        guesses: Appointment, precedence of the status, precedence of the report under it.
    """
    if guesses:
        await connection.exec_driver_sql(
            """
            UPDATE appointment SET guess_precedence = guess.precedence, guess_over = guess.rests_on
            FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[])
              AS guess (clinic_id, appointment_id, precedence, rests_on)
            WHERE appointment.clinic_id = guess.clinic_id
              AND appointment.appointment_id = guess.appointment_id
            """,
            (
                [key[0] for key, _, _ in guesses],
                [key[1] for key, _, _ in guesses],
                [precedence for _, precedence, _ in guesses],
                [rests_on for _, _, rests_on in guesses],
            ),
        )


async def lock_outweighed(
    connection: AsyncConnection, reported: Sequence[tuple[Key, str]]
) -> dict[int, Standing]:
    """Reports that lost to no more than a guess: their places in `reported`, with what stands instead.

    Of several about one appointment only the newest. The rows are locked.

    Args:
        connection: Inside a transaction of the clinics.
        reported: Appointment and precedence of each report.
    """
    rows = await connection.exec_driver_sql(
        """
        SELECT place, status, status_precedence FROM (
          SELECT DISTINCT ON (clinic_id, appointment_id) *
          FROM unnest($1::uuid[], $2::uuid[], $3::text[]) WITH ORDINALITY
            AS given (clinic_id, appointment_id, precedence, place)
          ORDER BY clinic_id, appointment_id, precedence COLLATE "C" DESC
        ) AS report JOIN appointment USING (clinic_id, appointment_id)
        WHERE guess_precedence <> '' AND guess_precedence = status_precedence
          AND guess_over < report.precedence AND report.precedence < status_precedence
        ORDER BY clinic_id, appointment_id
        FOR UPDATE OF appointment
        """,
        (
            [key[0] for key, _ in reported],
            [key[1] for key, _ in reported],
            [place for _, place in reported],
        ),
    )
    return {row.place - 1: Standing(row.status, row.status_precedence) for row in rows}


async def visit_exists(connection: AsyncConnection, clinic_id: UUID, visit_id: UUID) -> bool:
    """Whether the id of a visit is taken; whoever asks next waits until this transaction ends."""
    await connection.exec_driver_sql(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (f"visit {clinic_id} {visit_id}",)
    )
    query = sa.select(sa.literal(1)).where(is_row(tables.visit, clinic_id, visit_id=visit_id))
    return (await connection.execute(query)).first() is not None
