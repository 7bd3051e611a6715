"""What a worker knows of the broker: whether it answers, and which log it is.

A broker that lost its log is a new log: the embedded one gets another cluster id at each start, Kafka
with a fresh disk as well. The relay then refills it and the consumer reads it from its beginning.

Kafka gets its topics from whoever comes first. The embedded broker makes its own as it starts, and is
not known here before they are there: one that is made after something was written to it begins anew at
offset 0 (docs/adr/0050).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import aiokafka.admin.client
import aiokafka.client
import structlog
from aiokafka import AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaConnectionError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from aiokafka.protocol.metadata import MetadataRequest

from revisit_chassis.failpoint import failpoint
from revisit_events.deadlines import finish, quietly
from revisit_events.retry import pause
from revisit_events.topics import WrongTopic, all_topics, create_topics

PROBE_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 5.0
TOPICS_TIMEOUT_SECONDS = 60.0
TOPICS_POLL_SECONDS = 0.05
EMBEDDED = "revisit-"
"""What the cluster ids of the embedded broker begin with; those of a Kafka are made of its own."""
UNREACHABLE_AFTER_SECONDS = 10.0

LOST_PARTITION = (
    CommitFailedError,
    IllegalStateError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
"""The partition went to another member meanwhile, who reads the batch again and finds it applied."""

log = structlog.get_logger()

# Whenever it looks a topic up, the client has the broker make it, with the broker's own number of
# partitions; aiokafka 0.14 has no setting for that.
for _module in (aiokafka.client, aiokafka.admin.client):
    _module.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """How to talk to the broker."""

    bootstrap_servers: str
    enable_idempotence: bool = True
    topic_partitions: int = 12
    fetch_max_wait_ms: int = 500
    topic_replication: int = -1
    """Copies of each topic; -1 is the broker's own default."""


class BrokerWatch:
    """Asks the broker each second who it is.

    Args:
        kafka: Where the broker is.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self.kafka = kafka
        self.cluster_id: str | None = None
        self._answered_at = 0.0
        self._failures = 0
        self._seen = asyncio.Event()

    @property
    def is_embedded(self) -> bool:
        """Whether it is the embedded broker."""
        return self.cluster_id is not None and _is_embedded(self.cluster_id)

    @property
    def is_reachable(self) -> bool:
        """Whether the broker answered lately."""
        return time.monotonic() - self._answered_at < UNREACHABLE_AFTER_SECONDS

    async def check(self) -> str | None:
        """Gives what is wrong, for readiness."""
        return None if self.is_reachable else "the broker does not answer"

    async def seen(self, stop: asyncio.Event) -> None:
        """Waits until the broker has answered once, or until told to stop.

        Args:
            stop: Ends the wait.
        """
        waits = [asyncio.create_task(self._seen.wait()), asyncio.create_task(stop.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def run(self, stop: asyncio.Event) -> None:
        """Watches until told to stop. A log that is new gets its topics first.

        Args:
            stop: Ends the loop.
        """
        while not stop.is_set():
            try:
                await self._watch(stop)
            except (KafkaError, OSError, TimeoutError) as error:
                self._failures += 1
                log.warning("broker.unreachable", error=type(error).__name__)
                await pause(self._failures, stop)

    async def _watch(self, stop: asyncio.Event) -> None:
        admin = AIOKafkaAdminClient(
            bootstrap_servers=self.kafka.bootstrap_servers,
            request_timeout_ms=int(PROBE_TIMEOUT_SECONDS * 1000),
        )
        try:
            await finish(admin.start(), stop, PROBE_TIMEOUT_SECONDS)
            while not stop.is_set():
                described = await finish(admin.describe_cluster(), stop, PROBE_TIMEOUT_SECONDS)
                await self._note(str(described["cluster_id"]), admin, stop)
                self._failures = 0
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_SECONDS):
                        await stop.wait()
        finally:
            await quietly(admin.close())

    async def bind(self, producer: AIOKafkaProducer, stop: asyncio.Event) -> None:
        """Binds a producer to the process of the embedded broker; waits until its log is known here.

        By itself a client connects again and sends what it has to whatever answers at the address then: to
        an empty log, maybe, whose topics are yet to be made. Bound, it tries nothing twice.

        Args:
            producer: Started.
            stop: Ends the wait.

        Raises:
            KafkaError: The connection is gone, or never was.
        """
        client = producer.client
        node = client.get_random_node()
        cluster_id = (await client.send(node, MetadataRequest(None))).cluster_id
        connection: AIOKafkaConnection | None = client._conns.get((node, ConnectionGroup.DEFAULT))  # noqa: SLF001
        if connection is None:
            raise KafkaConnectionError("the connection is gone already")

        async def same(*_: object, **__: object) -> AIOKafkaConnection | None:
            return connection if connection.connected() else None

        client._get_conn = same  # noqa: SLF001
        # What has outlived its time is not tried again.
        producer._message_accumulator._batch_ttl = -1  # noqa: SLF001
        while self.cluster_id != cluster_id and not stop.is_set():
            if not connection.connected():
                raise KafkaConnectionError("the log is gone before it was known")
            await asyncio.sleep(TOPICS_POLL_SECONDS)
        # The topics are there only now; what is known of them need not be asked for amid a send.
        client.cluster.update_metadata(await client.send(node, MetadataRequest(None)))

    async def _note(self, cluster_id: str, admin: AIOKafkaAdminClient, stop: asyncio.Event) -> None:
        if cluster_id != self.cluster_id:
            is_embedded = _is_embedded(cluster_id)
            making = _topics_are_there(admin) if is_embedded else self._make_topics()
            await finish(making, stop, TOPICS_TIMEOUT_SECONDS)
            if self.cluster_id is not None:
                log.warning("broker.new_log", cluster_id=cluster_id)
            self.cluster_id = cluster_id
        self._answered_at = time.monotonic()
        self._seen.set()

    async def _make_topics(self) -> None:
        try:
            await create_topics(
                self.kafka.bootstrap_servers,
                self.kafka.topic_partitions,
                replication=self.kafka.topic_replication,
            )
        except WrongTopic as error:
            # Relays use the declared partitions alone; `topics create` refuses it. Of a wrong policy, too, an
            # operator is told: to stop sending helps nobody.
            log.warning("broker.wrong_topic", detail=str(error))


def _is_embedded(cluster_id: str) -> bool:
    return cluster_id.startswith(EMBEDDED)


async def _topics_are_there(admin: AIOKafkaAdminClient) -> None:
    while not set(all_topics()) <= set(await admin.list_topics()):  # noqa: ASYNC110  (nobody tells)
        await asyncio.sleep(TOPICS_POLL_SECONDS)
    # A topic has its name a moment before it has its offsets.
    await asyncio.sleep(TOPICS_POLL_SECONDS)


def is_broker_fault(error: BaseException) -> bool:
    """Tells whether an error says that the broker was out of reach.

    Args:
        error: What a client raised.
    """
    return isinstance(error, KafkaError | OSError | TimeoutError)


class AssignmentListener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Tells which partitions come and go; whatever may fail is left to the loop, for this must not.

    Args:
        assigned: Gets what comes.
        revoked: Gets what goes.
    """

    def __init__(
        self,
        assigned: Callable[[set[TopicPartition]], None],
        revoked: Callable[[set[TopicPartition]], None],
    ) -> None:
        self._assigned = assigned
        self._revoked = revoked

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Called by the client before it joins the group again."""
        failpoint("consumer.on_rebalance")
        self._revoked(set(revoked))

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Called by the client after it has joined."""
        self._assigned(set(assigned))
