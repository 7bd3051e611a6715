"""Connections to a service's database; the only way to one is a transaction that names its clinics.

Callers get SQLAlchemy Core connections. Row-level security reads `app.clinics`, which is set for the
transaction and forgotten with it, so a connection of the pool never carries a tenant over.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import MetaData, NullPool, PoolProxiedConnection, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from revisit_chassis.crypto import UnknownKey
from revisit_chassis.failpoint import failpoint

NAMING_CONVENTION = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}

CONNECT_TIMEOUT_SECONDS = 5
COMMAND_TIMEOUT_SECONDS = 60
CLEANING_TIMEOUT_SECONDS = 5

# Classes of SQLSTATE that speak of the infrastructure and not of the data: connection, sign-in (a
# password that is being changed), transaction rollback (deadlock, serialization), insufficient
# resources, operator intervention, system error. States: lock not available, read-only standby,
# database not there yet, cached plan made before a migration.
INFRASTRUCTURE_CLASSES = ("08", "28", "40", "53", "57", "58")
INFRASTRUCTURE_STATES = ("55P03", "25006", "3D000")

# A value that PostgreSQL cannot keep: too long, out of range, a NUL character.
UNSTORABLE_STATES = ("22001", "22003", "22008", "22021", "22P05")

EPOCH_IN_SQL = "timestamptz 'epoch'"
"""What a span of `since_epoch` is added to; the zone of our sessions is UTC, so that a day has 24 hours."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# An OSError of these kinds is about a file, not about the network.
_FILE_ERRORS = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


def metadata() -> MetaData:
    """Gives table metadata with the project's naming of constraints."""
    return MetaData(naming_convention=NAMING_CONVENTION)


def driver_url(url: str) -> str:
    """Gives SQLAlchemy's form of a `postgresql://` address.

    >>> driver_url("postgresql://a:b@c/d")
    'postgresql+asyncpg://a:b@c/d'
    """
    return "postgresql+asyncpg://" + url.split("://", 1)[1]


class NotCommitted(RuntimeError):
    """A statement of the transaction had failed, so PostgreSQL rolled it back instead."""


