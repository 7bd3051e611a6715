"""Dead letters: messages that could not be handled, kept whole, with the reason, until somebody decides.

A dead letter is a row in the service's own database and a message in the group's dead-letter topic. A
replay runs the handler again on the stored bytes; it never goes back into the topic, where it would
reach groups that had no trouble with it. The copy in the topic is for those who watch: what is too long for
a record is cut there, and what an erasure would have to reach is left out.
"""

import base64
import json
import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from uuid import NAMESPACE_OID, UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database, set_clinics, sqlstate_of
from revisit_events.catalog import SERVICES, TOPICS
from revisit_events.contracts import PatientErased
from revisit_events.envelope import PLATFORM
from revisit_events.outbox import Message, enqueue
from revisit_events.topics import dead_letter_topic

LONGEST_ERROR = 500
MOST_COPIED_BYTES = 256 * 1024
"""Of a value in the topic: a letter has more headers than its message, and records have a limit."""
MOST_COPIED_CHARACTERS = 1_000
"""Of a key or a header in the topic."""
MOST_COPIED_HEADERS = 40
CLOSED_RETENTION_DAYS = 30
PAGE = 100

_KEEP = """
INSERT INTO dead_letter AS d (clinic_id, dead_letter_id, topic, partition, kafka_offset, key, value,
                              headers, reason, error, attempts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9, $10, 1)
ON CONFLICT (clinic_id, dead_letter_id) DO UPDATE
  SET attempts = d.attempts + 1, reason = excluded.reason, error = excluded.error
RETURNING attempts
"""

# A contact block that comes after its patient was erased is not kept either. The event log knows.
_WITHHELD = """
SELECT EXISTS (SELECT 1 FROM inbox WHERE clinic_id = $1 AND type = $2 AND subject = $3)
"""
_FORGET = """
UPDATE dead_letter SET value = NULL, state = 'discarded', closed_at = coalesce(closed_at, now())
WHERE topic = ANY($3::text[]) AND clinic_id = ANY($1::uuid[]) AND key = ANY($2::bytea[])
"""
_OPEN = """
SELECT * FROM dead_letter
WHERE state = 'open' AND (recorded_at, dead_letter_id) > ($1, $2)
  AND ($3::uuid[] IS NULL OR dead_letter_id = ANY($3))
ORDER BY recorded_at, dead_letter_id LIMIT $4
"""
_FAILED_AGAIN = """
UPDATE dead_letter SET attempts = attempts + 1, error = $3
WHERE clinic_id = $1 AND dead_letter_id = $2 AND state = 'open'
"""
DROP_CLOSED = """
DELETE FROM dead_letter WHERE state <> 'open' AND closed_at < now() - make_interval(days => $1)
"""

