"""Takes events in from outside: identity, state, outbox and refusals in one transaction.

`Intake.submit` answers after the commit only. Requests that wait together share a transaction
(`group_commit`); if it fails, each falls back to its own, and a batch falls back to its events.
"""

import itertools
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.clock import Clock
from revisit_chassis.crypto import Keyring
from revisit_chassis.db import (
    Database,
    fetch,
    is_infrastructure_fault,
    sqlstate_of,
)
from revisit_chassis.failpoint import failpoint
from revisit_events import rejected
from revisit_events.contracts import EventData
from revisit_events.digest import body_digest
from revisit_events.envelope import AnyEvent
from revisit_events.group_commit import GroupCommit
from revisit_events.http import RawRequest
from revisit_events.intake_metrics import EVENTS, UNKNOWN_FIELDS
from revisit_events.novelty import Novelty
from revisit_events.outbox import PUBLISH_GIVEN, columns_of, publish
from revisit_events.reception import (
    Accepted,
    Reception,
    Refused,
    fitting_text,
    identifier_fields,
    receive,
)
from revisit_events.refusal import identity_conflict, not_stored

Apply = Callable[[AsyncConnection, Sequence[AnyEvent], datetime], Awaitable[None]]
"""Applies new events to the service's state, in any order, inside the transaction given."""

Identifier = tuple[UUID, str, UUID, str]
"""Clinic, noun, canonical id and the clinic's own identifier."""

Remember = Callable[[AsyncConnection, Sequence[Identifier]], Awaitable[None]]

_ATTEMPTS = 3
# What a correction on either side may cure; an event of another clinic is none of this one's.
_KEPT = frozenset({409, 422, 500})

# In one order everywhere, so that two groups with the same events wait and do not deadlock.
_CLAIM_OFFERED = """
  INSERT INTO intake (clinic_id, source, event_id, body_digest)
  SELECT clinic_id, source, event_id, body_digest FROM offered
  ORDER BY clinic_id, source COLLATE "C", event_id COLLATE "C", place
"""
# Of two claims of one identity the first stands.
_CLAIM = f"""
WITH offered AS (
  SELECT * FROM unnest($1::intake_claim[]) WITH ORDINALITY
    AS offered (clinic_id, source, event_id, body_digest, place)
) {_CLAIM_OFFERED} ON CONFLICT DO NOTHING
"""  # noqa: S608  (a constant)
# The same for events that are all new, which nearly all are, and their way into the outbox with it: one
# round trip less, each row comes over once, and a claim costs half of what it does where the server
# has to be ready for a conflict. Where one is not new, it fails, and nothing is published before that.
_TAKE = f"""
WITH offered AS MATERIALIZED (
  SELECT * FROM unnest($1::intake_event[]) WITH ORDINALITY
    AS offered (clinic_id, topic, key, event_id, headers, data, source, body_digest, place)
), claimed AS ({_CLAIM_OFFERED} RETURNING true), given AS (
  SELECT * FROM offered WHERE (SELECT count(*) FROM claimed) >= 0
), {PUBLISH_GIVEN}
SELECT
"""  # noqa: S608  (a constant)
# A row whose xmin is this transaction was claimed by it.
_CLAIMED = """
SELECT clinic_id, source, event_id, body_digest,
       intake.xmin = pg_current_xact_id()::xid AS is_new
FROM intake JOIN unnest($1::uuid[], $2::text[], $3::text[]) AS given (clinic_id, source, event_id)
USING (clinic_id, source, event_id)
"""

log = structlog.get_logger()


@dataclass(slots=True)
class Outcome:
    """What became of a request's events, by their place in it."""

    accepted: list[int] = field(default_factory=list)
    duplicate: list[int] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


_Given = tuple[AnyEvent, int, Outcome]
"""A valid event, its place in its request, and what is told of the request."""

_Claiming = Callable[[AsyncConnection, Sequence[_Given]], Awaitable[list[AnyEvent]]]


