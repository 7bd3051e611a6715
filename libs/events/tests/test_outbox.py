"""What a statement tells of its own rows is what the same events would have been, to the byte."""

import uuid
from datetime import UTC, datetime
from uuid import UUID

import pytest

from revisit_chassis.db import Database, fetch
from revisit_events.contracts import JourneyEnrolled, PatientContactChanged
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.outbox import form_of, message_of, places, publish, telling
from standalone.cluster import Cluster

AT = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
ROWS = """
WITH runs AS (
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS given (clinic_id, run_id, patient_id)
), """
ONCE_TOLD = "SELECT clinic_id, topic, key, event_id, headers, data FROM outbox ORDER BY event_id"
QUEUED = "SELECT slot FROM outbox_unsent ORDER BY slot"


def enrolled(clinic_id: UUID, run_id: UUID, patient_id: UUID) -> AnyEvent:
    """An event with a percent sign and a quotation mark, which mean something to PostgreSQL."""
    return new_event(
        JourneyEnrolled(
            enrolment_id=run_id,
            patient_id=patient_id,
            journey="100 % o'clock %1$s",
            version=1,
            subject_id=patient_id,
        ),
        source="/it's %s",
        clinic_id=clinic_id,
        time=AT,
        id=f"{run_id}:enrolled",
    )


async def test_rows_are_told_as_their_events_would_be(postgres: Cluster) -> None:
    database = Database(postgres.create("engagement").database_url)
    clinic_id = uuid.uuid4()
    runs = [(clinic_id, uuid.uuid4(), uuid.uuid4()) for _ in range(12)]
    try:
        async with database.transaction((clinic_id,)) as connection:
            form = form_of(enrolled(*places(3)))
            tell = ROWS + telling("runs", "clinic_id, run_id, patient_id", 4)
            await fetch(connection, tell, *map(list, zip(*runs, strict=True)), *form)
            told = [tuple(row) for row in await fetch(connection, ONCE_TOLD)]
            slots = [row.slot for row in await fetch(connection, QUEUED)]
            await publish(connection, [enrolled(*run) for run in runs])
            all_slots = [row.slot for row in await fetch(connection, QUEUED)]
    finally:
        await database.close()
    events = sorted((enrolled(*run) for run in runs), key=lambda event: event.id)
    assert told == [tuple(message_of(event)) for event in events]
    # The same keys again, so each slot twice.
    assert len(slots) == len(runs)
    assert all_slots == sorted(2 * slots)


def test_tombstone_has_no_form() -> None:
    (clinic_id,) = places(1)
    gone = new_event(
        PatientContactChanged(patient_id=uuid.uuid4(), contact=None),
        source="/booking",
        clinic_id=clinic_id,
        time=AT,
    )
    with pytest.raises(ValueError, match="tombstone"):
        form_of(gone)
