"""Databases and users of the services inside one embedded PostgreSQL cluster.

Each service gets a database, an owner (migrations only), an unprivileged user and a worker user. The
passwords are random and kept in a file that only the caller can read.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg

from revisit_chassis.migrate import upgrade
from revisit_chassis.tenancy import Roles
from standalone.postgres import SUPERUSER, EmbeddedPostgres, Tuning

PUBLISHED = """
SELECT headers::json->>'ce_type' AS type, count(*) AS count FROM outbox WHERE clinic_id = $1 GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class ServiceDatabase:
    """Addresses of one service's database for its three users, and the users' names."""

    database_url: str
    worker_database_url: str
    owner_database_url: str
    roles: Roles


class Cluster:
    """A PostgreSQL cluster that knows how to make a service's database.

    Args:
        data_dir: Folder of the cluster.
        tuning: Server settings.
    """

    def __init__(self, data_dir: Path, tuning: Tuning | None = None) -> None:
        self._data_dir = data_dir
        self.server = EmbeddedPostgres(data_dir, tuning)

    @property
    def superuser_url(self) -> str:
        """Address of the maintenance database as superuser."""
        return self.server.superuser_url

    def start(self) -> None:
        """Starts the server; creates the cluster in an empty folder."""
        self.server.start()

    def stop(self) -> None:
        """Stops the server with a checkpoint."""
        self.server.stop()

    def remove(self) -> None:
        """Deletes the stopped cluster."""
        self.server.remove()

    def attach(self) -> None:
        """Uses the server that another process runs on this folder.

        Raises:
            PostgresFailed: None runs there.
        """
        self.server.attach()

    def published(self, service: str, clinic_id: UUID) -> dict[str, int]:
        """Gives how many events of each type a service has published for a clinic, by its outbox.

        Args:
            service: Whose; its database has the same name.
            clinic_id: The clinic.
        """
        found: dict[str, int] = {}
        address = self.server.url(service, SUPERUSER, self.server.superuser_password)

        async def count() -> None:
            connection = await asyncpg.connect(address)
            try:
                rows = await connection.fetch(PUBLISHED, clinic_id)
            finally:
                await connection.close()
            found.update({row["type"]: row["count"] for row in rows})

        _outside_loop(lambda: asyncio.run(count()))
        return found

    def addresses(self, name: str) -> ServiceDatabase:
        """Gives the addresses of a database that was prepared before.

        Args:
            name: Name of the database.
        """
        urls = {
            user: self.server.url(name, user, password)
            for user, password in self._passwords(name).items()
        }
        return ServiceDatabase(
            database_url=urls[name],
            worker_database_url=urls[f"{name}_worker"],
            owner_database_url=urls[f"{name}_owner"],
            roles=Roles(app=name, worker=f"{name}_worker"),
        )

    def prepare(self, name: str) -> ServiceDatabase:
        """Makes database and users `name`, `name_worker`, `name_owner` unless they exist; no migration.

        Args:
            name: Name of the database and prefix of its users, such as `booking`.
        """
        passwords = self._passwords(name)
        _outside_loop(lambda: asyncio.run(_create(self.superuser_url, name, passwords)))
        return self.addresses(name)

    def create(self, service: str, name: str | None = None) -> ServiceDatabase:
        """Makes and migrates a database for a service.

        Args:
            service: Package whose migrations are applied, such as `booking`.
            name: Name of the database; a fresh one when left out.
        """
        database = self.prepare(name or f"{service}_{secrets.token_hex(4)}")
        _outside_loop(lambda: upgrade(service, database.owner_database_url, database.roles))
        return database

    def _passwords(self, name: str) -> Mapping[str, str]:
        path = self._data_dir / f"{name}.secret"
        if not path.exists():
            users = (name, f"{name}_worker", f"{name}_owner")
            path.touch(mode=0o600)
            path.write_text(json.dumps({user: secrets.token_urlsafe(24) for user in users}))
        passwords: Mapping[str, str] = json.loads(path.read_text())
        return passwords


def _outside_loop(work: Callable[[], None]) -> None:
    """Runs blocking set-up in a thread of its own, so that an async test may call it as well."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(work).result()


async def _create(superuser_url: str, name: str, passwords: Mapping[str, str]) -> None:
    connection = await asyncpg.connect(superuser_url)
    try:
        for user, password in passwords.items():
            if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", user):
                # DDL takes no parameters; the password is our own URL-safe text.
                await connection.execute(
                    f"CREATE ROLE \"{user}\" LOGIN NOBYPASSRLS PASSWORD '{password}'"
                )
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f'CREATE DATABASE "{name}" OWNER "{name}_owner"')
            await connection.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
            for user in passwords:
                await connection.execute(f'GRANT CONNECT ON DATABASE "{name}" TO "{user}"')
    finally:
        await connection.close()
