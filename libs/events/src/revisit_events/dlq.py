"""Dead letters: messages that could not be handled, kept whole, with the reason, until somebody decides.

A dead letter is a row in the service's own database and a message in the group's dead-letter topic. A
replay runs the handler again on the stored bytes; it never goes back into the topic, where it would
reach groups that had no trouble with it.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import NAMESPACE_OID, UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database, set_clinics
from revisit_events.envelope import PLATFORM
from revisit_events.outbox import Message, enqueue
from revisit_events.topics import dead_letter_topic

LONGEST_ERROR = 500

_KEEP = """
INSERT INTO dead_letter AS d (clinic_id, dead_letter_id, topic, partition, kafka_offset, key, value,
                              headers, reason, error, attempts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9, $10, 1)
ON CONFLICT (clinic_id, dead_letter_id) DO UPDATE
  SET attempts = d.attempts + 1, reason = excluded.reason, error = excluded.error
RETURNING attempts
"""

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Raw:
    """A message as the broker gave it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A kept message with the reason why it is one."""

    clinic_id: UUID
    dead_letter_id: UUID
    raw: Raw
    reason: str
    error: str
    attempts: int
    recorded_at: datetime
    state: str


async def keep(
    connection: AsyncConnection, group: str, raw: Raw, *, reason: str, error: BaseException
) -> None:
    """Puts a message aside, in a transaction of its own.

    Args:
        connection: In a transaction that does nothing else.
        group: Whose handler failed.
        raw: The message.
        reason: `invalid` or `handler`.
        error: Its type and, where it holds no data of a person, its text.
    """
    clinic_id = _clinic_of(raw)
    letter_id = dead_letter_id(raw)
    await set_clinics(connection, [clinic_id])
    text = describe(error)
    attempts = (
        await connection.exec_driver_sql(
            _KEEP,
            (
                clinic_id,
                letter_id,
                raw.topic,
                raw.partition,
                raw.offset,
                raw.key,
                raw.value,
                _pack(raw.headers),
                reason,
                text,
            ),
        )
    ).scalar_one()
    if attempts == 1:
        await enqueue(connection, [_message(group, clinic_id, letter_id, raw, reason, text)])


def dead_letter_id(raw: Raw) -> UUID:
    """Gives the id of a message's dead letter: the same when it comes again.

    Args:
        raw: The message.
    """
    headers = dict(raw.headers)
    identity = (headers.get("ce_source") or b"") + b" " + (headers.get("ce_id") or b"")
    if len(identity) == 1:
        identity = f"{raw.partition} {raw.offset} ".encode() + (raw.value or b"")
    return uuid5(NAMESPACE_OID, f"{raw.topic} {identity.hex()}")


def describe(error: BaseException) -> str:
    """Gives an error as text without anybody's data.

    Our own errors never repeat values; a driver's text may hold parameters, so its type has to do.

    Args:
        error: What was raised.
    """
    detail = getattr(error, "detail", "")
    own = type(error).__module__.startswith(
        ("revisit_", "booking", "engagement", "feedback", "scoring")
    )
    text = f"{type(error).__name__}: {detail or error}" if own else type(error).__name__
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return (f"{text} (SQLSTATE {state})" if state else text)[:LONGEST_ERROR]


async def open_letters(database: Database, limit: int = 100) -> list[DeadLetter]:
    """Gives the oldest open dead letters.

    Args:
        database: With the worker's role.
        limit: How many.
    """
    async with database.connect() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT * FROM dead_letter WHERE state = 'open' ORDER BY recorded_at LIMIT $1", (limit,)
        )
        return [
            DeadLetter(
                clinic_id=row.clinic_id,
                dead_letter_id=row.dead_letter_id,
                raw=Raw(
                    row.topic,
                    row.partition,
                    row.kafka_offset,
                    row.key,
                    row.value,
                    _unpack(row.headers),
                ),
                reason=row.reason,
                error=row.error,
                attempts=row.attempts,
                recorded_at=row.recorded_at,
                state=row.state,
            )
            for row in rows
        ]


async def close(connection: AsyncConnection, letter: DeadLetter, state: str) -> None:
    """Marks a dead letter as `replayed` or `discarded`.

    Args:
        connection: In a transaction that sees its clinic.
        letter: Open.
        state: What became of it.
    """
    await connection.exec_driver_sql(
        "UPDATE dead_letter SET state = $3, closed_at = now() "
        "WHERE clinic_id = $1 AND dead_letter_id = $2 AND state = 'open'",
        (letter.clinic_id, letter.dead_letter_id, state),
    )


def _clinic_of(raw: Raw) -> UUID:
    text = dict(raw.headers).get("ce_clinicid") or b""
    try:
        return UUID(text.decode())
    except (ValueError, UnicodeDecodeError):
        return PLATFORM


def _message(
    group: str, clinic_id: UUID, letter_id: UUID, raw: Raw, reason: str, error: str
) -> Message:
    headers = {
        "dead-letter-id": str(letter_id),
        "dead-letter-reason": reason,
        "dead-letter-error": error,
        "dead-letter-attempts": "1",
        "dead-letter-topic": raw.topic,
        "dead-letter-partition": str(raw.partition),
        "dead-letter-offset": str(raw.offset),
    }
    for name, value in raw.headers:
        if value is not None and (name.startswith("ce_") or name == "content-type"):
            headers[name] = value.decode(errors="replace").replace("\0", "\ufffd")
    return Message(
        clinic_id=clinic_id,
        topic=dead_letter_topic(group),
        key=(raw.key or b"").decode(errors="replace").replace("\0", "\ufffd"),
        event_id=str(letter_id),
        headers=json.dumps(headers),
        data=raw.value,
    )


def _pack(headers: Headers) -> str:
    return json.dumps(
        [
            [
                name.replace("\0", "\ufffd"),
                None if value is None else base64.b64encode(value).decode(),
            ]
            for name, value in headers
        ]
    )


def _unpack(packed: object) -> Headers:
    found = json.loads(packed) if isinstance(packed, str) else packed
    if not isinstance(found, list):
        raise TypeError("headers of a dead letter are a list")
    return [
        (str(name), None if value is None else base64.b64decode(value)) for name, value in found
    ]
