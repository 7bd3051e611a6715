"""`Idempotency-Key`: a repeat of a creating request gets the stored answer and changes nothing.

The key is claimed in a transaction of its own, so that a second request in flight sees it; the answer
is stored in the transaction of the work. Work that failed gives the key back; a claim whose process died
is taken over after a while, and should its work finish after all, it finds its claim gone and undoes itself.
Answers are kept for a day (`retention`), encrypted where the app has keys (`app.state.keyring`).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
from fastapi import Header
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database
from revisit_chassis.failpoint import failpoint
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
    claim = _Claim(clinic_id, route, key, getattr(request.app.state, "keyring", None))
    if (stored := await _take(database, claim, digest)) is not None:
        return stored
    failpoint("idempotency.after_claim")
    try:
        async with database.transaction((clinic_id,)) as connection:
            answer = await work(connection)
            await _store(connection, claim, answer)
            failpoint("idempotency.before_commit")
    except BaseException:
        async with database.transaction((clinic_id,)) as connection:
            await connection.execute(idempotency_key.delete().where(claim.is_held()))
        raise
    failpoint("idempotency.after_commit")
    return answer


def answer_context(clinic_id: UUID, route: str, key: str) -> bytes:
    """Gives what a stored answer is bound to."""
    return f"idempotency:{clinic_id}:{route}:{key}".encode()


@dataclass(frozen=True, slots=True)
class _Claim:
    """A key taken by one request, from a moment on that tells it from a later one's claim."""

    clinic_id: UUID
    route: str
    key: str
    keyring: Keyring | None
    # Technical time: how long a request may be in flight.
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def is_row(self) -> sa.ColumnElement[bool]:
        table = idempotency_key
        return sa.and_(
            table.c.clinic_id == self.clinic_id,
            table.c.route == self.route,
            table.c.key == self.key,
        )

    def is_held(self) -> sa.ColumnElement[bool]:
        table = idempotency_key
        return sa.and_(self.is_row(), table.c.status.is_(None), table.c.created_at == self.at)

    @property
    def context(self) -> bytes:
        return answer_context(self.clinic_id, self.route, self.key)


async def _take(database: Database, claim: _Claim, digest: bytes) -> Response | None:
    table = idempotency_key
    async with database.transaction((claim.clinic_id,)) as connection:
        claimed = await connection.execute(
            insert(table)
            .values(
                clinic_id=claim.clinic_id,
                route=claim.route,
                key=claim.key,
                body_digest=digest,
                created_at=claim.at,
            )
            .on_conflict_do_nothing()
            .returning(table.c.key)
        )
        if claimed.first() is not None:
            return None
        found = await connection.execute(table.select().where(claim.is_row()).with_for_update())
        row = found.first()
        if row is None:
            raise _in_flight()
        if row.body_digest != digest:
            raise Problem(422, "key-reused", "This Idempotency-Key was used with another body.")
        if row.status is None:
            if (claim.at - row.created_at).total_seconds() < IN_FLIGHT_SECONDS:
                raise _in_flight()
            # Its process died before the work committed, as far as anybody can tell.
            taken_over = table.update().where(claim.is_row()).values(created_at=claim.at)
            await connection.execute(taken_over)
            return None
        answer = row.answer
        if claim.keyring is not None:
            answer = claim.keyring.decrypt(answer, claim.context)
        return Response(answer, status_code=row.status, headers=row.headers)


async def _store(connection: AsyncConnection, claim: _Claim, answer: Response) -> None:
    headers = {
        name: value for name, value in answer.headers.items() if name.lower() != "content-length"
    }
    body = bytes(answer.body)
    if claim.keyring is not None:
        body = claim.keyring.encrypt(body, claim.context)
    stored = await connection.execute(
        idempotency_key.update()
        .where(claim.is_held())
        .values(status=answer.status_code, headers=headers, answer=body)
    )
    if stored.rowcount == 0:
        # A repeat took the claim over and does the work; this transaction must not commit it too.
        raise _in_flight()


def _in_flight() -> Problem:
    return Problem(
        409,
        "in-flight",
        "The first request with this Idempotency-Key is not finished.",
        headers={"Retry-After": "1"},
    )
