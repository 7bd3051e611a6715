"""One run of a journey is told once, however its facts come."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.apps import tell

from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.envelope import AnyEvent

BOOKED = datetime(2026, 3, 1, 9, tzinfo=UTC)
STARTS = datetime(2026, 3, 2, 12, tzinfo=UTC)
DONE = datetime(2026, 3, 2, 13, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize("batches", [1, 3], ids=["in one batch", "each in its own"])
async def test_appointment_that_ends_in_a_visit_enrols_in_each_journey_once(
    database: Database, clinic_id: uuid.UUID, batches: int
) -> None:
    live_from = BOOKED - 30 * DAY
    clinic = testing.clinic_registered(clinic_id=clinic_id, time=live_from, live_from=live_from)
    await tell("engagement", database, [clinic], DONE)
    told = _life(clinic_id)
    size = len(told) // batches
    for start in range(0, len(told), size):
        await tell("engagement", database, told[start : start + size], DONE)
    async with database.transaction((clinic_id,)) as connection:
        rows = await connection.exec_driver_sql(
            "SELECT convert_from(data, 'UTF8')::json ->> 'journey' FROM outbox "
            "WHERE topic = 'journey.enrolled' ORDER BY 1"
        )
        assert rows.scalars().all() == ["follow-up", "reminder"]


def _life(clinic_id: uuid.UUID) -> list[AnyEvent]:
    patient_id, appointment_id = uuid.uuid4(), uuid.uuid4()
    whose: dict[str, Any] = {
        "clinic_id": clinic_id,
        "patient_id": patient_id,
        "appointment_id": appointment_id,
    }
    return [
        testing.appointment_booked(**whose, starts_at=STARTS, ends_at=DONE, time=BOOKED),
        testing.appointment_confirmed(**whose, time=BOOKED + DAY / 4),
        testing.visit_completed(**whose, visit_id=uuid.uuid4(), completed_at=DONE, time=DONE),
    ]
