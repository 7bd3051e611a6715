"""A migrated database of scoring for each test process, events told to it, and its API."""

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from revisit_chassis.clock import SimulatedClock
from revisit_chassis.crypto import generate_keyring
from revisit_chassis.db import Database
from revisit_chassis.tokens import Signer, generate_signing_key, jwks_of
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.catalog import CATALOG
from revisit_events.effects import Effects
from revisit_events.envelope import AnyEvent
from revisit_events.feed import FeedStatus
from scoring.app import create_app
from scoring.consumers import HANDLERS
from scoring.rescoring import Rescore
from scoring.settings import Settings
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ORDER = [contract for contract in CATALOG.values() if contract in HANDLERS]
Tell = Callable[..., Awaitable[None]]
Work = Callable[..., Awaitable[int]]


@pytest.fixture(scope="session")
def scoring_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("scoring")


@pytest.fixture
async def database(scoring_database: ServiceDatabase) -> AsyncIterator[Database]:
    found = Database(scoring_database.database_url, pool_size=2)
    yield found
    await found.close()


@pytest.fixture
async def worker_database(scoring_database: ServiceDatabase) -> AsyncIterator[Database]:
    found = Database(scoring_database.worker_database_url, pool_size=2)
    yield found
    await found.close()


@pytest.fixture
def clinic_id() -> uuid.UUID:
    """Each test has a clinic of its own: row-level security keeps the tests apart."""
    return uuid.uuid4()


@pytest.fixture
def tell(database: Database) -> Tell:
    """Claims and applies events in one transaction, as the consumer does."""

    async def apply(*events: AnyEvent) -> None:
        await Effects("scoring", database, HANDLERS, SimulatedClock(NOW)).apply(events)

    return apply


@pytest.fixture
def work(worker_database: Database) -> Work:
    """Works off all that is due for scoring at a moment; gives how many patients that were."""

    async def run(now: datetime = NOW) -> int:
        kind = Rescore(worker_database, FeedStatus(BrokerWatch(KafkaSettings("127.0.0.1:1"))))
        done, clock = 0, SimulatedClock(now)
        while batch := await kind.run_due(clock):
            done += batch
        return done

    return run


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    generate_signing_key(folder / "signing.pem")
    (folder / "jwks.json").write_text(json.dumps(jwks_of(folder / "signing.pem")))
    generate_keyring(folder / "keyring.json")
    return folder


@pytest.fixture
async def client(
    scoring_database: ServiceDatabase, keys: Path, clinic_id: uuid.UUID
) -> AsyncIterator[httpx.AsyncClient]:
    """The API at `NOW`, called by a manager of the test's clinic."""
    settings = Settings.model_validate(
        {"database_url": scoring_database.database_url, "jwks": str(keys / "jwks.json")}
    )
    app = create_app(settings, clock=SimulatedClock(NOW))
    token = Signer(keys / "signing.pem").issue(
        sub="olga",
        clinic_id=clinic_id,
        scopes=("scores:read", "kpis:read", "targets:write"),
        role="manager",
        lifetime_seconds=600,
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),
            base_url="http://scoring",
            headers={"Authorization": f"Bearer {token}"},
        ) as client,
    ):
        yield client
