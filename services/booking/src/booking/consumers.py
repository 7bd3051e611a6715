"""Booking's inputs: one function an event, and the table at the end."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from booking import tables
from booking.domain.link import Answer, Reply
from booking.projection import run_rows
from booking.store.reported import upsert_statement
from booking.store.rows import run
from booking.usecases.answers import Received, take_answers
from revisit_events.contracts import (
    AppointmentAnswered,
    AppointmentNoShowRiskScored,
    EventData,
    LinkIssued,
    TokenRevoked,
)
from revisit_events.envelope import Event
from revisit_events.handlers import Handler
from revisit_events.revocations import on_token_revoked

KEEP_LINKS = """
INSERT INTO link (clinic_id, token_hash, purpose, appointment_id, patient_id, language, issued_at, expires_at,
                  known_start)
SELECT DISTINCT ON (clinic_id, token_hash) issued.*, planned.starts_at
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::text[], $7::timestamptz[],
            $8::timestamptz[])
  AS issued (clinic_id, token_hash, purpose, appointment_id, patient_id, language, issued_at, expires_at)
LEFT JOIN LATERAL (
  SELECT starts_at FROM appointment
  WHERE appointment.clinic_id = issued.clinic_id AND appointment.appointment_id = issued.appointment_id
  LIMIT 1
) AS planned ON true
ORDER BY clinic_id, token_hash
ON CONFLICT DO NOTHING
"""
RISKS = upsert_statement(
    tables.appointment,
    tables.reported_risk,
    "no_show_risk_precedence",
    keep=("patient_id",),
)
PURPOSES = frozenset(Answer)
REASON_CODE = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


async def on_link_issued(
    connection: AsyncConnection,
    events: Sequence[Event[LinkIssued]],
    now: datetime,  # noqa: ARG001
) -> None:
    """Keeps the links whose page is here; surveys and preferences belong to others."""
    rows = [
        (
            event.clinic_id,
            event.data.token_hash,
            event.data.purpose,
            event.data.subject_id,
            event.data.patient_id,
            event.data.language,
            event.time,
            event.data.expires_at,
        )
        for event in events
        if event.data.purpose in PURPOSES
    ]
    if rows:
        await run(connection, KEEP_LINKS, rows)


async def on_appointment_answered(
    connection: AsyncConnection, events: Sequence[Event[AppointmentAnswered]], now: datetime
) -> None:
    """Confirms, cancels or notes the wish to move, as the patient wrote back."""
    replies = [
        Received(
            Reply(
                event.clinic_id,
                event.data.appointment_id,
                Answer(event.data.answer),
                _code(event.data.reason),
                event.time,
            ),
            cause=event,
        )
        for event in events
    ]
    await take_answers(connection, replies, now)


async def on_appointment_no_show_risk_scored(
    connection: AsyncConnection,
    events: Sequence[Event[AppointmentNoShowRiskScored]],
    now: datetime,  # noqa: ARG001
) -> None:
    """Keeps the newest risk band beside the appointment; an unknown appointment becomes a stub."""
    await run_rows(
        connection,
        RISKS,
        [
            (
                event.clinic_id,
                event.data.appointment_id,
                event.data.patient_id,
                event.data.band,
                event.precedence,
            )
            for event in events
        ],
    )


def _code(reason: str | None) -> str | None:
    """The reason, if it is a code; what a patient wrote in their own words stays where it was written."""
    return reason if reason is not None and REASON_CODE.fullmatch(reason) else None


HANDLERS: Mapping[type[EventData], Handler[Any]] = {
    LinkIssued: on_link_issued,
    AppointmentAnswered: on_appointment_answered,
    AppointmentNoShowRiskScored: on_appointment_no_show_risk_scored,
    TokenRevoked: on_token_revoked,
}