class Database:
    """One user's connections to one database.

    Args:
        url: `postgresql://user:password@host:port/database`.
        pool_size: Connections kept open.
        application_name: Name under which PostgreSQL shows the connections.
    """

    def __init__(self, url: str, *, pool_size: int = 10, application_name: str = "revisit") -> None:
        self.url = url
        connect_args = {
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "command_timeout": COMMAND_TIMEOUT_SECONDS,
            "server_settings": {
                "application_name": application_name,
                "timezone": "UTC",
                # A session whose client's host is gone holds its locks until the server finds out:
                # with the system's default after two hours, and no standby takes over before.
                "tcp_keepalives_idle": "10",
                "tcp_keepalives_interval": "5",
                "tcp_keepalives_count": "3",
                # A plan that was made while a table was empty is kept when it is full: then every look
                # into the relay's queue would read all of the day's events (ADR 0052).
                "enable_seqscan": "off",
                # Policies read it; outside a transaction that names clinics it names none.
                "app.clinics": "{}",
            },
        }
        self.engine: AsyncEngine = create_async_engine(
            driver_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=30,
            # The text of an error ends up in logs; parameters are somebody's data.
            hide_parameters=True,
            connect_args=connect_args,
        )
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._cuts = 0
        event.listen(self.engine.sync_engine, "checkout", self._replace_after_a_cut)
        # A lock lives as long as its connection, so such a connection is closed and never pooled.
        self._lone: AsyncEngine = create_async_engine(
            driver_url(url),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args=connect_args,
        )

    @asynccontextmanager
    async def transaction(self, clinics: Collection[UUID]) -> AsyncIterator[AsyncConnection]:
        """Opens a transaction that sees the rows of some clinics; commits at its end.

        Args:
            clinics: Whose rows row-level security lets through.
        """
        text = ",".join(map(str, clinics))
        async with self._begin(f"BEGIN; SET LOCAL app.clinics = '{{{text}}}'") as connection:
            yield connection
            failpoint("database.before_commit")
        failpoint("database.after_commit")

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """Opens a transaction that sees no clinic; for tables whose policy asks for none."""
        async with self._begin("BEGIN") as connection:
            yield connection
            failpoint("database.before_commit")
        failpoint("database.after_commit")

    @asynccontextmanager
    async def _begin(self, opening: str) -> AsyncIterator[AsyncConnection]:
        """Opens a transaction by a script, which is one round trip whatever it holds.

        SQLAlchemy would send BEGIN by itself and the setting after it. The engine that commits by
        itself leaves both to us, and with them the connection: one that does not come clean out of
        its transaction is closed and not pooled.
        """
        async with self._autocommit.connect() as connection:
            driver = _driver(connection)
            try:
                await driver.execute(opening)
                yield connection
                ended = await driver.execute("COMMIT")
            except BaseException:
                await self._leave_clean(connection, driver, "ROLLBACK")
                raise
            if ended != "COMMIT":
                raise NotCommitted

    @asynccontextmanager
    async def single(self) -> AsyncIterator[AsyncConnection]:
        """Gives a connection on which each statement is a transaction of its own, seeing no clinic.

        For questions that are asked many times a second: it saves the round trips around them.
        """
        async with self._autocommit.connect() as connection:
            driver = _driver(connection)
            try:
                yield connection
            except BaseException:
                await self._leave_clean(connection, driver, "SELECT")
                raise

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[AsyncConnection]:
        """Gives a fresh connection outside the pool, closed at the end; each statement commits.

        For what belongs to a session, such as an advisory lock: it takes nobody's place in the pool,
        and whatever happens, the session ends with it.
        """
        async with self._lone.connect() as connection:
            driver = _driver(connection)
            try:
                yield connection
            finally:
                # The session ends now, also when the other side cannot be told.
                try:
                    async with asyncio.timeout(CLEANING_TIMEOUT_SECONDS):
                        await driver.close()
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    driver.terminate()

    async def _leave_clean(
        self, connection: AsyncConnection, driver: "asyncpg.Connection[Any]", last_statement: str
    ) -> None:
        """Ends what an error left open; a connection on which that fails is no use to anybody."""
        try:
            # The driver waits without end for the answer to a statement that it has given up.
            async with asyncio.timeout(CLEANING_TIMEOUT_SECONDS):
                await driver.execute(last_statement)
        except BaseException as error:
            self._cuts += 1
            driver.terminate()  # SQLAlchemy would wait for the other side to say goodbye
            await connection.invalidate()
            if isinstance(error, asyncio.CancelledError):
                raise

    def _replace_after_a_cut(
        self, _: object, entry: ConnectionPoolEntry, __: PoolProxiedConnection
    ) -> None:
        """What cut one connection off has cut the others: nobody has to wait to learn it of each.

        Raises:
            DisconnectionError: SQLAlchemy opens another one in its place.
        """
        if entry.info.setdefault("cuts", self._cuts) != self._cuts:
            driver: Any = entry.driver_connection
            driver.terminate()
            raise DisconnectionError

    async def close(self) -> None:
        """Closes the pool."""
        await self.engine.dispose()


