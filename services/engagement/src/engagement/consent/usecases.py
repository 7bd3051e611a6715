"""Recording what a patient said: an entry of the ledger, and what stands now."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.consent import tables
from engagement.consent.domain import (
    GENESIS,
    ConsentState,
    Purpose,
    Statement,
    entry_hash,
    stands_over,
)
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
    await _lock_patient(connection, clinic_id, patient_id)
    length, head = await _locked_chain(connection, clinic_id, patient_id)
    known = set(await entries(connection, clinic_id, patient_id))
    rows = []
    for statement in statements:
        if statement in known:
            continue
        known.add(statement)
        length += 1
        head = entry_hash(head, clinic_id, patient_id, length, statement)
        rows.append(
            _row(clinic_id, patient_id, statement)
            | {"position": length, "digest": head, "recorded_at": now, "recorded_by": by}
        )
    if rows:
        await connection.execute(insert(tables.consent_entry), rows)
        chain = tables.consent_chain
        await connection.execute(
            chain.update()
            .where(chain.c.clinic_id == clinic_id, chain.c.patient_id == patient_id)
            .values(length=length, head=head)
        )
        await _let_stand(connection, clinic_id, patient_id, statements, now)
    return await standing(connection, clinic_id, patient_id)


async def standing(
    connection: AsyncConnection, clinic_id: UUID, patient_id: UUID
) -> list[Statement]:
    """Gives what stands now, by purpose and channel."""
    table = tables.consent
    rows = await connection.execute(
        table.select()
        .where(table.c.clinic_id == clinic_id, table.c.patient_id == patient_id)
        .order_by(table.c.purpose, table.c.channel)
    )
    return [_statement(row) for row in rows]


async def entries(
    connection: AsyncConnection, clinic_id: UUID, patient_id: UUID
) -> list[Statement]:
    """Gives the patient's ledger in order."""
    table = tables.consent_entry
    rows = await connection.execute(
        table.select()
        .where(table.c.clinic_id == clinic_id, table.c.patient_id == patient_id)
        .order_by(table.c.position)
    )
    return [_statement(row) for row in rows]


async def _lock_patient(connection: AsyncConnection, clinic_id: UUID, patient_id: UUID) -> None:
    """Waits for a message that is being judged: it leaves before the refusal, or sees it."""
    await connection.exec_driver_sql(
        "SELECT FROM patient WHERE clinic_id = $1 AND patient_id = $2 FOR NO KEY UPDATE",
        (clinic_id, patient_id),
    )


async def _locked_chain(
    connection: AsyncConnection, clinic_id: UUID, patient_id: UUID
) -> tuple[int, str]:
    chain = tables.consent_chain
    await connection.execute(
        insert(chain)
        .values(clinic_id=clinic_id, patient_id=patient_id, length=0, head=GENESIS)
        .on_conflict_do_nothing()
    )
    row = (
        await connection.execute(
            chain.select()
            .where(chain.c.clinic_id == clinic_id, chain.c.patient_id == patient_id)
            .with_for_update()
        )
    ).one()
    return row.length, row.head


async def _let_stand(
    connection: AsyncConnection,
    clinic_id: UUID,
    patient_id: UUID,
    statements: Sequence[Statement],
    now: datetime,
) -> None:
    current = {(s.purpose, s.channel): s for s in await standing(connection, clinic_id, patient_id)}
    changed: dict[tuple[Purpose, str], Statement] = {}
    for statement in statements:
        key = (statement.purpose, statement.channel)
        if stands_over(statement, changed.get(key) or current.get(key)):
            changed[key] = statement
    events = []
    for key, statement in sorted(changed.items()):
        row = _row(clinic_id, patient_id, statement)
        upsert = insert(tables.consent).values(row)
        await connection.execute(
            upsert.on_conflict_do_update(
                index_elements=["clinic_id", "patient_id", "purpose", "channel"],
                set_={
                    name: row[name] for name in ("state", "wording_version", "source", "given_at")
                },
            )
        )
        old = current.get(key)
        if old is None or old.state is not statement.state:
            events.append(
                new_event(
                    ConsentChanged(
                        patient_id=patient_id,
                        purpose=statement.purpose.value,
                        channel=statement.channel,
                        state=statement.state.value,
                    ),
                    source=SOURCE,
                    clinic_id=clinic_id,
                    time=min(statement.given_at, now),
                )
            )
    await publish(connection, events)


def _row(clinic_id: UUID, patient_id: UUID, statement: Statement) -> dict[str, object]:
    return {
        "clinic_id": clinic_id,
        "patient_id": patient_id,
        "purpose": statement.purpose.value,
        "channel": statement.channel,
        "state": statement.state.value,
        "wording_version": statement.wording_version,
        "source": statement.source,
        "given_at": statement.given_at,
    }


def _statement(row: object) -> Statement:
    return Statement(
        purpose=Purpose(row.purpose),  # type: ignore[attr-defined]  # a row of either table
        channel=row.channel,  # type: ignore[attr-defined]
        state=ConsentState(row.state),  # type: ignore[attr-defined]
        wording_version=row.wording_version,  # type: ignore[attr-defined]
        source=row.source,  # type: ignore[attr-defined]
        given_at=row.given_at,  # type: ignore[attr-defined]
    )
