"""How fresh the feed of a group is, and whether it is a flood.

It is fresh until the moment up to which the events of its topics have been applied. Each member knows its
own partitions; whoever asks about the group (the sender of messages does before each batch) needs those of
the others as well. So each member writes a mark for each of its partitions once a second and reads all of
them: the group is as fresh as its stalest partition. A mark names the log as well: a partition that was
last read from another one is read from its beginning.

The marks are written on the connection that holds the consumer's lock (shared: members do not exclude
each other, a rebuild excludes them all), so one cannot be lost without the other being noticed.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database, fetch, fetch_value
from revisit_chassis.locks import lock_number
from revisit_events.broker import BrokerWatch

STALE_AFTER_SECONDS = 60.0
FLOOD_EVENTS_PER_SECOND = 2_000.0
"""Far above a day's work of many clinics. What follows from an event may take several times as long as the
event itself: scoring a patient 0.10 ms, taking a visit in 0.03 (two cores)."""
FLOOD_EVENTS = 1_000.0
"""So many beyond that rate make a flood; no clinic's upload of a day does."""
FLOOD_SECONDS = 1.0
"""A flood is over so long after it was last seen: longer than most batches take."""
FLOOD_PAUSE_SECONDS = 5.0
"""What comes sooner after a flood is more of it."""
FLOOD_AT_MOST_SECONDS = 60.0
"""What lasts longer is no flood but the load: nothing waits for its end any more."""
NEVER = float("-inf")

Partition = tuple[str, int]

_NOTE = """
INSERT INTO feed_mark (topic, partition, cluster_id, fresh_at)
SELECT topic, partition, $3, fresh_at FROM unnest($1::text[], $2::int[], $4::timestamptz[])
  AS given (topic, partition, fresh_at) ORDER BY 1, 2
ON CONFLICT (topic, partition) DO UPDATE
  SET cluster_id = excluded.cluster_id, fresh_at = excluded.fresh_at
"""
_READ = "SELECT topic, partition, cluster_id, fresh_at FROM feed_mark"


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of one partition."""

    cluster_id: str
    """The log it was last read from."""
    fresh_at: float
    """Until when its events are applied; seconds since 1970, real time."""


def fresh_at(
    *, position: int | None, end: int | None, asked_at: float, newest_at: float, is_full: bool
) -> float:
    """Gives until when a partition's events are applied.

    Args:
        position: Next offset to be read; none before the first is known.
        end: Where the broker said that the partition ends; none before it did.
        asked_at: When it said so.
        newest_at: The broker's time of the newest event that was applied.
        is_full: Whether the last poll was full: then more waits, whatever the end is said to be (the
            embedded broker says too little).

    >>> fresh_at(position=7, end=7, asked_at=90.0, newest_at=10.0, is_full=False)
    90.0
    >>> fresh_at(position=7, end=9, asked_at=90.0, newest_at=10.0, is_full=False)
    10.0
    """
    if position is None or end is None:
        return NEVER
    return newest_at if is_full or position < end else asked_at


class Flood:
    """Whether so many events come in that what merely follows from them had better wait: a leaky bucket.

    It goes by what was taken in, not only by what waits, because a consumer that keeps up with a flood
    has nothing waiting and yet needs the machine for itself. Moments are seconds of one clock.
    """

    def __init__(self) -> None:
        self._level = 0.0
        self._at = NEVER
        self._began_at = NEVER
        self._seen_at = NEVER

    def took(self, events: int, at: float, *, has_more: bool) -> None:
        """Notes what was taken in.

        Args:
            events: How many.
            at: When.
            has_more: Whether more was waiting than could be taken: that is a flood at whatever rate.
        """
        left = max(0.0, self._level - (at - self._at) * FLOOD_EVENTS_PER_SECOND)
        self._level = min(2 * FLOOD_EVENTS, left + events)
        self._at = at
        if has_more or self._level > FLOOD_EVENTS:
            if at - self._seen_at >= FLOOD_PAUSE_SECONDS:
                self._began_at = at
            self._seen_at = at

    def is_on(self, at: float) -> bool:
        """Tells whether there is a flood that something may wait for the end of.

        Args:
            at: Now.
        """
        return at - self._seen_at < FLOOD_SECONDS and at - self._began_at < FLOOD_AT_MOST_SECONDS


class FeedStatus:
    """How far behind its topics a group is, as a worker knows without asking anybody.

    Args:
        watch: Knows whether the broker answers.
    """

    def __init__(self, watch: BrokerWatch) -> None:
        self._watch = watch
        self._polled_at = NEVER
        self._is_full = False
        self._flood = Flood()
        self._newest_at: dict[Partition, float] = {}
        self._own_fresh_at = NEVER
        self._group_fresh_at = NEVER

    @property
    def is_flooded(self) -> bool:
        """Whether this worker takes in so much that what merely follows from events had better wait."""
        return self._flood.is_on(time.monotonic())

    @property
    def behind_seconds(self) -> float:
        """How far the worker's own partitions are behind; 0 before the first is known."""
        return 0.0 if self._own_fresh_at == NEVER else max(0.0, time.time() - self._own_fresh_at)

    def polled(self, events: int, *, is_full: bool, has_more: bool) -> None:
        """Notes that a poll came back and that what it gave is applied.

        Args:
            events: How many it gave.
            is_full: Whether it gave so much that more may wait, whatever the broker says.
            has_more: Whether the broker had told of more, or the poll could not take all.
        """
        self._polled_at = time.monotonic()
        self._is_full = is_full
        self._flood.took(events, self._polled_at, has_more=has_more)

    def applied(self, partition: Partition, timestamp_ms: int) -> None:
        """Notes the newest event that was applied, after the commit.

        Args:
            partition: Where it stood.
            timestamp_ms: The broker's time of it.
        """
        self._newest_at[partition] = min(timestamp_ms / 1000, time.time())

    def of(
        self, partition: Partition, *, position: int | None, end: int | None, asked_ms: int | None
    ) -> float:
        """Gives until when one of the worker's own partitions is applied.

        Args:
            partition: Which.
            position: Next offset to be read.
            end: Where the broker said that it ends.
            asked_ms: When it said so.
        """
        return fresh_at(
            position=position,
            end=end,
            asked_at=(asked_ms or 0) / 1000,
            newest_at=self._newest_at.get(partition, NEVER),
            is_full=self._is_full,
        )

    def noted(self, own: Iterable[float], group: Iterable[float]) -> None:
        """Notes how fresh the worker's own partitions are, and all of the group's.

        Args:
            own: Of each; none for a standby.
            group: Of each.
        """
        self._own_fresh_at = min(own, default=time.time())
        self._group_fresh_at = min(group, default=NEVER)

    def is_fresh(self) -> bool:
        """Tells whether what the group has applied is at most a minute old, in every partition.

        It holds for all workers of the service: also one that reads no partition may send messages.
        """
        return self._watch.is_reachable and _is_recent(self._group_fresh_at)

    def heard_until(self) -> datetime:
        """Gives until when everything that was sent to the group's topics has been applied; real time."""
        return _moment(self._group_fresh_at) or datetime.min.replace(tzinfo=UTC)

    def is_current(self) -> bool:
        """Tells whether the worker itself reads and is at most a minute behind, for its readiness."""
        silent_seconds = time.monotonic() - self._polled_at
        return (
            self._watch.is_reachable
            and silent_seconds < STALE_AFTER_SECONDS
            and _is_recent(self._own_fresh_at)
        )