class Intake:
    """The intake of a service.

    Args:
        database: The service's.
        service: Its name, for metrics.
        contracts: What it takes: current contracts, older versions, or ones with private fields.
        apply: Applies new events to the service's state.
        apply_new: The same on the guess that no row of theirs is there yet; `UniqueViolation` where
            one is.
        keyring: Encrypts refused events.
        clock: Business time.
        remember: Keeps the clinic's own identifiers, where the service shows them.
        scopes: Types that need a scope of their own, beside the intake's.
    """

    def __init__(
        self,
        database: Database,
        *,
        service: str,
        contracts: Iterable[type[EventData]],
        apply: Apply,
        keyring: Keyring,
        clock: Clock,
        apply_new: Apply | None = None,
        remember: Remember | None = None,
        scopes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.database = database
        self.keyring = keyring
        self.clock = clock
        self.accepted: Accepted = {contract.TYPE: contract for contract in contracts}
        self._scopes = scopes
        self._accepted_without: dict[frozenset[str], Accepted] = {frozenset(): self.accepted}
        self._service = service
        self._apply = apply
        self._remember = remember
        self._apply_new = apply_new or apply
        self._novelty = Novelty()
        self._meters = {
            status: EVENTS.labels(service, status)
            for status in ("accepted", "duplicate", "refused")
        }
        self._group: GroupCommit[Reception, Outcome] = GroupCommit(
            self._commit,
            size=lambda reception: len(reception.events) or 1,
            is_shared=is_infrastructure_fault,
        )

    async def take(
        self, request: RawRequest, clinic_id: UUID, held: Collection[str] = ()
    ) -> Outcome:
        """Takes a request's events.

        Args:
            request: The raw events.
            clinic_id: The caller's clinic.
            held: The caller's scopes.
        """
        lacking = frozenset(name for name, scope in self._scopes.items() if scope not in held)
        accepted = self._accepted_without.get(lacking)
        if accepted is None:
            accepted = {name: of for name, of in self.accepted.items() if name not in lacking}
            self._accepted_without[lacking] = accepted
        return await self.submit(receive(request, clinic_id, accepted))

    async def submit(self, reception: Reception) -> Outcome:
        """Stores checked events and gives what became of each, after the commit.

        Args:
            reception: The events of one request.

        Raises:
            Exception: The database is away; nothing was answered, the client tries again.
        """
        try:
            outcome = await self._group.submit(reception)
        except Exception as fault:
            if is_infrastructure_fault(fault):
                raise
            outcome = await self._event_by_event(reception, fault)
        self._count(reception, outcome)
        return outcome

    async def _commit(self, receptions: Sequence[Reception]) -> Sequence[Outcome]:
        for attempt in itertools.count(1):
            try:
                return await self._store(receptions)
            except Exception as fault:
                # Two groups met in another order; the one that was rolled back goes again.
                if not sqlstate_of(fault).startswith("40") or attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    async def _store(self, receptions: Sequence[Reception]) -> list[Outcome]:
        return await self._novelty.take(
            lambda: self._store_by(_take, self._apply_new, receptions),
            lambda: self._store_by(_claim_and_publish, self._apply, receptions),
            lambda outcomes: any(outcome.duplicate for outcome in outcomes),
        )

    async def _store_by(
        self, claim: _Claiming, apply: Apply, receptions: Sequence[Reception]
    ) -> list[Outcome]:
        clinics = {reception.clinic_id for reception in receptions}
        outcomes = [Outcome(refused=list(reception.refused)) for reception in receptions]
        given = [
            (event, index, outcome)
            for reception, outcome in zip(receptions, outcomes, strict=True)
            for index, event in reception.events
        ]
        async with self.database.transaction(clinics) as connection:
            fresh = await claim(connection, given) if given else []
            await self._keep_refused(connection, receptions, outcomes)
            if fresh:
                if self._remember is not None and (met := _identifiers(receptions, fresh)):
                    await self._remember(connection, met)
                await apply(connection, fresh, self.clock.now())
            failpoint("intake.before_commit")
        failpoint("intake.after_commit")
        return outcomes

    async def _keep_refused(
        self,
        connection: AsyncConnection,
        receptions: Sequence[Reception],
        outcomes: Sequence[Outcome],
    ) -> None:
        refused = [
            (reception.clinic_id, reception.raw[refused.index], refused)
            for reception, outcome in zip(receptions, outcomes, strict=True)
            for refused in outcome.refused
            if refused.refusal.status in _KEPT
        ]
        if refused:
            await rejected.keep(connection, refused, self.keyring)

    async def _event_by_event(self, reception: Reception, fault: Exception) -> Outcome:
        """Stores each event by itself; one that fails alone is refused, for a reason of ours."""
        log.error("intake.request_failed", error=type(fault).__name__)
        total = Outcome()
        parts = [
            Reception(reception.clinic_id, reception.raw, [one], identifiers=reception.identifiers)
            for one in reception.events
        ]
        parts.append(Reception(reception.clinic_id, reception.raw, refused=reception.refused))
        for part in parts:
            outcome = await self._alone(part)
            total.accepted += outcome.accepted
            total.duplicate += outcome.duplicate
            total.refused += outcome.refused
        total.refused.sort(key=lambda refused: refused.index)
        return total

    async def _alone(self, part: Reception) -> Outcome:
        try:
            return (await self._commit([part]))[0]
        except Exception as fault:
            if is_infrastructure_fault(fault) or not part.events:
                raise
            cause = type(fault).__name__
        # Without the traceback: a driver's error repeats the values it was given.
        log.error("intake.event_failed", error=cause)
        (index, _), *_ = part.events
        failed = Refused(index, fitting_text(part.raw[index], "id"), not_stored())
        only_refused = Reception(part.clinic_id, part.raw, refused=[failed])
        return (await self._commit([only_refused]))[0]

    def _count(self, reception: Reception, outcome: Outcome) -> None:
        for status, meter in self._meters.items():
            if number := len(getattr(outcome, status)):
                meter.inc(number)
        for event_type, number in reception.unknown_fields.items():
            UNKNOWN_FIELDS.labels(self._service, event_type).inc(number)


async def _take(connection: AsyncConnection, given: Sequence[_Given]) -> list[AnyEvent]:
    """Claims and publishes events that are all new, and gives them.

    Raises:
        UniqueViolationError: One is not; the transaction is of no use any more.
    """
    rows = [(*columns_of(event), event.source, body_digest(event)) for event, _, _ in given]
    await fetch(connection, _TAKE, rows)
    for _, place, outcome in given:
        outcome.accepted.append(place)
    return [event for event, _, _ in given]


async def _claim_and_publish(
    connection: AsyncConnection, given: Sequence[_Given]
) -> list[AnyEvent]:
    """Claims the events' identities, publishes those that are new, and gives them as they came."""
    claims = [
        (event.clinic_id, event.source, event.id, body_digest(event)) for event, _, _ in given
    ]
    await fetch(connection, _CLAIM, claims)
    found = await fetch(
        connection,
        _CLAIMED,
        [clinic_id for clinic_id, _, _, _ in claims],
        [source for _, source, _, _ in claims],
        [event_id for _, _, event_id, _ in claims],
    )
    standing: dict[tuple[UUID, str, str], bytes] = {
        (row.clinic_id, row.source, row.event_id): row.body_digest
        for row in found
        if not row.is_new
    }
    fresh = []
    for (event, place, outcome), (clinic_id, source, event_id, digest) in zip(
        given, claims, strict=True
    ):
        key = clinic_id, source, event_id
        if key not in standing:
            standing[key] = digest
            outcome.accepted.append(place)
            fresh.append(event)
        elif standing[key] == digest:
            outcome.duplicate.append(place)
        else:
            outcome.refused.append(Refused(place, event_id, identity_conflict()))
            outcome.refused.sort(key=lambda refused: refused.index)
    await publish(connection, fresh)
    return fresh


def _identifiers(receptions: Sequence[Reception], fresh: Sequence[AnyEvent]) -> list[Identifier]:
    """Gives the clinics' own identifiers in new events; those of a refused one leave no trace."""
    met = {
        (reception.clinic_id, noun, canonical, identifier)
        for reception in receptions
        for (noun, identifier), canonical in reception.identifiers.items()
    }
    if not met:
        return []
    named = {
        (event.clinic_id, getattr(event.data, name))
        for event in fresh
        for name, _ in identifier_fields(type(event.data))
    }
    return sorted(one for one in met if (one[0], one[2]) in named)
