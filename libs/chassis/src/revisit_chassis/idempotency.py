"""`Idempotency-Key`: a repeat of a creating request gets the stored answer and changes nothing.

The key is claimed in a transaction of its own, so that a second request in flight sees it; the answer
is stored in the transaction of the work. Work that failed gives the key back.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated
from uuid import UUID

from fastapi import Header
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from revisit_chassis.db import Database
from revisit_chassis.problem import Problem
from revisit_chassis.schema import idempotency_key

LONGEST_KEY = 255
IN_FLIGHT_SECONDS = 60

IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", min_length=1, max_length=LONGEST_KEY)
]

Work = Callable[[AsyncConnection], Awaitable[Response]]


async def once(
    request: Request, database: Database, clinic_id: UUID, key: str | None, work: Work
) -> Response:
    """Does a creating request once for a key; without a key simply does it.

    Args:
        request: Its method, path and body say what is asked for.
        database: Of the service.
        clinic_id: Keys belong to a clinic.
        key: Value of the header.
        work: Does it in the transaction it is given, and gives the answer.

    Raises:
        Problem: 422, the key was used with another body; 409, the first request is in flight.
    """
    if key is None:
        async with database.transaction((clinic_id,)) as connection:
            return await work(connection)
    route = f"{request.method} {request.url.path}"
    digest = blake2b(await request.body(), digest_size=16).digest()
    if (stored := await _claim(database, clinic_id, route, key, digest)) is not None:
        return stored
    try:
        async with database.transaction((clinic_id,)) as connection:
            answer = await work(connection)
            await _store(connection, clinic_id, route, key, answer)
            return answer
    except BaseException:
        async with database.transaction((clinic_id,)) as connection:
            table = idempotency_key
            await connection.execute(
                table.delete().where(
                    table.c.clinic_id == clinic_id,
                    table.c.route == route,
                    table.c.key == key,
                    table.c.status.is_(None),
                )
            )
        raise


async def _claim(
    database: Database, clinic_id: UUID, route: str, key: str, digest: bytes
) -> Response | None:
    table = idempotency_key
    now = datetime.now(UTC)  # technical time: how long a request may be in flight
    where = (table.c.clinic_id == clinic_id, table.c.route == route, table.c.key == key)
    async with database.transaction((clinic_id,)) as connection:
        claimed = await connection.execute(
            insert(table)
            .values(clinic_id=clinic_id, route=route, key=key, body_digest=digest, created_at=now)
            .on_conflict_do_nothing()
            .returning(table.c.key)
        )
        if claimed.first() is not None:
            return None
        row = (await connection.execute(table.select().where(*where).with_for_update())).first()
        if row is None:
            raise _in_flight()
        if row.body_digest != digest:
            raise Problem(422, "key-reused", "This Idempotency-Key was used with another body.")
        if row.status is None:
            if (now - row.created_at).total_seconds() < IN_FLIGHT_SECONDS:
                raise _in_flight()
            # Its process died before the work committed: the repeat does it.
            await connection.execute(table.update().where(*where).values(created_at=now))
            return None
        return Response(row.answer, status_code=row.status, headers=row.headers)


async def _store(
    connection: AsyncConnection, clinic_id: UUID, route: str, key: str, answer: Response
) -> None:
    table = idempotency_key
    headers = {
        name: value for name, value in answer.headers.items() if name.lower() != "content-length"
    }
    await connection.execute(
        table.update()
        .where(table.c.clinic_id == clinic_id, table.c.route == route, table.c.key == key)
        .values(status=answer.status_code, headers=headers, answer=bytes(answer.body))
    )


def _in_flight() -> Problem:
    return Problem(
        409,
        "in-flight",
        "The first request with this Idempotency-Key is not finished.",
        headers={"Retry-After": "1"},
    )
