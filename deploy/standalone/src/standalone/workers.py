"""The four workers of the embedded default, and what only their host can do with them.

Settling: the simulated clock moves on when all due work has fired, every outbox is sent and every group
has applied it. Recycling: the embedded broker keeps everything in memory and can forget nothing, so past
a limit, and at the end, it is replaced by an empty one once nobody needs what it holds.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from revisit_chassis.failpoint import failpoint
from revisit_events.relay import accept_cluster
from revisit_events.topics import create_topics
from revisit_events.worker import Worker
from standalone.broker import EmbeddedBroker, new_cluster_id

SETTLE_POLL_SECONDS = 0.01
WATCH_SECONDS = 5.0
RECYCLE_TIMEOUT_SECONDS = 60.0

log = structlog.get_logger()

MakeWorkers = Callable[[], Mapping[str, Worker]]


class Workers:
    """Runs the four workers on the embedded broker.

    Args:
        make: Makes fresh workers; those of a recycled broker are not used again.
        broker: Started.
        partitions: Of each topic.
        max_mib: Memory of the broker past which it is recycled.
        wake: Wakes the loops that wait for the clock.
    """

    def __init__(
        self,
        make: MakeWorkers,
        broker: EmbeddedBroker,
        *,
        partitions: int,
        max_mib: int,
        wake: Callable[[], None],
    ) -> None:
        self._make = make
        self._wake = wake
        self._broker = broker
        self._partitions = partitions
        self._max_mib = max_mib
        self._running: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._recycling = asyncio.Lock()
        self.failed = asyncio.Event()
        self.workers: Mapping[str, Worker] = {}
        self._next_cluster_id = ""

    async def start(self) -> None:
        """Makes the topics and starts the workers."""
        await create_topics(self._broker.bootstrap_servers, self._partitions)
        self._stop = asyncio.Event()
        self.workers = self._make()
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
            await self._running
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
            for worker in workers:
                if not await worker.has_sent_all():
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
        """Replaces a broker that died or has grown past its limit, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self._broker.is_running:
                log.error("standalone.broker_died")
                # Its clients notice the new log by its id: the relays refill it.
                self._broker.start()
            elif self._broker.memory_mib > self._max_mib:
                await self.recycle()

    async def recycle(self) -> None:
        """Replaces the broker by an empty one once every group has applied what it holds."""
        async with self._recycling:
            memory = self._broker.memory_mib
            if not await self._hand_over():
                return
            failpoint("recycle.after_hand_over")
            await asyncio.to_thread(self._broker.stop)
            self._broker.start(self._next_cluster_id)
            await self.start()
            log.info("standalone.broker_recycled", memory_mib=round(memory))

    async def close(self) -> str | None:
        """Stops everything; gives the cluster id of the next log if the present one is all applied."""
        async with self._recycling:
            return self._next_cluster_id if await self._hand_over() else None

    async def _hand_over(self) -> bool:
        """Stops the relays, lets the groups finish, stops the workers, notes the next log."""
        for worker in self.workers.values():
            for relay in worker.relays:
                relay.pause()
        drained = await self._groups_finish()
        # Read while the pools are open; whatever came after stays in the queue for the next log.
        self._next_cluster_id = new_cluster_id()
        if drained:
            for worker in self.workers.values():
                async with worker.worker_database.connect() as connection:
                    await accept_cluster(connection, self._next_cluster_id)
        else:
            log.warning("standalone.not_drained")
        await self.stop()
        return drained

    async def _groups_finish(self) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RECYCLE_TIMEOUT_SECONDS
        while loop.time() < deadline:
            relays = [relay for worker in self.workers.values() for relay in worker.relays]
            if all(relay.is_paused for relay in relays) and self._all_applied():
                return True
            await asyncio.sleep(SETTLE_POLL_SECONDS)
        return False

    def _all_applied(self) -> bool:
        acknowledged: dict[tuple[str, int], int] = {}
        for worker in self.workers.values():
            for relay in worker.relays:
                for at, offset in relay.acknowledged.items():
                    acknowledged[at] = max(offset, acknowledged.get(at, -1))
        return all(worker.has_applied(acknowledged) for worker in self.workers.values())
