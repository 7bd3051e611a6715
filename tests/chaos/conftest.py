"""One platform for the quick set and the walk: eight processes take a while to start."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.chaos.rig import Platform


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    # A node of its own also where the other tests share one: this one loses its log.
    kind = "kafka" if "REVISIT_TEST_KAFKA" in os.environ else "embedded"
    running = Platform(tmp_path_factory.mktemp("chaos"), kind)
    try:
        await running.start()
        yield running
    finally:
        await running.stop()
