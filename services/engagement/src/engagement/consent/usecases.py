"""Recording what a patient said: an entry of the ledger, and what stands now."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.consent import store
from engagement.consent.domain import (
    ConsentState,
    Entry,
    Purpose,
    Statement,
    entry_hash,
    first_break,
    stands_over,
)
from engagement.projections.store import lock_patient
from revisit_events.contracts import ConsentChanged
from revisit_events.envelope import new_event
from revisit_events.outbox import publish

SOURCE = "/engagement"


async def record_statements(
    connection: AsyncConnection,
    clinic_id: UUID,
    patient_id: UUID,
    statements: Sequence[Statement],
    *,
    by: str,
    now: datetime,
) -> list[Statement]:
    """Adds statements to a patient's ledger; gives what stands afterwards.

    A statement that was recorded before changes nothing. The patient may be unknown yet.

    Args:
        connection: Sees the clinic.
        clinic_id: Whose patient.
        patient_id: Who said it.
        statements: In any order.
        by: Whose hand: `sub` of the token, or `patient`.
        now: When it is recorded.
    """
    # A message that is being judged leaves before the refusal, or sees it.
    await lock_patient(connection, clinic_id, patient_id)
    length, head = await store.locked_chain(connection, clinic_id, patient_id)
    known = {row.entry.statement for row in await store.ledger(connection, clinic_id, patient_id)}
    fresh = [Entry(one, now) for one in dict.fromkeys(statements) if one not in known]
    if fresh:
        rows = []
        for position, entry in enumerate(fresh, length + 1):
            head = entry_hash(head, clinic_id, patient_id, position, entry)
            rows.append(store.LedgerRow(position, entry, head))
        await store.append(connection, clinic_id, patient_id, rows, by=by)
        await _let_stand(connection, clinic_id, patient_id, fresh)
    return await standing(connection, clinic_id, patient_id)


async def refuse_everything(
    connection: AsyncConnection,
    clinic_id: UUID,
    patient_id: UUID,
    *,
    channels: Collection[str],
    wording_version: str,
    source: str,
    by: str,
    now: datetime,
) -> None:
    """Records that a patient wants no message of any kind in any of the channels."""
    statements = [
        Statement(purpose, channel, ConsentState.REFUSED, wording_version, source, now)
        for purpose in Purpose
        for channel in channels
    ]
    await record_statements(connection, clinic_id, patient_id, statements, by=by, now=now)


async def standing(
    connection: AsyncConnection, clinic_id: UUID, patient_id: UUID
) -> list[Statement]:
    """Gives what stands now, by purpose and channel."""
    return [entry.statement for entry in await store.standing(connection, clinic_id, patient_id)]


@dataclass(frozen=True, slots=True)
class Ledger:
    """A patient's ledger as an auditor sees it.

    Args:
        length: Entries.
        head: Digest of the last one.
        broken_at: Position of the first entry that does not fit the chain; None: it is intact.
    """

    length: int
    head: str
    broken_at: int | None


async def verified_ledger(connection: AsyncConnection, clinic_id: UUID, patient_id: UUID) -> Ledger:
    """Computes a patient's chain again, entry by entry."""
    length, head = await store.chain(connection, clinic_id, patient_id)
    rows = await store.ledger(connection, clinic_id, patient_id)
    return Ledger(length, head, first_break(clinic_id, patient_id, rows, (length, head)))


async def _let_stand(
    connection: AsyncConnection,
    clinic_id: UUID,
    patient_id: UUID,
    entries: Sequence[Entry],
) -> None:
    current = {
        (entry.statement.purpose, entry.statement.channel): entry
        for entry in await store.standing(connection, clinic_id, patient_id)
    }
    changed: dict[tuple[Purpose, str], Entry] = {}
    for entry in entries:
        key = (entry.statement.purpose, entry.statement.channel)
        if stands_over(entry, changed.get(key) or current.get(key)):
            changed[key] = entry
    await store.let_stand(connection, clinic_id, patient_id, list(changed.values()))
    await publish(
        connection,
        [
            new_event(
                ConsentChanged(
                    patient_id=patient_id,
                    purpose=changed[key].statement.purpose.value,
                    channel=changed[key].statement.channel,
                    state=changed[key].statement.state.value,
                ),
                source=SOURCE,
                clinic_id=clinic_id,
                time=changed[key].effective_at,
            )
            for key in sorted(changed)
            if key not in current
            or current[key].statement.state is not changed[key].statement.state
        ],
    )
