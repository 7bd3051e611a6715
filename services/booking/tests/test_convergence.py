"""Any order and any repetition of a patient's reports ends with the same rows."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booking.store.named import keep_identifiers
from booking.usecases.reports import take_reports
from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.envelope import AnyEvent
from standalone.cluster import ServiceDatabase

START = datetime(2026, 1, 12, 9, tzinfo=UTC)
NOW = START + timedelta(days=20)
DAY = timedelta(days=1)
ANNA, BORIS = uuid.UUID(int=7), uuid.UUID(int=8)
TABLES = {
    "clinic": "name, time_zone, live_from, precedence",
    "patient": "patient_id, language, birth_year, erased_at, precedence",
    "practitioner": "practitioner_id",
    "service": "service_code",
    "appointment": "appointment_id, patient_id, status, status_at, starts_at, booked_at, "
    "no_show_due_at, cancelled_by, cancel_reason_code, marked_by, "
    "schedule_precedence, status_precedence",
    "visit": "visit_id, appointment_id, patient_id, outcome, completed_at, precedence",
    "lost_lead": "lead_id, reason_code, lost_at, precedence",
    "identifier": "noun, id, identifier",
}


def life() -> list[AnyEvent]:
    """Two patients: kept, moved, cancelled, missed, taken back; a correction, equal moments, an erasure."""
    kept, moved, missed = (uuid.UUID(int=number) for number in (1, 2, 3))
    doctor, visit = uuid.UUID(int=20), uuid.UUID(int=30)
    anna: dict[str, Any] = {"patient_id": ANNA, "source": "//mis"}
    boris: dict[str, Any] = {"patient_id": BORIS, "source": "//mis"}
    plan: dict[str, Any] = {"practitioner_id": doctor}
    return [
        testing.clinic_registered(time=START - DAY, name="first"),
        testing.clinic_registered(time=START, name="second"),
        testing.patient_registered(time=START, language="ru", **anna),
        testing.patient_updated(time=START + DAY, language="en", **anna),
        testing.appointment_booked(time=START, appointment_id=kept, **plan, **anna),
        # At one moment the rank in the life cycle decides, then the id.
        testing.appointment_confirmed(time=START + DAY, appointment_id=kept, **anna),
        testing.appointment_rescheduled(
            time=START + DAY, appointment_id=kept, starts_at=START + 2 * DAY, **plan, **anna
        ),
        testing.visit_completed(
            time=START + 2 * DAY, visit_id=visit, appointment_id=kept, **plan, **anna
        ),
        testing.visit_completed(
            time=START + 3 * DAY,
            visit_id=visit,
            appointment_id=kept,
            outcome="healthy",
            **plan,
            **anna,
        ),
        testing.appointment_booked(time=START, appointment_id=moved, **plan, **anna),
        testing.appointment_cancelled(time=START + 3 * DAY, appointment_id=moved, **anna),
        testing.appointment_booked(
            time=START + 3 * DAY, appointment_id=moved, sequence=5, **plan, **anna
        ),
        testing.appointment_booked(time=START, appointment_id=missed, **plan, **boris),
        testing.appointment_no_show(
            time=START + 4 * DAY, appointment_id=missed, marked_by="reception", **boris
        ),
        testing.appointment_no_show_reversed(time=START + 4 * DAY, appointment_id=missed, **boris),
        testing.lead_lost(time=START, lead_id=uuid.UUID(int=40), source="//mis"),
        testing.patient_registered(time=START + 6 * DAY, **boris),
        testing.patient_erased(time=START + 5 * DAY, **boris),
    ]


async def apply(database: Database, events: Sequence[AnyEvent]) -> None:
    named = [
        (event.clinic_id, "patient", patient_id, f"own {patient_id.int}")
        for event in events
        if (patient_id := getattr(event.data, "patient_id", None)) is not None
    ]
    async with database.transaction({event.clinic_id for event in events}) as connection:
        await keep_identifiers(connection, sorted(set(named)))
        await take_reports(connection, events, NOW)


async def state(database: Database, clinic_id: uuid.UUID) -> dict[str, list[str]]:
    found = {}
    async with database.transaction((clinic_id,)) as connection:
        for table, columns in TABLES.items():
            rows = await connection.exec_driver_sql(f"SELECT {columns} FROM {table}")
            found[table] = sorted(str(tuple(row)) for row in rows)
    return found


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
async def test_rows_are_the_same_for_every_order_and_repetition(
    service_database: ServiceDatabase, data: st.DataObject
) -> None:
    told = life()
    order = data.draw(st.permutations([*told, *data.draw(st.lists(st.sampled_from(told)))]))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(order) - 1), max_size=6)))
    database = Database(service_database.database_url, pool_size=1)
    try:
        ends = []
        for batches in (
            [told],
            [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)],
        ):
            clinic_id = uuid.uuid4()
            for batch in batches:
                await apply(database, [replace(event, clinic_id=clinic_id) for event in batch])
            ends.append(await state(database, clinic_id))
        assert ends[0] == ends[1]
    finally:
        await database.close()
