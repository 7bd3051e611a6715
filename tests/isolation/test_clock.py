"""The origin's clock belongs to the platform: no clinic moves it."""

import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from tests.apps import Keys, serving

from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_chassis.tokens import Denylist, Verifier
from revisit_events.testing import NOON
from standalone.clock import ClockDriver, ClockFile
from standalone.cluster import Cluster
from standalone.origin import create_origin


async def _settled() -> None:
    """Nothing is due."""


@pytest.mark.parametrize("role", ["admin", "manager", "clinic_system"])
async def test_token_of_a_clinic_does_not_move_the_clock(
    role: str, postgres: Cluster, tmp_path: Path
) -> None:
    keys = Keys.generate(tmp_path)
    clock = SimulatedClock(NOON)
    database = Database(postgres.prepare("origin").database_url)
    origin = create_origin(
        {},
        clock=clock,
        driver=ClockDriver(clock, ClockFile(tmp_path / "clock.json"), _settled),
        database=database,
        verifier=Verifier(str(tmp_path / "jwks.json"), Denylist()),
        checks={},
    )
    async with serving(origin) as client:
        day = {"advance": "PT24H"}
        clinic = keys.headers(uuid.uuid4(), role)
        assert (await client.post("/clock", json=day, headers=clinic)).status_code == 403
        assert (await client.post("/clock", json=day)).status_code == 401
        assert clock.now() == NOON
        platform = keys.headers(None)
        assert (await client.post("/clock", json=day, headers=platform)).status_code == 200
        assert clock.now() == NOON + timedelta(days=1)
    await database.close()
