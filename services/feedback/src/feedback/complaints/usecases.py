"""What can be done with complaints: open, classify, resolve. Nothing here commits."""

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.complaints import store
from feedback.complaints.domain import (
    DUE_AFTER,
    Complaint,
    ComplaintNotFoundError,
    Origin,
    Severity,
    classified,
    resolved,
)
from feedback.projections.store import erased_among
from feedback.sealing import seal
from revisit_chassis.crypto import Keyring
from revisit_events.contracts import ComplaintOpened, ComplaintResolved
from revisit_events.envelope import Event, new_event
from revisit_events.outbox import publish

SOURCE = "/feedback"


async def keep_complaints(connection: AsyncConnection, rows: Sequence[Complaint]) -> None:
    """Opens those of the complaints that are not there yet; the others follow what they came from.

    What follows is how grave it is, whom it is about and since when: what a survey or a review says as
    it stands now. The event of the opening tells what was known then. Callers have checked who was
    erased: nothing that such a patient wrote may be in the rows.
    """
    rows = sorted(
        {(row.clinic_id, row.complaint_id): row for row in rows}.values(),
        key=lambda row: (row.clinic_id, row.complaint_id),
    )
    opened = await store.insert_complaints(connection, rows)
    await publish(
        connection, [_opened(row) for row in rows if (row.clinic_id, row.complaint_id) in opened]
    )
    await store.follow_origin(
        connection, [row for row in rows if (row.clinic_id, row.complaint_id) not in opened]
    )


async def record_complaint(
    connection: AsyncConnection,
    keyring: Keyring,
    clinic_id: uuid.UUID,
    *,
    patient_id: uuid.UUID | None,
    visit_id: uuid.UUID | None,
    practitioner_id: uuid.UUID | None,
    severity: Severity,
    cause_code: str,
    text: str | None,
    now: datetime,
) -> Complaint:
    """Opens a complaint that staff heard, by telephone or at the desk."""
    complaint_id = uuid.uuid4()
    if patient_id and await erased_among(connection, [(clinic_id, patient_id)]):
        text = None
    complaint = Complaint(
        clinic_id=clinic_id,
        complaint_id=complaint_id,
        origin=Origin.STAFF,
        origin_id=None,
        patient_id=patient_id,
        visit_id=visit_id,
        practitioner_id=practitioner_id,
        severity=severity,
        cause_code=cause_code,
        opened_at=now,
        due_at=now + DUE_AFTER,
        text=seal(keyring, text, clinic_id, complaint_id, "text"),
    )
    await keep_complaints(connection, [complaint])
    return complaint


async def classify_complaint(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    complaint_id: uuid.UUID,
    *,
    cause_code: str,
    by: str,
    now: datetime,
) -> Complaint:
    """Records what a complaint was caused by; earlier causes stay on record.

    Raises:
        ComplaintNotFoundError: There is no such complaint.
    """
    found = await store.lock(connection, clinic_id, complaint_id)
    if found is None:
        raise ComplaintNotFoundError
    changed = classified(found, cause_code)
    await store.save(connection, changed)
    await store.insert_cause(connection, changed, recorded_at=now, recorded_by=by)
    return changed


async def resolve_complaint(
    connection: AsyncConnection,
    keyring: Keyring,
    clinic_id: uuid.UUID,
    complaint_id: uuid.UUID,
    *,
    resolution_code: str,
    text: str | None,
    by: str,
    now: datetime,
) -> Complaint:
    """Ends a complaint.

    Raises:
        ComplaintNotFoundError: There is no such complaint.
        ComplaintResolvedError: It was resolved before.
    """
    seen = await store.load(connection, clinic_id, complaint_id)
    # The patient first, then the complaint: in the order of an erasure, or the two wait for each other.
    if seen and seen.patient_id and await erased_among(connection, [(clinic_id, seen.patient_id)]):
        text = None
    found = await store.lock(connection, clinic_id, complaint_id)
    if found is None:
        raise ComplaintNotFoundError
    sealed = seal(keyring, text, clinic_id, complaint_id, "resolution_text")
    changed = resolved(found, resolution_code, sealed, by=by, now=now)
    await store.save(connection, changed)
    await publish(connection, [_resolved(changed)])
    return changed


def _opened(row: Complaint) -> Event[ComplaintOpened]:
    return new_event(
        ComplaintOpened(
            complaint_id=row.complaint_id,
            patient_id=row.patient_id,
            visit_id=row.visit_id,
            cause_code=row.cause_code,
            severity=row.severity,
        ),
        source=SOURCE,
        clinic_id=row.clinic_id,
        time=row.opened_at,
        sequence=1,
        id=f"{row.complaint_id}:opened",
    )


def _resolved(row: Complaint) -> Event[ComplaintResolved]:
    return new_event(
        ComplaintResolved(
            complaint_id=row.complaint_id,
            patient_id=row.patient_id,
            visit_id=row.visit_id,
            cause_code=row.cause_code,
            severity=row.severity,
            hours_to_resolve=row.hours_to_resolve or 0.0,
        ),
        source=SOURCE,
        clinic_id=row.clinic_id,
        time=row.resolved_at or row.opened_at,
        sequence=row.version,
        id=f"{row.complaint_id}:resolved",
    )