_PERSONAL = tuple(topic for topic, contract in TOPICS.items() if contract.COMPACTED)
"""Topics whose events are personal data, encrypted as they are: compacted, so that they can be erased."""

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
) -> int:
    """Puts a message aside, in a transaction of its own; gives how often it was, this time included.

    Args:
        connection: In a transaction that does nothing else.
        group: Whose handler failed.
        raw: The message.
        reason: `invalid`, `handler` or `deadly`.
        error: Its type and, where it holds no data of a person, its text.
    """
    clinic_id = _clinic_of(raw)
    letter_id = dead_letter_id(raw)
    await set_clinics(connection, [clinic_id])
    text = describe(error)
    if await _is_of_an_erased_patient(connection, clinic_id, raw):
        raw = replace(raw, value=None)
    attempts = int(
        (
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
    )
    if attempts == 1:
        await enqueue(connection, [_message(group, clinic_id, letter_id, raw, reason, text)])
    return attempts


async def _is_of_an_erased_patient(connection: AsyncConnection, clinic_id: UUID, raw: Raw) -> bool:
    if raw.topic not in _PERSONAL:
        return False
    patient_id = _text(raw.key).rpartition(":")[2]
    found = await connection.exec_driver_sql(_WITHHELD, (clinic_id, PatientErased.TYPE, patient_id))
    return bool(found.scalar_one())


async def forget(connection: AsyncConnection, patients: Sequence[tuple[UUID, str]]) -> None:
    """Removes what letters hold of erased patients: the contact blocks, encrypted as they are.

    Args:
        connection: In a transaction that sees their clinics.
        patients: Clinic and Kafka key of each.
    """
    await connection.exec_driver_sql(
        _FORGET,
        (
            [clinic_id for clinic_id, _ in patients],
            [key.encode() for _, key in patients],
            list(_PERSONAL),
        ),
    )


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
    """Gives an error as text without anybody's data, and where in our code it came up.

    Our own errors never repeat values; a driver's text may hold parameters, so its type has to do.

    Args:
        error: What was raised.
    """
    detail = getattr(error, "detail", "")
    is_own = type(error).__module__.startswith(_OWN)
    text = f"{type(error).__name__}: {detail or error}" if is_own else type(error).__name__
    state = sqlstate_of(error)
    text = f"{text} (SQLSTATE {state})" if state else text
    return f"{text[:LONGEST_ERROR]}{_place(error)}"


_OWN = ("revisit_", "booking", "engagement", "feedback", "scoring")


def _place(error: BaseException) -> str:
    """Gives the handler and the last line of a service's own code that an error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _package(frame.filename) in SERVICES]
    if not own:
        return ""
    first, last = own[0], own[-1]
    return f" in {first.name}, {_package(last.filename)}/{Path(last.filename).name}:{last.lineno}"


def _package(filename: str) -> str:
    parts = Path(filename).parts
    return next((part for part in reversed(parts[:-1]) if part in SERVICES), "")


async def open_letters(
    database: Database, limit: int = 100, *, ids: Sequence[UUID] | None = None
) -> list[DeadLetter]:
    """Gives the oldest open dead letters.

    Args:
        database: With the worker's role.
        limit: How many.
        ids: Only these.
    """
    return await _page(database, _FIRST, limit, ids)


async def each_open(
    database: Database, ids: Sequence[UUID] | None = None
) -> AsyncIterator[DeadLetter]:
    """Gives open dead letters, oldest first, a page in memory at a time; each once, whatever becomes of it.

    Args:
        database: With the worker's role.
        ids: Only these; all when left out.
    """
    after = _FIRST
    while page := await _page(database, after, PAGE, ids):
        for letter in page:
            yield letter
        after = (page[-1].recorded_at, page[-1].dead_letter_id)


_FIRST = (datetime.fromisoformat("0001-01-01T00:00:00+00:00"), UUID(int=0))


async def _page(
    database: Database, after: tuple[datetime, UUID], limit: int, ids: Sequence[UUID] | None
) -> list[DeadLetter]:
    async with database.connect() as connection:
        rows = await connection.exec_driver_sql(
            _OPEN, (*after, None if ids is None else list(ids), limit)
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


async def failed_again(
    connection: AsyncConnection, letter: DeadLetter, error: BaseException
) -> None:
    """Notes that a replay failed.

    Args:
        connection: In a transaction that sees its clinic.
        letter: Open.
        error: What was raised.
    """
    await connection.exec_driver_sql(
        _FAILED_AGAIN, (letter.clinic_id, letter.dead_letter_id, describe(error))
    )


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
    size = len(raw.value or b"")
    headers = {
        "dead-letter-id": str(letter_id),
        "dead-letter-reason": reason,
        "dead-letter-error": error,
        "dead-letter-attempts": "1",
        "dead-letter-topic": raw.topic,
        "dead-letter-partition": str(raw.partition),
        "dead-letter-offset": str(raw.offset),
    }
    data = raw.value
    if raw.topic in _PERSONAL:
        headers["dead-letter-withheld"] = "personal data"
        data = None
    elif data is not None and size > MOST_COPIED_BYTES:
        headers["dead-letter-truncated"] = f"{MOST_COPIED_BYTES} of {size} bytes"
        data = data[:MOST_COPIED_BYTES]
    for name, value in raw.headers[:MOST_COPIED_HEADERS]:
        if value is not None and (name.startswith("ce_") or name == "content-type"):
            headers[_text(name.encode())] = _text(value)
    return Message(
        clinic_id=clinic_id,
        topic=dead_letter_topic(group),
        key=_text(raw.key),
        event_id=str(letter_id),
        headers=json.dumps(headers),
        data=data,
    )


def _text(found: bytes | None) -> str:
    return (found or b"").decode(errors="replace").replace("\0", "\ufffd")[:MOST_COPIED_CHARACTERS]


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
