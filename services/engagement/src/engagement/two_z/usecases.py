"""Keeping the 2Z rule: asking for checks, repairing broken states, releases, the statement.

A handler that changes a fact calls `touch` (or one of its sisters) in the same transaction. The
repair then reads the facts of every patient who is due and mends what is broken. Nothing here
commits.
"""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.checks.store import (
    DueCheck,
    ask_for_checks,
    ask_for_clinics,
    save_next_checks,
)
from engagement.consent.usecases import refuse_everything
from engagement.messages.domain import Channel
from engagement.messages.endings import Ending, end_messages
from engagement.messages.gate import Check as GateCheck
from engagement.messages.gate import Decision, Verdict
from engagement.messages.ledger import decision_json
from engagement.projections.store import lock_patient
from engagement.tasks.domain import Outcome, Task, TaskNotFoundError
from engagement.tasks.store import Closing
from engagement.tasks.store import load as load_task
from engagement.tasks.usecases import close_tasks, expire_tasks, finish_task, open_tasks
from engagement.two_z import statement, store
from engagement.two_z.domain import (
    BAR_EVERYTHING,
    Check,
    ReleaseReason,
    check,
    first_moment_of_today,
    next_checks,
)
from engagement.two_z.statement import Counts

OPT_OUT_WORDING = "opted-out-1"


@dataclass(frozen=True, slots=True)
class Statement:
    """The 2Z statement of one clinic at one moment.

    Args:
        time_zone: The clinic's; None while the clinic is unknown, and then nobody is in scope.
        violating: The first patients in none of the three states, in the order of their ids.
    """

    counts: Counts
    as_of: datetime
    time_zone: str | None
    violating: Sequence[uuid.UUID]


async def touch(
    connection: AsyncConnection, pairs: Iterable[tuple[uuid.UUID, uuid.UUID]], now: datetime
) -> None:
    """Asks for a check of patients at once: a fact that decides about them has changed.

    Takes (clinic, patient). Call it before changing tasks of the patients in the same transaction.
    """
    await ask_for_checks(
        connection, [(clinic_id, patient_id, now) for clinic_id, patient_id in pairs]
    )


async def touch_visits(
    connection: AsyncConnection,
    visits: Sequence[tuple[uuid.UUID, uuid.UUID, datetime]],
    known_zones: Mapping[uuid.UUID, str] = MappingProxyType({}),
) -> None:
    """Asks for checks of patients at the deadlines of visits.

    Args:
        connection: In the transaction that saved the visits.
        visits: Clinic, patient and completion.
        known_zones: Of clinics, as far as the caller has read them in this transaction.
    """
    zones = dict(known_zones)
    if unread := {clinic_id for clinic_id, _, _ in visits} - zones.keys():
        zones |= await store.time_zones(connection, unread)
    await ask_for_checks(connection, next_checks(visits, zones))


async def touch_clinics(
    connection: AsyncConnection, clinic_ids: Collection[uuid.UUID], now: datetime
) -> None:
    """Asks for checks of all patients of clinics: their zone or `live_from` may have changed."""
    await ask_for_clinics(connection, clinic_ids, now)


async def forget_patients(
    connection: AsyncConnection, pairs: Sequence[tuple[uuid.UUID, uuid.UUID]], now: datetime
) -> None:
    """Leaves no task of erased patients open; the caller has marked them erased."""
    await touch(connection, pairs, now)
    await close_tasks(
        connection,
        [
            Closing(clinic_id, patient_id, Outcome.RELEASED, now, is_all=True)
            for clinic_id, patient_id in sorted(set(pairs))
        ],
    )


@dataclass(frozen=True, slots=True)
class Release:
    """Why no further contact is owed to a patient, who says so and who wrote it down."""

    reason: ReleaseReason
    approved_by: str
    recorded_by: str


async def release_patient(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    patient_id: uuid.UUID,
    release: Release,
    now: datetime,
) -> uuid.UUID:
    """Records that no further contact is owed to a patient; ends open tasks and messages.

    It covers the visits completed until now; a visit completed later starts a new obligation.

    Returns:
        The id of the release.
    """
    await _end_contact(connection, clinic_id, patient_id, release, now)
    await touch(connection, [(clinic_id, patient_id)], now)
    return await _record(connection, clinic_id, patient_id, release, now)


