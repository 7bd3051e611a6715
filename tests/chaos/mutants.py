"""Deliberate defects, one a guarantee: the suite must fail on each of them.

A mutant replaces functions inside one process before the service starts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaProducer

from engagement.messages import judge, sender, usecases
from engagement.messages.gate import Decision, Situation, Verdict, decide
from revisit_chassis.clock import Clock
from revisit_chassis.failpoint import failpoint
from revisit_events import consumer, dlq, effects, relay
from revisit_events.reading import Batch

_BY_CURSOR = """
SELECT clinic_id, position, topic, key, event_id, headers, data FROM outbox
WHERE position > $1 ORDER BY position LIMIT $2
"""
_TAKE_OFF = "DELETE FROM outbox_unsent WHERE position = ANY($1::bigint[])"


_SENT_BEFORE = """
SELECT coalesce((SELECT min(position) - 1 FROM outbox_unsent), (SELECT max(position) FROM outbox), 0)
"""


def cursor_relay() -> None:
    """The relay remembers the last position it sent instead of taking rows off a queue."""
    last: int | None = None

    async def relay_batch(self: Any, producer: AIOKafkaProducer) -> int:
        nonlocal last
        async with self._database.connect() as connection:
            if last is None:
                # From the beginning it would be so late that no commit could be later.
                last = (await connection.exec_driver_sql(_SENT_BEFORE)).scalar_one()
            rows = (await connection.exec_driver_sql(_BY_CURSOR, (last, relay.BATCH))).all()
            await connection.exec_driver_sql("DELETE FROM outbox_unsent")
        if rows:
            await self._send(producer, rows, relay.Sent())
            last = rows[-1].position
        return len(rows)

    _replace(relay.Relay, "relay_batch", relay_batch)


def delete_before_ack() -> None:
    """The relay takes a batch off its queue before the broker has it."""

    async def relay_batch(self: Any, producer: AIOKafkaProducer) -> int:
        async with self._database.connect() as connection:
            found = await connection.exec_driver_sql(relay._READ, (1, 0, relay.BATCH))
            rows = found.all()
            if rows:
                positions = [row.position for row in rows]
                await connection.exec_driver_sql(_TAKE_OFF, (positions,))
        if rows:
            failpoint("relay.before_send")
            await self._send(producer, rows, relay.Sent())
        return len(rows)

    _replace(relay.Relay, "relay_batch", relay_batch)


def no_inbox() -> None:
    """Every event that comes is applied, whether or not it was before."""
    claim = effects.claim

    async def claim_all(connection: Any, events: Sequence[Any]) -> list[Any]:
        await claim(connection, events)
        return list(events)

    _replace(effects, "claim", claim_all)


def no_tenant_in_key() -> None:
    """Events are told apart by source and id alone: those of another clinic look like repeats."""
    claim = effects.claim
    owners: dict[tuple[str, str], UUID] = {}

    async def claim_without_clinic(connection: Any, events: Sequence[Any]) -> list[Any]:
        fresh = await claim(connection, events)
        return [
            event
            for event in fresh
            if owners.setdefault((event.source, event.id), event.clinic_id) == event.clinic_id
        ]

    _replace(effects, "claim", claim_without_clinic)
    _replace(effects, "claim_new", claim_without_clinic)


def offsets_first() -> None:
    """The consumer commits its offsets before it applies what it fetched."""

    async def work(self: Any, reader: Any, _: Any, batch: Batch, __: Any) -> None:
        self.feed.polled(len(batch.reads), is_full=False, has_more=False)
        if batch.reads:
            offsets = {at: found[-1].offset + 1 for at, found in batch.fetched.items()}
            await reader.commit(offsets)
            await self._apply_patiently(reader, batch)

    _replace(consumer.Consumer, "_work", work)


def dead_letters_swallowed() -> None:
    """What cannot be handled is skipped without a trace."""

    async def keep(*_: object, **__: object) -> None:
        return

    _replace(dlq, "keep", keep)


def send_before_claim() -> None:
    """A message is handed to the provider before anything durable says so."""

    async def run_due(self: Any, clock: Clock) -> int:
        lease_until = sender._real_now() + sender.LEASE
        claims = await self._claim(clock, lease_until)
        if not claims:
            return 0
        desk = self._desk()
        clinics = {one.clinic_id for one in claims}
        async with self._database.transaction(clinics) as connection:
            now = sender._real_now()
            ready = await usecases.prepare(connection, claims, desk, clock, now, lease_until)
            results = [(one, await self._call(one, lease_until)) for one in ready]
        if results:
            await self._settle(results, clock, lease_until)
        return len(claims)

    _replace(sender.MessageSender, "run_due", run_due)


def gate_skipped() -> None:
    """Whatever is due leaves by the first address there is, whatever the gate would say."""

    def let_pass(situation: Situation) -> Decision:
        decision = decide(situation)
        if not situation.reachable:
            return decision
        return Decision(Verdict.SEND, None, min(situation.reachable), None, decision.checks)

    _replace(judge, "decide", let_pass)


def _replace(owner: Any, name: str, value: object) -> None:
    if not hasattr(owner, name):
        raise AttributeError(f"{owner} has no {name}: the mutant is stale")
    setattr(owner, name, value)


MUTANTS: Mapping[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        cursor_relay,
        delete_before_ack,
        no_inbox,
        no_tenant_in_key,
        offsets_first,
        dead_letters_swallowed,
        send_before_claim,
        gate_skipped,
    )
}