class Row(asyncpg.Record):
    """A row whose columns are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


async def fetch(connection: AsyncConnection, statement: str, *arguments: object) -> list[Row]:
    """Runs a statement by the driver itself and gives its rows.

    For statements that are written as text and run for every event or every poll: SQLAlchemy's way to
    the same driver takes 120 us of the client for a small one, this one 25.

    Args:
        connection: Of one of this module's contexts.
        statement: SQL with `$1, $2, ...`.
        arguments: Of the statement; a sequence is an array, a tuple in it a row of a composite type.

    Raises:
        asyncpg.PostgresError: The driver's own error, which `is_infrastructure_fault` knows.
    """
    rows: list[Row] = await _driver(connection).fetch(statement, *arguments, record_class=Row)
    return rows


async def fetch_value(connection: AsyncConnection, statement: str, *arguments: object) -> Any:
    """Runs a statement as `fetch` does and gives the first column of its first row; None without one.

    Args:
        connection: Of one of this module's contexts.
        statement: SQL with `$1, $2, ...`.
        arguments: Of the statement.
    """
    return await _driver(connection).fetchval(statement, *arguments)


async def change(connection: AsyncConnection, statement: str, *arguments: object) -> int:
    """Runs a statement as `fetch` does and gives how many rows it changed.

    Args:
        connection: Of one of this module's contexts.
        statement: SQL with `$1, $2, ...` that returns no rows.
        arguments: Of the statement.
    """
    status: str = await _driver(connection).execute(statement, *arguments)
    return int(status.rpartition(" ")[2])


def since_epoch(time: datetime | None) -> timedelta | None:
    """Gives a time as the span since 1970, for statements that add it to `EPOCH_IN_SQL`.

    The driver writes a time in 0.44 us, a span in 0.06: of a row with three times it is a third.

    Args:
        time: With a time zone.

    >>> since_epoch(datetime(1970, 1, 2, 0, 0, 1, tzinfo=UTC))
    datetime.timedelta(days=1, seconds=1)
    """
    return None if time is None else time - _EPOCH


def _driver(connection: AsyncConnection) -> "asyncpg.Connection[Any]":
    pooled = connection.sync_connection
    assert pooled is not None  # noqa: S101  (opened by one of the contexts above)
    driver: asyncpg.Connection[Any] | None = pooled.connection.driver_connection
    assert driver is not None  # noqa: S101  (checked out, so there is one)
    return driver


async def set_clinics(connection: AsyncConnection, clinics: Collection[UUID]) -> None:
    """Names the clinics that the running transaction sees.

    Args:
        connection: Inside a transaction.
        clinics: All of them; an earlier setting is replaced.
    """
    text = "{" + ",".join(map(str, clinics)) + "}"
    await fetch(connection, "SELECT set_config('app.clinics', $1, true)", text)


def is_infrastructure_fault(error: BaseException) -> bool:  # noqa: PLR0911  (one return a kind)
    """Tells whether an error says that the database was out of reach or busy, or a key not there yet.

    Such an error is worth a retry; any other one would come again.

    Args:
        error: What was raised by a statement, a connect or a wait.
    """
    if isinstance(error, OSError):
        return not isinstance(error, _FILE_ERRORS)
    if isinstance(error, PoolTimeoutError | UnknownKey | asyncpg.InternalClientError):
        # A key that another process uses already reaches this one's ring a little later; a driver
        # that lost its place in a conversation has lost the connection.
        return True
    if isinstance(error, asyncpg.InterfaceError):
        # "Invalid input for query argument" is an interface error too, and would come again for ever.
        return not isinstance(error, ValueError)
    if isinstance(error, asyncpg.PostgresError):
        return isinstance(error, asyncpg.InvalidCachedStatementError) or _is_infrastructure_state(
            error.sqlstate or ""
        )
    if isinstance(error, DBAPIError):
        cause = _driver_error(error)
        if error.connection_invalidated:
            return True
        if cause is None:
            return isinstance(error, InterfaceError | OperationalError)
        return is_infrastructure_fault(cause)
    return False


def is_unstorable_value(error: BaseException) -> bool:
    """Tells whether an error says that a value, well formed as it was, cannot be kept in a column.

    Args:
        error: What was raised by a statement.
    """
    cause = _driver_error(error) if isinstance(error, DBAPIError) else error
    if isinstance(cause, asyncpg.DataError) and isinstance(cause, asyncpg.InterfaceError):
        # The driver's own check; a wrong Python type is our fault and no value's.
        return isinstance(cause.__cause__, OverflowError | UnicodeError)
    return isinstance(cause, asyncpg.PostgresError) and cause.sqlstate in UNSTORABLE_STATES


def sqlstate_of(error: BaseException) -> str:
    """Gives PostgreSQL's code of an error, from whichever way the statement went; "" for any other.

    Args:
        error: What was raised.
    """
    cause = _driver_error(error) if isinstance(error, DBAPIError) else error
    return (isinstance(cause, asyncpg.PostgresError) and cause.sqlstate) or ""


def _driver_error(error: DBAPIError) -> BaseException | None:
    """Gives what asyncpg raised, from inside SQLAlchemy's two wrappers."""
    return getattr(error.orig, "__cause__", None)


def _is_infrastructure_state(state: str) -> bool:
    return state.startswith(INFRASTRUCTURE_CLASSES) or state in INFRASTRUCTURE_STATES
