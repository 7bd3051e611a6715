"""The quick set: several faults one after another on one platform, judged once at the end."""

import asyncio
import os
from pathlib import Path

import pytest
from deploy.kafka.apache_kafka import ApacheKafka

from tests.chaos.rig import Broker, EmbeddedLog, Platform
from tests.chaos.scenarios import QUICK
from tests.chaos.trials import try_faults

SEED = 20260112
PATIENTS = 300


@pytest.mark.e2e
@pytest.mark.timeout(480)
async def test_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    # A node of its own also where the other tests share one: this one loses its log.
    on_kafka = "REVISIT_TEST_KAFKA" in os.environ
    broker: Broker = (
        ApacheKafka(tmp_path / "kafka") if on_kafka else EmbeddedLog(tmp_path / "broker.log")
    )
    await asyncio.to_thread(broker.start)
    partitions = 3 if on_kafka else 1
    platform = Platform(tmp_path, broker, partitions=partitions, idempotent=on_kafka)
    try:
        await platform.start()
        seed = int(os.environ.get("CHAOS_SEED", SEED))
        found = await try_faults(platform, QUICK, seed, patients=PATIENTS)
    finally:
        await platform.stop()
        await asyncio.to_thread(broker.stop)
    assert found == []
