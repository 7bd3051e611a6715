"""Encrypting columns anew under the active key, after a rotation: in batches, resumable at any point.

What is under the active key already is not touched, so an interrupted run goes on where it was and a
second one finds nothing to do. A text that does not open is left as it is and counted: it must not
keep the others under the old key.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.crypto import Keyring, UnknownKey, UnreadableCiphertext
from revisit_chassis.db import Database
from revisit_chassis.idempotency import answer_context
from revisit_chassis.schema import idempotency_key

BATCH = 500

Key = tuple[Any, ...]
"""Values of a primary key, in the order of its columns; the clinic's id is the first."""
Also = Callable[[AsyncConnection, Keyring, Sequence[Key]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """A column of ciphertexts, in a table whose clinics can be listed (`tenancy.list_clinics`)."""

    table: sa.Table
    column: str
    context: Callable[..., bytes]
    """The context a row's text was encrypted with, from the values of its primary key."""
    also: Also | None = None
    """Done in the transaction of each batch, with the keys of its rows."""

    @property
    def name(self) -> str:
        """The column as people call it."""
        return f"{self.table.name}.{self.column}"


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """What a run came to: how many texts it took, and how many it could not open."""

    taken: int = 0
    unreadable: int = 0


IDEMPOTENT_ANSWERS = EncryptedColumn(idempotency_key, "answer", answer_context)
"""Of a service whose app has keys (`revisit_chassis.idempotency`)."""


async def clinics_of(database: Database, table: str) -> list[UUID]:
    """Gives the clinics that have rows in a table made listable (`tenancy.list_clinics`).

    Args:
        database: Opened as the worker's role.
        table: The table.
    """
    async with database.connect() as connection:
        rows = await connection.exec_driver_sql(f"SELECT clinics_of_{table}()")
        return sorted(rows.scalars())


async def reencrypt(
    database: Database, keyring: Keyring, columns: Sequence[EncryptedColumn]
) -> dict[str, Reencrypted]:
    """Brings columns under the active key; gives what it came to by the column's name.

    Args:
        database: Opened as the worker's role.
        keyring: Knows the old keys too.
        columns: All that a service encrypts.
    """
    return {column.name: await _column(database, keyring, column) for column in columns}


async def _column(database: Database, keyring: Keyring, column: EncryptedColumn) -> Reencrypted:
    taken = unreadable = 0
    for clinic_id in await clinics_of(database, column.table.name):
        after: Key | None = None
        while True:
            async with database.transaction((clinic_id,)) as connection:
                rows = await _old_rows(connection, keyring, column, clinic_id, after)
                if not rows:
                    break
                fresh = _opened(keyring, column, rows)
                if fresh:
                    await _write(connection, column, fresh)
                    if column.also is not None:
                        await column.also(connection, keyring, [key for key, _ in fresh])
            after = rows[-1][0]
            taken += len(fresh)
            unreadable += len(rows) - len(fresh)
    return Reencrypted(taken, unreadable)


# Names and types of the statements come from the services' own descriptions of their tables.


async def _old_rows(
    connection: AsyncConnection,
    keyring: Keyring,
    column: EncryptedColumn,
    clinic_id: UUID,
    after: Key | None,
) -> list[tuple[Key, bytes]]:
    """Key and text of the next rows that are under another key, locked."""
    names = ", ".join(key.name for key in column.table.primary_key)
    prefix = keyring.active_prefix
    beyond, place = "", ()
    if after is not None:
        places = (f"${5 + n}::{_type(key)}" for n, key in enumerate(column.table.primary_key))
        beyond, place = f"AND ({names}) > ({', '.join(places)}) ", after
    found = await connection.exec_driver_sql(
        f"SELECT {names}, {column.column} FROM {column.table.name} "  # noqa: S608
        f"WHERE clinic_id = $1 AND {column.column} IS NOT NULL "
        f"AND substring({column.column} FROM 1 FOR $2) <> $3 {beyond}"
        f"ORDER BY {names} LIMIT $4 FOR UPDATE",
        (clinic_id, len(prefix), prefix, BATCH, *place),
    )
    return [(tuple(row[:-1]), row[-1]) for row in found]


def _opened(
    keyring: Keyring, column: EncryptedColumn, rows: Sequence[tuple[Key, bytes]]
) -> list[tuple[Key, bytes]]:
    """The same texts under the active key, without those that do not open."""
    fresh = []
    for key, sealed in rows:
        context = column.context(*key)
        try:
            fresh.append((key, keyring.encrypt(keyring.decrypt(sealed, context), context)))
        except (UnreadableCiphertext, UnknownKey):
            continue
    return fresh


async def _write(
    connection: AsyncConnection, column: EncryptedColumn, fresh: Sequence[tuple[Key, bytes]]
) -> None:
    keys = list(column.table.primary_key)
    names = ", ".join(key.name for key in keys)
    arrays = ", ".join(f"${n}::{_type(key)}[]" for n, key in enumerate(keys, 1))
    same = " AND ".join(f"old.{key.name} = fresh.{key.name}" for key in keys)
    await connection.exec_driver_sql(
        f"UPDATE {column.table.name} AS old SET {column.column} = fresh.sealed "  # noqa: S608
        f"FROM unnest({arrays}, ${len(keys) + 1}::bytea[]) AS fresh ({names}, sealed) "
        f"WHERE {same}",
        (*map(list, zip(*(key for key, _ in fresh), strict=True)), [text for _, text in fresh]),
    )


def _type(column: "sa.Column[Any]") -> str:
    return column.type.compile(postgresql.dialect())  # type: ignore[no-untyped-call]  # SQLAlchemy's
