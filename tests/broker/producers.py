"""A producer that stands between the relay and a broker which refuses what it is sent."""

import asyncio
from abc import ABC, abstractmethod
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder


class Refused(AIOKafkaProducer, ABC):  # type: ignore[misc]
    """Answers for the broker where `fault_of` gives a fault; sends the rest."""

    @abstractmethod
    def fault_of(self, batch: BatchBuilder) -> Exception | None:
        """Gives why a record batch is refused."""

    async def send_batch(
        self, batch: BatchBuilder, topic: str, *, partition: int
    ) -> asyncio.Future[Any]:
        """Sends a record batch, or gives the broker's refusal of it."""
        fault = self.fault_of(batch)
        if fault is None:
            sent: asyncio.Future[Any] = await super().send_batch(batch, topic, partition=partition)
            return sent
        refused = asyncio.get_running_loop().create_future()
        refused.set_exception(fault)
        return refused
