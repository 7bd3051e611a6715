"""What a consumer polls, and by which client: batches of messages, decoded; one ahead amid a backlog."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from revisit_events import kafka
from revisit_events.arrivals import Arrivals
from revisit_events.broker import KafkaSettings
from revisit_events.dlq import Raw
from revisit_events.envelope import AnyEvent, InvalidEvent
from revisit_events.relay import BATCH as RELAY_BATCH

BATCH = 4_000
"""More than one answer of the broker holds for a partition: what is left of one makes a small batch, and
each event of that costs twice as much."""
FULL = RELAY_BATCH
"""By so much the embedded broker may tell the end of a partition too low."""
FETCH_BYTES = 8 * 1024 * 1024
"""About what one answer of a broker node may hold, however many partitions wait."""
PARTITION_BYTES = 3 * 1024 * 1024
"""Of it for one partition, some 3,500 visits: the client may keep as much of every partition that has it."""
SLICE = 250
"""Messages decoded in one go; then what is under way beside has its turn, such as the batch before."""
SESSION_TIMEOUT_MS = 6_000
HEARTBEAT_MS = 2_000
METADATA_MAX_AGE_MS = 10_000
POLL_MS = 200
POLL_TIMEOUT_SECONDS = 30.0
CUT_OFF_SECONDS = 25.0
"""A client that learned nothing of the cluster for so long is cut off, if the broker answers others."""
PARTS = 3
"""With two the database waits for Python a tenth of the time; a fourth brings nothing."""
PART_EVENTS = 100
"""Of a batch with fewer for each part, a further transaction costs more than it gains."""


class Read(NamedTuple):
    """A message, as the client gives it, and the event it holds, or why it holds none."""

    record: Any
    event: AnyEvent | InvalidEvent

    @property
    def raw(self) -> Raw:
        """The message, for a dead letter; made when it is asked for, because nearly none becomes one."""
        record = self.record
        return Raw(
            *(record.topic, record.partition, record.offset),
            *(record.key, record.value, record.headers),
        )


Good = tuple[Read, AnyEvent]
"""A message that holds an event, and the event."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one poll gave."""

    fetched: Mapping[TopicPartition, Sequence[Any]]
    reads: Sequence[Read]
    assignment: int
    """Number of the assignment under which the poll began."""
    has_more: bool
    """Whether the broker had told of more than this, or the poll could not take all that was there."""

    @property
    def is_full(self) -> bool:
        """Whether there was so much that more waits, whatever the broker says of the end."""
        return len(self.reads) >= FULL


def reader_of(group: str, kafka_settings: KafkaSettings) -> AIOKafkaConsumer:
    """Gives a client that reads for a group and commits nothing by itself; it is not started.

    Args:
        group: Name of the group.
        kafka_settings: Where to read.
    """
    return AIOKafkaConsumer(
        bootstrap_servers=kafka_settings.bootstrap_servers,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=SESSION_TIMEOUT_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        fetch_max_wait_ms=kafka_settings.fetch_max_wait_ms,
        fetch_max_bytes=FETCH_BYTES,
        max_partition_fetch_bytes=PARTITION_BYTES,
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
    )


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
                self.give_back(found.fetched)

    def give_back(self, fetched: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """Lets the next poll begin where this one did.

        Args:
            fetched: Messages of a poll; of two polls of a partition the later one goes back first.
        """
        assigned = self._reader.assignment()
        for at, found in fetched.items():
            if found and at in assigned:
                self._reader.seek(at, found[0].offset)

    async def _take(self) -> Batch:
        assignment = self.assignment
        async with asyncio.timeout(POLL_TIMEOUT_SECONDS):
            fetched = await self._reader.getmany(timeout_ms=POLL_MS, max_records=BATCH)
        # The client gives what one answer of the broker held: its rest may be a small batch amid a backlog.
        # Asked before anything is waited for: of a partition that is taken away it gives no answer.
        has_more = sum(map(len, fetched.values())) >= BATCH or any(
            found and found[-1].offset + 1 < (self._reader.highwater(at) or 0)
            for at, found in fetched.items()
        )
        try:
            reads = await _read_all([record for batch in fetched.values() for record in batch])
        except BaseException:
            self.give_back(fetched)
            raise
        return Batch(fetched, reads, assignment, has_more)


async def _read_all(records: Sequence[Any]) -> list[Read]:
    reads: list[Read] = []
    for place in range(0, len(records), SLICE):
        if place:
            await asyncio.sleep(0)
        reads += map(_read, records[place : place + SLICE])
    return reads


def _read(record: Any) -> Read:
    try:
        return Read(record, kafka.decode(record.topic, record.value, record.headers))
    except InvalidEvent as error:
        return Read(record, error)


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
    for one in good:
        parts[part_of[one[1].clinic_id]].append(one)
    return [part for part in parts if part]
