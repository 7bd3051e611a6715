"""Publishing: events go into the outbox in the transaction of the state they tell of.

Nothing here talks to Kafka; the relay does. Called by use cases, handlers and the intake. Where each row
that a statement writes is told by an event that differs from the others by its ids alone, the statement
itself tells them (`telling`, `Form`): they need not come out of the database to be put into it.
"""

import re
from collections.abc import Sequence
from functools import cache
from json.encoder import encode_basestring as _quoted
from typing import NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import fetch
from revisit_events.catalog import TOPICS, schema_path
from revisit_events.envelope import AnyEvent, sequence_text
from revisit_events.kafka import CONTENT_TYPE, is_tombstone

SLOTS = 64
"""The queue is split into this many slots by key; a lane takes slot % lanes."""

# hashtext need only be stable as long as a row waits in the queue.
SLOT_OF_KEY = f"hashtext(key) & {SLOTS - 1}"
_QUEUE = f"""
INSERT INTO outbox_unsent (clinic_id, recorded_on, position, slot)
SELECT clinic_id, recorded_on, position, {SLOT_OF_KEY} FROM told
"""  # noqa: S608  (a constant)
PUBLISH_GIVEN = f"""told AS (
  INSERT INTO outbox (clinic_id, topic, key, event_id, headers, data)
  SELECT clinic_id, topic, key, event_id, headers, data FROM given ORDER BY place
  RETURNING clinic_id, recorded_on, position, key
), queued AS ({_QUEUE})"""  # noqa: S608  (a constant)
"""Part of a statement, after "WITH given AS (...),", that publishes the rows `given`, in order of `place`."""
_PUBLISH = f"""
WITH given AS (
  SELECT * FROM unnest($1::outbox_message[])
    WITH ORDINALITY AS given (clinic_id, topic, key, event_id, headers, data, place)
), {PUBLISH_GIVEN}
SELECT
"""  # noqa: S608  (a constant)
_read_headers = msgspec.json.Decoder(dict[str, str]).decode
_PLACE_PREFIX = "ffffffff-ffff-ffff-ffff-"
_PLACE = re.compile(_PLACE_PREFIX + "([0-9]{12})")


class Message(NamedTuple):
    """A record to be sent, of any topic; the columns of the database's type `outbox_message`."""

    clinic_id: UUID
    topic: str
    key: str
    event_id: str
    headers: str
    """Header names and texts, a JSON object; of an event only what `record_headers` cannot tell."""
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
    await fetch(connection, _PUBLISH, messages)


class Form(NamedTuple):
    """The message of events that differ by their ids: texts of PostgreSQL's `format`."""

    topic: str
    key: str
    event_id: str
    headers: str
    data: str


def places(number: int) -> list[UUID]:
    """Gives ids that stand for columns in the event of a form.

    Args:
        number: How many columns.
    """
    return [UUID(f"{_PLACE_PREFIX}{place:012}") for place in range(1, number + 1)]


def form_of(event: AnyEvent) -> Form:
    """Gives the form of events like one.

    Args:
        event: Holds ids of `places` where the others hold theirs; nothing else of it may differ.

    Raises:
        ValueError: It is a tombstone, which has no text.
    """
    message = message_of(event)
    if message.data is None:
        raise ValueError("a tombstone has no form")
    return Form(message.topic, *map(_format, (*message[2:5], message.data.decode())))


def _format(text: str) -> str:
    return _PLACE.sub(lambda found: f"%{int(found[1])}$s", text.replace("%", "%%"))


def telling(rows: str, ids: str, parameter: int) -> str:
    """Gives the rest of a statement, after "WITH rows AS (...),", that tells each row by an event.

    In no promised order: events of one key that must follow one another are none for this.

    Args:
        rows: Name of the rows; they have a column `clinic_id`.
        ids: UUID columns of the rows, in the order of the form's places.
        parameter: Number of the statement's parameter from which on those of the form stand.
    """
    topic, key, event_id, headers, data = (f"${parameter + place}::text" for place in range(5))
    # The columns are named by the caller's own constants.
    return f"""told AS (
  INSERT INTO outbox (clinic_id, topic, key, event_id, headers, data)
  SELECT clinic_id, {topic}, format({key}, {ids}), format({event_id}, {ids}),
    format({headers}, {ids}), convert_to(format({data}, {ids}), 'UTF8')
  FROM {rows}
  RETURNING clinic_id, recorded_on, position, key
)
{_QUEUE}"""  # noqa: S608


def message_of(event: AnyEvent) -> Message:
    """Gives the message of an event, in CloudEvents' binary mode.

    Args:
        event: To be published.
    """
    return Message(*columns_of(event))


def columns_of(event: AnyEvent) -> tuple[UUID, str, str, str, str, bytes | None]:
    """Gives the same as a plain tuple, for the intake: naming the parts is a seventh of the work.

    Args:
        event: To be published.
    """
    return (
        event.clinic_id,
        event.topic,
        event.key,
        event.id,
        _headers(event),
        None if is_tombstone(event.data) else event.data_json(),
    )


def _headers(event: AnyEvent) -> str:
    """Gives the headers of an event as JSON, without those that follow from them and the other columns.

    Put together as text, for this is on the hottest path. Only what comes from outside needs quoting.
    """
    text = (
        f'{{"ce_type":"{event.data.TYPE}","ce_source":{_quoted(event.source)},'
        f'"ce_subject":{_quoted(event.subject)},"ce_time":"{event.time_text}"'
    )
    if event.sequence is not None:
        text += f',"ce_sequence":"{sequence_text(event.sequence)}"'
    if event.correlation_id is not None:
        text += f',"ce_correlationid":{_quoted(event.correlation_id)}'
    if event.causation_id is not None:
        text += f',"ce_causationid":{_quoted(event.causation_id)}'
    if event.traceparent is not None:
        text += f',"ce_traceparent":{_quoted(event.traceparent)}'
    return text + "}"


def record_headers(message: Message) -> list[tuple[str, bytes]]:
    """Gives the headers of a record: of an event all of them, of anything else those that are stored.

    Args:
        message: Stored, or one of the outbox's rows.
    """
    stored = _read_headers(message.headers)
    headers = [(name, text.encode()) for name, text in stored.items()]
    event_type = stored.get("ce_type")
    # A dead letter has the headers of its message, which may say anything; what names no type is no event.
    if event_type is None or message.topic not in TOPICS:
        return headers
    return [
        *_constant(event_type),
        ("ce_id", message.event_id.encode()),
        ("ce_clinicid", str(message.clinic_id).encode()),
        ("ce_partitionkey", message.key.encode()),
        *headers,
    ]


@cache
def _constant(event_type: str) -> tuple[tuple[str, bytes], ...]:
    """Gives the headers that all events of a type have in common."""
    return (
        ("content-type", CONTENT_TYPE.encode()),
        ("ce_specversion", b"1.0"),
        ("ce_dataschema", schema_path(event_type).encode()),
    )