async def release_by_task(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    task_id: uuid.UUID,
    release: Release,
    *,
    minutes: int,
    now: datetime,
) -> tuple[Task, bool]:
    """Closes a task because its patient is released, and records the release.

    Gives the task, and whether this changed it: said again, nothing is recorded again.

    Raises:
        TaskNotFoundError: There is no such task.
        TaskClosedError: It is closed with another outcome.
    """
    found = await load_task(connection, clinic_id, task_id)
    if found is None:
        raise TaskNotFoundError
    if found.is_open:
        await _end_contact(connection, clinic_id, found.patient_id, release, now)
    task, is_changed = await finish_task(
        connection,
        clinic_id,
        task_id,
        outcome=Outcome.RELEASED,
        minutes=minutes,
        call_back_at=None,
        by=release.recorded_by,
        now=now,
    )
    if is_changed:
        await _record(connection, clinic_id, task.patient_id, release, now)
    return task, is_changed


async def repair(
    connection: AsyncConnection, due: Sequence[tuple[DueCheck, datetime]], now: datetime
) -> int:
    """Checks patients whose rows this transaction has locked and mends what is broken.

    Each is judged at the moment given beside it, never after `now`.

    Returns:
        How many patients were checked.
    """
    if not due:
        return 0
    judged_at = {(item.clinic_id, item.patient_id): at for item, at in due}
    checks = {
        (facts.clinic_id, facts.patient_id): check(
            facts, judged_at[facts.clinic_id, facts.patient_id]
        )
        for facts in await store.facts(connection, judged_at)
    }
    await close_tasks(
        connection,
        [
            Closing(*pair, found.closes_as, judged_at[pair], is_all=found.closes_all)
            for pair, found in checks.items()
            if found.closes_as is not None
        ],
    )
    broken = [(pair, found.open) for pair, found in checks.items() if found.open is not None]
    await expire_tasks(connection, [(*pair, judged_at[pair]) for pair, _ in broken])
    await open_tasks(connection, [task for _, task in broken], now)
    # Last, because opening a task asks for another check, which is this one.
    await save_next_checks(connection, _next_checks(checks))
    return len(checks)


async def two_z_statement(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    now: datetime,
    *,
    after: uuid.UUID | None,
    limit: int,
) -> Statement:
    """Counts every patient in scope once and lists some of those in none of the three states."""
    zone = (await store.time_zones(connection, [clinic_id])).get(clinic_id)
    if zone is None:
        return Statement(Counts(0, 0, 0, 0), now, None, ())
    today_since = first_moment_of_today(now, zone)
    counts = await statement.counts(connection, clinic_id, today_since, now)
    violating = (
        await statement.violations(
            connection, clinic_id, today_since, now, after=after, limit=limit
        )
        if counts.violations
        else []
    )
    return Statement(counts, now, zone, violating)


async def _end_contact(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    patient_id: uuid.UUID,
    release: Release,
    now: datetime,
) -> None:
    """Ends messages before the 2Z row is taken: the sender holds messages when it opens a task.

    A release covers what was, and the next visit begins anew. Who has opted out does not want to
    hear of the next visit either, and so refuses.
    """
    await lock_patient(connection, clinic_id, patient_id)
    if release.reason is ReleaseReason.OPTED_OUT:
        await refuse_everything(
            connection,
            clinic_id,
            patient_id,
            channels=list(Channel),
            wording_version=OPT_OUT_WORDING,
            source="release",
            by=release.recorded_by,
            now=now,
        )
    withheld = GateCheck("release", Verdict.DROP, f"released: {release.reason}", "released")
    decision = Decision(Verdict.DROP, "released", None, None, (withheld,))
    ending = Ending(
        clinic_id,
        patient_id,
        "released",
        decision_json(decision, now),
        now,
        # An appointment that stands is still theirs, and they are reminded of it.
        spares_service=release.reason not in BAR_EVERYTHING,
    )
    await end_messages(connection, [ending])


async def _record(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    patient_id: uuid.UUID,
    release: Release,
    now: datetime,
) -> uuid.UUID:
    release_id = uuid.uuid4()
    await store.insert_release(
        connection,
        clinic_id=clinic_id,
        release_id=release_id,
        patient_id=patient_id,
        reason=release.reason,
        approved_by=release.approved_by,
        recorded_by=release.recorded_by,
        released_at=now,
    )
    await close_tasks(
        connection, [Closing(clinic_id, patient_id, Outcome.RELEASED, now, is_all=True)]
    )
    return release_id


def _next_checks(
    checks: dict[tuple[uuid.UUID, uuid.UUID], Check],
) -> list[tuple[uuid.UUID, uuid.UUID, datetime | None]]:
    return [(*pair, found.next_at) for pair, found in checks.items()]
