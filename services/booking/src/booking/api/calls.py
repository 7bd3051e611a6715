"""What the routes share: who calls, in which clinic, and by which names records are called."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request, Response
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from booking.store.named import keep_identifiers
from revisit_chassis.audit import record_audit
from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database
from revisit_chassis.etag import IfMatch, etag
from revisit_chassis.http import chassis_state, clinic_of, now_of, require
from revisit_chassis.idempotency import IdempotencyKey, once
from revisit_chassis.identifiers import canonical_id, is_uuid, plain

Noun = str


@dataclass(slots=True)
class Names:
    """Turns ids of a request into UUIDs and remembers which were the clinic's own."""

    clinic_id: UUID
    met: list[tuple[UUID, Noun, UUID, str]] = field(default_factory=list)

    def id_of(self, noun: Noun, given: str) -> UUID:
        """The UUID of a record.

        Args:
            noun: `patient`, `appointment`, `visit`, `practitioner`, ...
            given: A UUID or the clinic's own identifier.
        """
        given = plain(given)
        canonical = canonical_id(self.clinic_id, noun, given)
        if not is_uuid(given):
            self.met.append((self.clinic_id, noun, canonical, given))
        return canonical

    def optional_id_of(self, noun: Noun, given: str | None) -> UUID | None:
        """The UUID of a record that may be missing."""
        return None if given is None else self.id_of(noun, given)

    def given(self, noun: Noun, record_id: UUID) -> str | None:
        """The clinic's own identifier of a record, if the request called it so."""
        for _, met_noun, met_id, identifier in self.met:
            if (met_noun, met_id) == (noun, record_id):
                return identifier
        return None

    async def keep(self, connection: AsyncConnection) -> None:
        """Stores what was met, so that answers can show it."""
        await keep_identifiers(connection, sorted(set(self.met)))


@dataclass(slots=True)
class Call:
    """A command over HTTP: the caller, the clinic, the moment."""

    request: Request
    database: Database
    clinic_id: UUID
    actor: str
    role: str
    now: datetime
    key: str | None
    if_match: str | None
    names: Names

    async def run(
        self,
        action: str,
        noun: Noun,
        record_id: UUID,
        work: Callable[[AsyncConnection], Awaitable[Response]],
    ) -> Response:
        """Does the work in one transaction, once for an Idempotency-Key, and writes who did it.

        Args:
            action: For the audit, such as `appointment.cancel`.
            noun: Of the record.
            record_id: The record that changes.
            work: Loads, decides, saves; gives the answer.
        """

        async def work_and_note(connection: AsyncConnection) -> Response:
            await self.names.keep(connection)
            answer = await work(connection)
            await self.note(connection, action, noun, record_id)
            return answer

        return await once(self.request, self.database, self.clinic_id, self.key, work_and_note)

    async def note(
        self, connection: AsyncConnection, action: str, noun: Noun, record_id: UUID
    ) -> None:
        """Writes who did what to which record."""
        await record_audit(
            connection,
            clinic_id=self.clinic_id,
            actor=self.actor,
            action=action,
            record=f"{noun}:{record_id}",
            at=self.now,
            correlation_id=self.request.scope.get("correlation_id"),
        )


def call_with(scope: str) -> Callable[..., Awaitable[Call]]:
    """Gives the dependency that lets in a caller with a scope in a clinic."""
    allow = require(scope)

    async def call(
        request: Request,
        key: IdempotencyKey = None,
        if_match: IfMatch = None,
    ) -> Call:
        principal = await allow(request)
        clinic_id = clinic_of(principal)
        return Call(
            request=request,
            database=(await chassis_state(request)).database,
            clinic_id=clinic_id,
            actor=principal.sub,
            role=principal.role,
            now=await now_of(request),
            key=key,
            if_match=if_match,
            names=Names(clinic_id),
        )

    return call


async def keyring_of(request: Request) -> Keyring:
    """Gives the keys of names and contacts."""
    keyring: Keyring = request.app.state.keyring
    return keyring


KeyringDep = Annotated[Keyring, Depends(keyring_of)]


def answer_of(body: BaseModel, *, status: int = 200, version: int | None = None) -> Response:
    """An answer in JSON, with the entity tag of what can be edited."""
    headers = {} if version is None else {"ETag": etag(version)}
    return Response(body.model_dump_json(), status, headers=headers, media_type="application/json")
