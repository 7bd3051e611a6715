"""Encrypting columns anew under the active key, after a rotation: in batches, resumable at any point.

What is under the active key already is not touched, so an interrupted run goes on where it was and a
second one finds nothing to do.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database

BATCH = 500


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """A column of ciphertexts."""

    table: str
    key: tuple[str, str]
    """Columns of the primary key: `clinic_id`, and a UUID."""
    column: str
    context: Callable[[Mapping[str, Any]], bytes]
    """The context a row's text was encrypted with, from the row's key."""


Also = Callable[[AsyncConnection, Sequence[tuple[UUID, UUID]]], Awaitable[None]]


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
    database: Database, keyring: Keyring, column: EncryptedColumn, also: Also | None = None
) -> int:
    """Brings a column under the active key; gives how many texts it took.

    Args:
        database: Opened as the worker's role.
        keyring: Knows the old keys too.
        column: Which.
        also: Done in the transaction of each batch, with the keys of its rows.

    Raises:
        UnknownKey: A text needs a key that is not in the ring.
        UnreadableCiphertext: A text does not open; nothing of its batch was changed.
    """
    done = 0
    for clinic_id in await clinics_of(database, column.table):
        while count := await _batch(database, keyring, column, clinic_id, also):
            done += count
    return done


async def _batch(
    database: Database,
    keyring: Keyring,
    column: EncryptedColumn,
    clinic_id: UUID,
    also: Also | None,
) -> int:
    names = ", ".join(column.key)
    prefix = keyring.active_prefix
    async with database.transaction((clinic_id,)) as connection:
        # Names come from the services' own declarations.
        rows = (
            await connection.exec_driver_sql(
                f"SELECT {names}, {column.column} AS sealed FROM {column.table} "  # noqa: S608
                f"WHERE clinic_id = $1 AND {column.column} IS NOT NULL "
                f"AND substring({column.column} FROM 1 FOR $2) <> $3 "
                f"ORDER BY {names} LIMIT $4 FOR UPDATE",
                (clinic_id, len(prefix), prefix, BATCH),
            )
        ).mappings()
        fresh = []
        for row in rows:
            context = column.context({name: row[name] for name in column.key})
            plain = keyring.decrypt(row["sealed"], context)
            fresh.append((*(row[name] for name in column.key), keyring.encrypt(plain, context)))
        if fresh:
            first, second = column.key
            await connection.exec_driver_sql(
                f"UPDATE {column.table} AS old SET {column.column} = fresh.sealed "  # noqa: S608
                f"FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) AS fresh ({names}, sealed) "
                f"WHERE old.{first} = fresh.{first} AND old.{second} = fresh.{second}",
                tuple(map(list, zip(*fresh, strict=True))),
            )
            if also is not None:
                await also(connection, [(row[0], row[1]) for row in fresh])
    return len(fresh)
