"""Waiting times, summed by the database."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from booking import tables


@dataclass(frozen=True, slots=True)
class Waiting:
    """Waiting times of one practitioner; of the whole clinic without one."""

    practitioner_id: UUID | None
    n: int
    mean_minutes: float
    share_under_target: float


@dataclass(frozen=True, slots=True)
class WaitingTimes:
    """Waiting times of a period, and how many visits told nothing about theirs."""

    overall: Waiting | None
    by_practitioner: tuple[Waiting, ...]
    excluded: int


async def waiting_times(
    connection: AsyncConnection,
    clinic_id: UUID,
    completed_from: datetime,
    completed_before: datetime,
    target_minutes: int,
    practitioner_id: UUID | None = None,
) -> WaitingTimes:
    """Mean wait and share under the target, from arrival to start, where both are known and agree.

    Args:
        connection: Inside a transaction of the clinic.
        clinic_id: The clinic.
        completed_from: First moment of the period.
        completed_before: First moment after it.
        target_minutes: A wait counts as short below it.
        practitioner_id: Only visits at this one.
    """
    visits = tables.visit
    minutes = sa.extract("epoch", visits.c.started_at - visits.c.arrived_at) / 60
    is_known = visits.c.started_at >= visits.c.arrived_at
    query = (
        sa.select(
            sa.func.grouping(visits.c.practitioner_id).label("is_overall"),
            visits.c.practitioner_id,
            sa.func.count().filter(is_known).label("n"),
            (sa.func.count() - sa.func.count().filter(is_known)).label("excluded"),
            sa.func.avg(minutes).filter(is_known).label("mean_minutes"),
            sa.func.avg(sa.case((minutes < target_minutes, 1.0), else_=0.0))
            .filter(is_known)
            .label("share"),
        )
        .where(
            visits.c.clinic_id == clinic_id,
            visits.c.completed_at >= completed_from,
            visits.c.completed_at < completed_before,
        )
        .group_by(sa.func.grouping_sets(sa.tuple_(visits.c.practitioner_id), sa.tuple_()))
        .order_by(visits.c.practitioner_id)
    )
    if practitioner_id is not None:
        query = query.where(visits.c.practitioner_id == practitioner_id)
    overall, excluded, by_practitioner = None, 0, []
    for row in await connection.execute(query):
        excluded = row.excluded if row.is_overall else excluded
        if not row.n:
            continue
        waiting = Waiting(row.practitioner_id, row.n, float(row.mean_minutes), float(row.share))
        if row.is_overall:
            overall = waiting
        else:
            by_practitioner.append(waiting)
    return WaitingTimes(overall, tuple(by_practitioner), excluded)
