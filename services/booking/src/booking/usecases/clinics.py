"""Registering a clinic."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.domain.patient import Clinic
from booking.projection import SOURCE
from booking.store import clinics
from booking.usecases.recording import correlation_of_request, record
from revisit_events.contracts import ClinicRegistered
from revisit_events.envelope import new_event


async def put_clinic(
    connection: AsyncConnection,
    clinic_id: UUID,
    name: str,
    time_zone: str,
    language: str,
    country: str,
    currency: str,
    live_from: datetime | None,
    now: datetime,
) -> tuple[Clinic, bool]:
    """Registers a clinic or changes its particulars; says so only when something changed.

    Args:
        connection: Inside a transaction of the clinic.
        clinic_id: The tenant.
        name: As patients know it.
        time_zone: IANA zone.
        language: BCP 47 tag.
        country: ISO 3166 code.
        currency: ISO 4217 code.
        live_from: Visits before it are imported history; None keeps what is set, at first `now`.
        now: Moment of the command.

    Returns:
        The clinic, and whether it is new.
    """
    before = await clinics.clinic(connection, clinic_id, for_update=True)
    wanted = Clinic(
        clinic_id=clinic_id,
        name=name,
        time_zone=time_zone,
        language=language,
        country=country,
        currency=currency,
        live_from=live_from or (before.live_from if before else now),
        version=before.version if before else 0,
        told_at=before.told_at if before else None,
        sequence=before.sequence if before else 0,
    )
    if wanted == before:
        return wanted, False
    event = new_event(
        ClinicRegistered(
            clinic_id=clinic_id,
            name=name,
            time_zone=time_zone,
            language=language,
            country=country,
            currency=currency,
            live_from=wanted.live_from,
        ),
        source=SOURCE,
        clinic_id=clinic_id,
        time=max(now, wanted.told_at or now),
        # A clinic system may have reported the clinic under a greater number at the same moment.
        sequence=max(wanted.version, wanted.sequence) + 1,
        correlation_id=correlation_of_request(),
    )
    await record(connection, [event], now)
    after = await clinics.clinic(connection, clinic_id)
    return after or wanted, before is None
