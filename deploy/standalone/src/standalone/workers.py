"""The four workers of the embedded default, and what only their host can do with them.

Settling: the simulated clock moves on when all due work has fired, every outbox is sent and every group
has applied it. Recycling: the embedded broker keeps everything in memory and can forget nothing, so past
a limit, and at the end, it is replaced by an empty one once nobody needs what it holds. The invariant: a
recycle either ends with workers that run, on the old broker or on the new one, or with `failed`.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from revisit_chassis.failpoint import failpoint
from revisit_events.arrivals import Arrivals
from revisit_events.relay import accept_cluster
from revisit_events.topics import BROKER_DEFAULT, create_topics
from revisit_events.worker import Worker
from standalone.broker import Broker, new_cluster_id

SETTLE_POLL_SECONDS = 0.01
WATCH_SECONDS = 5.0
DRAIN_SECONDS = 60.0
"""A group that gets no further for so long does not drain: its database is away, or it has tripped."""
LONGEST_DRAIN_AT_END_SECONDS = 60.0
LONGEST_PUT_OFF_SECONDS = 900.0
RESTART_ATTEMPTS = 5
RESTART_PAUSE_SECONDS = 1.0

log = structlog.get_logger()

MakeWorkers = Callable[[], Mapping[str, Worker]]


class Workers:
    """Runs the four workers.

    Args:
        make: Makes fresh workers; those of a recycled broker are not used again.
        broker: Started. A Kafka elsewhere keeps its log, so nothing is recycled.
        partitions: Of each topic.
        replication: Copies of each topic that is made.
        max_mib: Memory of the broker past which it is recycled.
        wake: Wakes the loops that wait for the clock.
        watch_seconds: Between two looks at the broker.
        drain_seconds: Without progress, after which a recycle is put off.
    """

    def __init__(
        self,
        make: MakeWorkers,
        broker: Broker,
        *,
        partitions: int,
        replication: int = BROKER_DEFAULT,
        max_mib: int,
        wake: Callable[[], None],
        watch_seconds: float = WATCH_SECONDS,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._make = make
        self._wake = wake
        self._broker = broker
        self._partitions = partitions
        self._replication = replication
        self._max_mib = max_mib
        self._watch_seconds = watch_seconds
        self._drain_seconds = drain_seconds
        self._put_off_seconds = 0.0
        self._not_before = 0.0
        self._running: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._recycling = asyncio.Lock()
        self.failed = asyncio.Event()
        self.workers: Mapping[str, Worker] = {}
        self._arrivals = Arrivals([])

    async def start(self) -> None:
        """Makes the topics, if they are not the embedded broker's, and starts the workers."""
        if not self._broker.is_embedded:
            await create_topics(
                self._broker.bootstrap_servers, self._partitions, replication=self._replication
            )
        self._stop = asyncio.Event()
        self.workers = self._make()
        self._arrivals = Arrivals(
            [relay.acknowledged for worker in self.workers.values() for relay in worker.relays]
        )
        for worker in self.workers.values():
            if self._broker.is_embedded:
                # A Kafka answers a waiting fetch as soon as there is something: nobody has to rest there.
                worker.consumer.arrivals = self._arrivals
            for relay in worker.relays:
                relay.arrivals = self._arrivals
        self._running = asyncio.create_task(self._run(self.workers, self._stop))

    async def _run(self, workers: Mapping[str, Worker], stop: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for worker in workers.values():
                    group.create_task(worker.run(stop))
        except* Exception as faults:
            log.error("standalone.worker_failed", exc_info=faults.exceptions[0])  # noqa: TRY400
            self.failed.set()

    async def stop(self) -> None:
        """Stops the workers after the batch in hand."""
        self._stop.set()
        if self._running is not None:
            # The end may come amid a recycle, whose task is cancelled then; the workers are not.
            await asyncio.shield(self._running)
            self._running = None

    async def check(self) -> str | None:
        """Gives what is wrong, for readiness."""
        if self.failed.is_set():
            return "a worker ended"
        for worker in self.workers.values():
            for check in worker.checks.values():
                if (wrong := await check()) is not None:
                    return f"{worker.service}: {wrong}"
        return None

    async def settle(self) -> None:
        """Waits until all work due by now has fired and every group has caught up."""
        while True:
            # What happens between two of the questions shows in the activity: then they are asked again.
            before = self._activity()
            if await self._is_settled() and self._activity() == before:
                return
            if self.failed.is_set():
                raise RuntimeError("a worker ended")
            await asyncio.sleep(SETTLE_POLL_SECONDS)

    async def _is_settled(self) -> bool:
        """Asks the cheap questions first: most of a wait is spent on those that need no statement."""
        async with self._recycling:
            workers = self.workers.values()
            if any(worker.activity.running for worker in workers) or not self._all_applied():
                return False
            # While a feed is not known to be fresh, messages are held: the clock would walk past them.
            if not all(worker.consumer.feed.is_fresh() for worker in workers):
                return False
            for worker in workers:
                if not await worker.has_sent_all():
                    for relay in worker.relays:
                        relay.wake()
                    return False
            if not self._all_applied():
                return False
            for worker in workers:
                if await worker.has_due_work():
                    self._wake()
                    return False
            return True

    def _activity(self) -> int:
        return sum(
            worker.activity.done
            + sum(worker.consumer.processed.values())
            + sum(sum(relay.acknowledged.values()) for relay in worker.relays)
            for worker in self.workers.values()
        )

    async def watch(self) -> None:
        """Replaces an embedded broker that died or has grown past its limit, until cancelled."""
        while True:
            await asyncio.sleep(self._watch_seconds)
            try:
                await self._look()
            except Exception:
                # Whatever it was, the next look tries again: without this loop a broker that died
                # would stay dead, and one that grows would take all memory.
                log.exception("standalone.watch_failed")

    async def _look(self) -> None:
        if not self._broker.is_running:
            log.error("standalone.broker_died")
            # Its clients notice the new log by its id: the relays refill it.
            self._broker.start()
        elif self._broker.memory_mib > self._max_mib and _now() >= self._not_before:
            await self.recycle()

    async def recycle(self) -> bool:
        """Replaces the broker by an empty one once every group has applied what it holds.

        Returns:
            Whether it was replaced; if not, everything goes on as before and it is tried again later.
        """
        async with self._recycling:
            memory_mib = round(self._broker.memory_mib)
            next_cluster_id = await self._hand_over()
            if next_cluster_id is None:
                # Each try keeps the relays waiting, so a group that is stuck is not waited for again soon.
                self._put_off_seconds = min(
                    LONGEST_PUT_OFF_SECONDS, max(self._drain_seconds, 2 * self._put_off_seconds)
                )
                self._not_before = _now() + self._put_off_seconds
                log.warning(
                    "standalone.recycle_put_off",
                    memory_mib=memory_mib,
                    next_try_seconds=self._put_off_seconds,
                )
                return False
            self._put_off_seconds = 0.0
            failpoint("recycle.after_hand_over")
            await self.stop()
            await self._restart(next_cluster_id)
            log.info("standalone.broker_recycled", memory_mib=memory_mib)
            return True

    async def _restart(self, cluster_id: str) -> None:
        """Starts the empty broker and fresh workers; says that it failed when neither will."""
        for attempt in range(1, RESTART_ATTEMPTS + 1):
            try:
                await asyncio.to_thread(self._broker.stop)
                self._broker.start(cluster_id)
                await self.start()
            except Exception:
                log.exception("standalone.restart_failed", attempt=attempt)
                if attempt == RESTART_ATTEMPTS:
                    self.failed.set()
                    raise
                await asyncio.sleep(RESTART_PAUSE_SECONDS)
            else:
                return

    async def close(self) -> str | None:
        """Stops everything; gives the cluster id of the next log if the embedded one is all applied."""
        async with self._recycling:
            next_cluster_id = None
            try:
                if self._broker.is_embedded:
                    next_cluster_id = await self._hand_over(LONGEST_DRAIN_AT_END_SECONDS)
            except Exception:
                # Not noted, the log counts as lost: the next start fills it again, and the inboxes drop
                # the repeats.
                log.exception("standalone.hand_over_failed")
            await self.stop()
            return next_cluster_id

    async def _hand_over(self, longest_seconds: float = float("inf")) -> str | None:
        """Stops the relays, lets the groups finish, notes the id of the next log.

        Returns:
            That id; none when the groups do not finish: then the relays send on.
        """
        relays = [relay for worker in self.workers.values() for relay in worker.relays]
        for relay in relays:
            relay.pause()
        accepted = None
        try:
            if not self.workers or not await self._groups_finish(longest_seconds):
                log.warning("standalone.not_drained")
                return None
            next_cluster_id = new_cluster_id()
            # Whatever comes from here on stays in the queue for the next log.
            for worker in self.workers.values():
                async with worker.worker_database.connect() as connection:
                    await accept_cluster(connection, next_cluster_id)
            accepted = next_cluster_id
            return accepted
        finally:
            if accepted is None:
                for relay in relays:
                    relay.resume()

    async def _groups_finish(self, longest_seconds: float) -> bool:
        """Waits for the groups as long as they get on."""
        ends_at = _now() + longest_seconds
        activity, gives_up_at = self._activity(), _now() + self._drain_seconds
        while _now() < min(ends_at, gives_up_at) and not self.failed.is_set():
            relays = [relay for worker in self.workers.values() for relay in worker.relays]
            if all(relay.is_paused for relay in relays) and self._all_applied():
                return True
            await asyncio.sleep(SETTLE_POLL_SECONDS)
            if self._activity() != activity:
                activity, gives_up_at = self._activity(), _now() + self._drain_seconds
        return False

    def _all_applied(self) -> bool:
        newest = self._arrivals.newest()
        return all(worker.consumer.has_applied(newest) for worker in self.workers.values())


def _now() -> float:
    return asyncio.get_running_loop().time()