def _is_recent(moment: float) -> bool:
    return time.time() - moment < STALE_AFTER_SECONDS


class FeedMarks:
    """The marks of a group's partitions, and the lock under which its members work.

    Args:
        database: With the service's user.
        group: Name of the group.
    """

    def __init__(self, database: Database, group: str) -> None:
        self._database = database
        self._lock_number = lock_number(consumer_lock(group))
        self._stack = AsyncExitStack()
        self._connection: AsyncConnection | None = None
        self.known: Mapping[Partition, Mark] = {}

    async def open(self) -> bool:
        """Takes the lock, if it is not held, and reads the marks; False while a rebuild has it."""
        if self._connection is not None:
            return True
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._database.alone())
            if not await fetch_value(
                connection, "SELECT pg_try_advisory_lock_shared($1)", self._lock_number
            ):
                return False
            self.known = await _read(connection)
            self._stack = stack.pop_all()
            self._connection = connection
        return True

    async def note(self, cluster_id: str, fresh: Mapping[Partition, float]) -> None:
        """Writes the member's marks and reads all.

        Args:
            cluster_id: Of the log that is read.
            fresh: Until when each of its partitions is applied.

        Raises:
            DBAPIError: The connection is gone, and the lock with it.
        """
        if self._connection is None:
            raise ConnectionError("the consumer's lock is not held")
        try:
            if fresh:
                await fetch(
                    self._connection,
                    _NOTE,
                    *_columns(fresh),
                    cluster_id,
                    list(map(_moment, fresh.values())),
                )
            self.known = await _read(self._connection)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Gives the lock back."""
        self._connection = None
        await self._stack.aclose()


def consumer_lock(group: str) -> str:
    """Gives the name of the lock that members share and a rebuild holds alone.

    Args:
        group: Name of the group.
    """
    return f"{group}.consumer"


def _columns(partitions: Iterable[Partition]) -> tuple[Sequence[str], Sequence[int]]:
    pairs = list(partitions)
    return [topic for topic, _ in pairs], [number for _, number in pairs]


def _moment(seconds: float) -> datetime | None:
    return None if seconds == NEVER else datetime.fromtimestamp(seconds, UTC)


async def _read(connection: AsyncConnection) -> dict[Partition, Mark]:
    return {
        (row.topic, row.partition): Mark(
            row.cluster_id, NEVER if row.fresh_at is None else row.fresh_at.timestamp()
        )
        for row in await fetch(connection, _READ)
    }
