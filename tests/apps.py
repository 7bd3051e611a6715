"""The four APIs in this process, on migrated databases; events are told as the consumers would."""

import importlib
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from booking.roles import scopes_of
from revisit_chassis.clock import Clock, SimulatedClock, SystemClock
from revisit_chassis.crypto import generate_keyring
from revisit_chassis.db import Database
from revisit_chassis.tokens import Signer, generate_signing_key, jwks_of
from revisit_events.effects import Effects
from revisit_events.envelope import AnyEvent
from standalone.cluster import ServiceDatabase

SERVICES = ("booking", "engagement", "feedback", "scoring")


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of a throw-away platform.

    Attributes:
        folder: Where they lie.
    """

    folder: Path

    @classmethod
    def generate(cls, folder: Path) -> "Keys":
        """Makes new ones."""
        generate_signing_key(folder / "signing.pem")
        (folder / "jwks.json").write_text(json.dumps(jwks_of(folder / "signing.pem")))
        generate_keyring(folder / "keyring.json")
        return cls(folder)

    def headers(self, clinic_id: uuid.UUID | None, role: str = "admin") -> dict[str, str]:
        """Gives the header of a caller."""
        token = Signer(self.folder / "signing.pem").issue(
            sub="test",
            clinic_id=clinic_id,
            scopes=scopes_of(role, is_platform=clinic_id is None),
            role=role,
            lifetime_seconds=3600,
        )
        return {"Authorization": f"Bearer {token}"}


def make_app(
    service: str, database: ServiceDatabase, keys: Keys, clock: Clock | None = None
) -> FastAPI:
    """Gives a service's app."""
    options: dict[str, Any] = {
        "database_url": database.database_url,
        "worker_database_url": database.worker_database_url,
        "public_url": "http://127.0.0.1:9",
        "jwks": str(keys.folder / "jwks.json"),
        "keyring": str(keys.folder / "keyring.json"),
    }
    settings = importlib.import_module(f"{service}.settings").Settings(**options)
    create = importlib.import_module(f"{service}.app").create_app
    app: FastAPI = create(settings, clock=clock or SystemClock())
    return app


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Runs an app's lifespan; gives a client that turns faults of the app into 500."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


def handlers_of(service: str) -> Mapping[Any, Any]:
    """Gives a service's handlers."""
    found: Mapping[Any, Any] = importlib.import_module(f"{service}.consumers").HANDLERS
    return found


async def tell(service: str, database: Database, events: Sequence[AnyEvent], now: datetime) -> None:
    """Applies events like the service's consumer, in one transaction."""
    await Effects(service, database, handlers_of(service), SimulatedClock(now)).apply(events)
