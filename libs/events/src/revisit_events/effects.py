"""What an event does to a service: claimed, handled and counted, once, in one transaction."""

from collections import Counter
from collections.abc import Collection, Sequence
from uuid import UUID

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database
from revisit_chassis.failpoint import failpoint
from revisit_events import dlq, kafka, metrics
from revisit_events.catalog import CATALOG
from revisit_events.contracts import PatientErased
from revisit_events.envelope import AnyEvent
from revisit_events.handlers import Handlers, handle
from revisit_events.inbox import Months, claim, claim_new
from revisit_events.novelty import Novelty


class Effects:
    """Applies events by a service's handlers.

    Args:
        group: Name of the service, for metrics.
        database: With the service's user.
        handlers: By contract.
        clock: Business time, given to handlers.
    """

    def __init__(self, group: str, database: Database, handlers: Handlers, clock: Clock) -> None:
        self.contracts = [contract for contract in CATALOG.values() if contract in handlers]
        """Those that have a handler, in the order in which a transaction handles them."""
        self._group = group
        self._database = database
        self._handlers = handlers
        self._clock = clock
        self._months = Months(database)
        self._novelty = Novelty()

    async def apply(self, events: Sequence[AnyEvent]) -> None:
        """Applies those of the events that are new, in one transaction.

        Args:
            events: May hold repeats of each other.
        """
        if not events:
            return
        await self._months.ensure([event.time for event in events])
        clinics = {event.clinic_id for event in events}
        fresh = await self._novelty.take(
            lambda: self._transact(clinics, events, are_new=True),
            lambda: self._transact(clinics, events),
            lambda fresh: len(fresh) < len(events),
        )
        metrics.REPEATED.labels(self._group).inc(len(events) - len(fresh))
        for topic, number in Counter(event.topic for event in fresh).items():
            metrics.HANDLED.labels(self._group, topic).inc(number)

    async def replay(self, letter: dlq.DeadLetter) -> None:
        """Applies the event of a dead letter, unless that was done, and closes the letter with it.

        Args:
            letter: Open.

        Raises:
            InvalidEvent: It still is no event.
        """
        raw = letter.raw
        event = kafka.decode(raw.topic, raw.value, raw.headers)
        await self._months.ensure([event.time])
        await self._transact({event.clinic_id, letter.clinic_id}, [event], letter)

    async def _transact(
        self,
        clinics: Collection[UUID],
        events: Sequence[AnyEvent],
        letter: dlq.DeadLetter | None = None,
        *,
        are_new: bool = False,
    ) -> list[AnyEvent]:
        now = self._clock.now()
        async with self._database.transaction(clinics) as connection:
            fresh = await (claim_new if are_new else claim)(connection, events)
            await handle(connection, self._handlers, self.contracts, fresh, now, are_new=are_new)
            if erased := [event for event in fresh if type(event.data) is PatientErased]:
                await dlq.forget(connection, [(event.clinic_id, event.key) for event in erased])
            if letter is not None:
                await dlq.close(connection, letter, "replayed")
            failpoint("consumer.before_commit")
        return fresh
