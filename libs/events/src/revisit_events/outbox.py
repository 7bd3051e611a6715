"""Publishing: events go into the outbox in the transaction of the state they tell of.

Nothing here talks to Kafka; the relay does. Called by use cases, handlers and the intake.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_events.envelope import AnyEvent
from revisit_events.kafka import CONTENT_TYPE, attributes, is_tombstone

SLOTS = 64
"""The queue is split into this many slots by key; a lane takes slot % lanes."""

# hashtext need only be stable as long as a row waits in the queue.
_PUBLISH = f"""
WITH fresh AS (
  INSERT INTO outbox (clinic_id, topic, key, event_id, headers, data)
  SELECT clinic_id, topic, key, event_id, headers::json, data
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[])
    WITH ORDINALITY AS given (clinic_id, topic, key, event_id, headers, data, place)
  ORDER BY place
  RETURNING clinic_id, recorded_on, position, key
)
INSERT INTO outbox_unsent (clinic_id, recorded_on, position, slot)
SELECT clinic_id, recorded_on, position, hashtext(key) & {SLOTS - 1} FROM fresh
"""  # noqa: S608  (a constant)


@dataclass(frozen=True, slots=True)
class Message:
    """A record to be sent, of any topic."""

    clinic_id: UUID
    topic: str
    key: str
    event_id: str
    headers: dict[str, str]
    data: bytes | None


async def publish(connection: AsyncConnection, events: Sequence[AnyEvent]) -> None:
    """Puts events into the outbox; they are sent after the commit.

    Args:
        connection: In the transaction of the state they tell of.
        events: Of one key in the order in which they are to be read.
    """
    await enqueue(connection, [message_of(event) for event in events])


async def enqueue(connection: AsyncConnection, messages: Sequence[Message]) -> None:
    """Puts messages into the outbox, in one statement.

    Args:
        connection: In a transaction that sees their clinics.
        messages: In order.
    """
    if not messages:
        return
    await connection.exec_driver_sql(
        _PUBLISH,
        (
            [message.clinic_id for message in messages],
            [message.topic for message in messages],
            [message.key for message in messages],
            [message.event_id for message in messages],
            [json.dumps(message.headers, ensure_ascii=False) for message in messages],
            [message.data for message in messages],
        ),
    )


def message_of(event: AnyEvent) -> Message:
    """Gives the message of an event, in CloudEvents' binary mode.

    Args:
        event: To be published.
    """
    headers = {f"ce_{name}": text for name, text in attributes(event).items()}
    headers["content-type"] = CONTENT_TYPE
    return Message(
        clinic_id=event.clinic_id,
        topic=event.topic,
        key=event.key,
        event_id=event.id,
        headers=headers,
        data=None if is_tombstone(event.data) else event.data_json(),
    )
