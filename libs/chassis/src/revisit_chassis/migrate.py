"""Migrations of a service's database, by its owner; Alembic over the same driver as everything else.

A service's `migrations/env.py` is one call of `run_env`. Revisions live in `migrations/versions`.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from alembic import command, context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

from revisit_chassis.db import driver_url
from revisit_chassis.failpoint import failpoint
from revisit_chassis.tenancy import Operations, Roles

LOCK_TIMEOUT = "5s"

T = TypeVar("T")


def upgrade(package: str, owner_url: str, roles: Roles) -> None:
    """Brings a database to the newest revision; does nothing when it is there.

    Args:
        package: The service.
        owner_url: Address for the user who owns the tables.
        roles: The service's users, to whom the tables are granted.
    """
    config = _config(package)

    def run(connection: Connection) -> None:
        config.attributes["connection"] = connection
        config.attributes["roles"] = roles
        command.upgrade(config, "head")

    _with_connection(owner_url, run)


def current_revision(package: str, owner_url: str) -> str | None:  # noqa: ARG001
    """Gives the revision that a database is at; none when it is empty.

    Args:
        package: The service.
        owner_url: Address for the owner.
    """
    return _with_connection(
        owner_url, lambda connection: MigrationContext.configure(connection).get_current_revision()
    )


def head_revision(package: str) -> str | None:
    """Gives the newest revision of a service's code.

    Args:
        package: The service.
    """
    return ScriptDirectory.from_config(_config(package)).get_current_head()


def run_env() -> None:
    """Runs the migrations on the connection that `upgrade` gave; the whole of an `env.py`."""
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        transaction_per_migration=True,
        # Called when a revision is applied and not yet committed.
        on_version_apply=lambda **_: failpoint("migrate.before_commit"),
    )
    with context.begin_transaction():
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        context.run_migrations()


def migration_roles(op: Operations) -> Roles:  # noqa: ARG001  (reads as "the roles of this migration")
    """Gives the users to whom a migration grants its tables.

    Args:
        op: Of the migration.
    """
    roles: Roles = context.config.attributes["roles"]
    return roles


def _config(package: str) -> Config:
    config = Config()
    config.set_main_option("script_location", f"{package}:migrations")
    return config


def _with_connection(owner_url: str, work: Callable[[Connection], T]) -> T:
    async def run() -> T:
        engine = create_async_engine(driver_url(owner_url), poolclass=pool.NullPool)
        try:
            async with engine.connect() as connection:
                result = await connection.run_sync(work)
                await connection.commit()
                return result
        finally:
            await engine.dispose()

    return asyncio.run(run())
