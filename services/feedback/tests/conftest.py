"""A migrated database, the API over it, and events told to it as the consumer would."""

import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from feedback.app import create_app
from feedback.consumers import HANDLERS
from feedback.settings import Settings
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.crypto import generate_keyring
from revisit_chassis.db import Database
from revisit_chassis.tokens import Signer, generate_signing_key, jwks_of
from revisit_events.effects import Effects
from revisit_events.envelope import AnyEvent
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
SCOPES = (
    "events:write",
    "surveys:read",
    "surveys:write",
    "reviews:read",
    "complaints:read",
    "complaints:write",
)
TokenMaker = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def service_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("feedback")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    generate_signing_key(folder / "signing.pem")
    (folder / "jwks.json").write_text(json.dumps(jwks_of(folder / "signing.pem")))
    generate_keyring(folder / "keyring.json")
    return folder


@pytest.fixture
def clinic_id() -> uuid.UUID:
    return uuid.uuid4()


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(NOW)


@pytest.fixture
def token(keys: Path, clinic_id: uuid.UUID) -> TokenMaker:
    def make(*scopes: str, clinic: uuid.UUID = clinic_id) -> dict[str, str]:
        text = Signer(keys / "signing.pem").issue(
            sub="olga",
            clinic_id=clinic,
            scopes=scopes or SCOPES,
            role="quality",
            lifetime_seconds=600,
        )
        return {"Authorization": f"Bearer {text}"}

    return make


@pytest.fixture
async def client(
    service_database: ServiceDatabase, keys: Path, clock: SimulatedClock, token: TokenMaker
) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings.model_validate(
        {
            "database_url": service_database.database_url,
            "jwks": str(keys / "jwks.json"),
            "keyring": str(keys / "keyring.json"),
        }
    )
    app = create_app(settings, clock=clock)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://feedback", headers=token()
        ) as client,
    ):
        yield client


@pytest.fixture
async def database(service_database: ServiceDatabase) -> AsyncIterator[Database]:
    database = Database(service_database.database_url)
    yield database
    await database.close()


class Store:
    """The service's database as its consumer and a curious reader use it."""

    def __init__(self, database: Database, clinic_id: uuid.UUID, clock: SimulatedClock) -> None:
        self.database = database
        self.clinic_id = clinic_id
        self.clock = clock

    async def tell(self, *events: AnyEvent) -> None:
        """Claims and applies events in one transaction."""
        await Effects("feedback", self.database, HANDLERS, self.clock).apply(events)

    async def rows(self, statement: str, **values: object) -> Sequence[sa.Row[Any]]:
        async with self.database.transaction([self.clinic_id]) as connection:
            known = {name: value for name, value in values.items() if f":{name}" in statement}
            return (await connection.execute(sa.text(statement), known)).all()

    async def published(self, topic: str) -> list[dict[str, Any]]:
        """Data of the events in the outbox, in order."""
        rows = await self.rows(
            "SELECT data FROM outbox WHERE topic = :topic ORDER BY position", topic=topic
        )
        return [json.loads(row.data) for row in rows]


@pytest.fixture
def store(database: Database, clinic_id: uuid.UUID, clock: SimulatedClock) -> Store:
    return Store(database, clinic_id, clock)


@pytest.fixture
def store_of(database: Database, clock: SimulatedClock) -> Callable[[uuid.UUID], Store]:
    return lambda clinic_id: Store(database, clinic_id, clock)
