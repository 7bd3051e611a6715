"""What a consumer polls: batches of messages, decoded; one ahead while there is a backlog."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from revisit_events import kafka
from revisit_events.arrivals import Arrivals
from revisit_events.dlq import Raw
from revisit_events.envelope import AnyEvent, InvalidEvent

BATCH = 500
POLL_MS = 200
POLL_TIMEOUT_SECONDS = 30.0
CUT_OFF_SECONDS = 25.0
"""A client that learned nothing of the cluster for so long is cut off, if the broker answers others."""
PARTS = 3
"""With two the database waits for Python a tenth of the time; a fourth brings nothing."""
PART_EVENTS = 100
"""Of a batch with fewer for each part, a further transaction costs more than it gains."""

Good = tuple[Raw, AnyEvent]
"""A message that holds an event."""


@dataclass(frozen=True, slots=True)
class Read:
    """A message and the event it holds, or why it holds none."""

    raw: Raw
    event: AnyEvent | InvalidEvent


@dataclass(frozen=True, slots=True)
class Batch:
    """What one poll gave."""

    fetched: Mapping[TopicPartition, Sequence[Any]]
    reads: Sequence[Read]
    assignment: int
    """Number of the assignment under which the poll began."""
    has_more: bool
    """Whether the broker had said of more than this, or the poll could not take all that was there."""

    @property
    def is_full(self) -> bool:
        """Whether there was more than a poll takes."""
        return len(self.reads) >= BATCH


class Reading:
    """The polls of one session.

    Args:
        reader: Started; nobody else polls it.
        cluster_id: Of the log that it reads.
    """

    def __init__(self, reader: AIOKafkaConsumer, cluster_id: str) -> None:
        self.cluster_id = cluster_id
        self.assignment = 0
        """Counts up with every change of what is assigned."""
        self._reader = reader
        self._ahead: asyncio.Task[Batch] | None = None

    async def next(self) -> Batch:
        """Gives the next batch: the one that is being read already, or a new one."""
        ahead, self._ahead = self._ahead, None
        return await (ahead or self._take())

    async def rest(self, arrivals: Arrivals, stop: asyncio.Event) -> None:
        """Leaves the broker alone until the relays beside have sent something.

        Args:
            arrivals: Rings then; all that was sent before has been applied.
            stop: Ends the rest.
        """
        resting = self._reader.assignment()
        if not resting or self._ahead is not None:
            return
        self._reader.pause(*resting)
        await arrivals.next(stop)
        self._reader.resume(*(resting & self._reader.assignment()))

    def is_cut_off(self) -> bool:
        """Tells whether the client has learned nothing of the cluster for long.

        The client closes a connection on which a request is not answered, but not one on which its
        question for metadata is not: it asks into the same dead connection again. After a half-open
        network on Kafka the last effect came 12 to 14 s sooner with this than without (three pairs of runs).
        """
        known_at = self._reader._client.cluster._last_successful_refresh_ms / 1000  # noqa: SLF001
        return bool(time.time() - known_at > CUT_OFF_SECONDS)

    def read_ahead(self) -> None:
        """Begins to read what `next` will give, beside whatever the caller does meanwhile."""
        self._ahead = asyncio.create_task(self._take())

    async def drop_ahead(self) -> None:
        """Gives back what was read ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        ahead.cancel()
        for found in await asyncio.gather(ahead, return_exceptions=True):
            if isinstance(found, Batch):
                self.give_back(found)

    def give_back(self, batch: Batch) -> None:
        """Lets the next poll begin where this one did.

        Args:
            batch: Of two batches of a partition the later one goes back first.
        """
        assigned = self._reader.assignment()
        for at, found in batch.fetched.items():
            if found and at in assigned:
                self._reader.seek(at, found[0].offset)

    async def _take(self) -> Batch:
        assignment = self.assignment
        async with asyncio.timeout(POLL_TIMEOUT_SECONDS):
            fetched = await self._reader.getmany(timeout_ms=POLL_MS, max_records=BATCH)
        reads = [_read(record) for batch in fetched.values() for record in batch]
        # The client gives what one answer of the broker held: its rest may be a small batch amid a backlog.
        is_behind = any(
            found and found[-1].offset + 1 < (self._reader.highwater(at) or 0)
            for at, found in fetched.items()
        )
        return Batch(fetched, reads, assignment, has_more=is_behind or len(reads) >= BATCH)


def _read(record: Any) -> Read:
    raw = Raw(
        record.topic, record.partition, record.offset, record.key, record.value, record.headers
    )
    try:
        return Read(raw, kafka.decode(raw.topic, raw.value, raw.headers))
    except InvalidEvent as error:
        return Read(raw, error)


def parts_of(good: Sequence[Good]) -> list[list[Good]]:
    """Gives parts of a batch, about equal, that share no clinic: no key and no row is in both.

    Args:
        good: In the order of the poll, which each part keeps.
    """
    number_of_parts = min(PARTS, len(good) // PART_EVENTS)
    if number_of_parts <= 1:
        return [list(good)]
    sizes = [0] * number_of_parts
    part_of = {}
    for clinic_id, number in Counter(event.clinic_id for _, event in good).most_common():
        part_of[clinic_id] = smallest = sizes.index(min(sizes))
        sizes[smallest] += number
    parts: list[list[Good]] = [[] for _ in range(number_of_parts)]
    for raw, event in good:
        parts[part_of[event.clinic_id]].append((raw, event))
    return [part for part in parts if part]
