"""A migrated database, keys, and a small app made of the chassis alone."""

import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from revisit_chassis.clock import SimulatedClock
from revisit_chassis.crypto import Keyring, generate_keyring
from revisit_chassis.db import Database
from revisit_chassis.health import database_check
from revisit_chassis.http import ChassisState, create_service_app
from revisit_chassis.tokens import Denylist, Signer, Verifier, generate_signing_key, jwks_of
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def service_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("booking")


@pytest.fixture
async def database(service_database: ServiceDatabase) -> AsyncIterator[Database]:
    database = Database(service_database.database_url)
    yield database
    await database.close()


@pytest.fixture
async def worker_database(service_database: ServiceDatabase) -> AsyncIterator[Database]:
    database = Database(service_database.worker_database_url)
    yield database
    await database.close()


@pytest.fixture
def clinic_id() -> uuid.UUID:
    return uuid.uuid4()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    generate_signing_key(tmp_path / "signing.pem")
    (tmp_path / "jwks.json").write_text(json.dumps(jwks_of(tmp_path / "signing.pem")))
    generate_keyring(tmp_path / "keyring.json")
    return tmp_path


@pytest.fixture
def token(keys: Path, clinic_id: uuid.UUID) -> Callable[..., str]:
    def issue(*scopes: str, **given: Any) -> str:
        details: dict[str, Any] = {
            "sub": "olga",
            "clinic_id": clinic_id,
            "scopes": scopes or ("things:write",),
            "role": "staff",
            "lifetime_seconds": 600,
        }
        return Signer(keys / "signing.pem").issue(**(details | given))

    return issue


@pytest.fixture
def served(
    database: Database, keys: Path, token: Callable[..., str]
) -> Callable[[Callable[[FastAPI], None]], AbstractAsyncContextManager[httpx.AsyncClient]]:
    """Serves an app to which a test adds routes; the client's token has the scope things:write."""

    @asynccontextmanager
    async def serve(add_routes: Callable[[FastAPI], None]) -> AsyncIterator[httpx.AsyncClient]:
        app = create_service_app(title="Things", max_body_bytes=10_000)
        app.state.chassis = ChassisState(
            "things",
            database,
            Verifier(str(keys / "jwks.json"), Denylist()),
            SimulatedClock(NOW),
            {"database": database_check(database)},
        )
        app.state.keyring = Keyring.load(keys / "keyring.json")
        add_routes(app)
        async with httpx.AsyncClient(
            # Whatever the app lets out would be raised here: it must let nothing out.
            transport=httpx.ASGITransport(app=app),
            base_url="http://things",
            headers={"Authorization": f"Bearer {token()}"},
        ) as client:
            yield client

    return serve
