"""What every query needs: conditions, and how a statement gets its rows."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Row, fetch

Key = tuple[UUID, UUID]
"""Clinic and id."""


def is_row(table: sa.Table, clinic_id: UUID, **key: object) -> sa.ColumnElement[bool]:
    """Condition on a clinic's row, by its key."""
    return sa.and_(
        table.c.clinic_id == clinic_id, *(table.c[name] == value for name, value in key.items())
    )


def sequence_of(precedence: str) -> int:
    """Sequence of the fact that stands: the second part of every precedence; 0 for ''."""
    return int(precedence.split(" ", 2)[1]) if precedence else 0


def time_of(precedence: str) -> datetime | None:
    """When the fact that stands happened: every precedence begins with it; None for ''."""
    return datetime.fromisoformat(precedence.split(" ", 1)[0]) if precedence else None


async def run(
    connection: AsyncConnection, statement: str, rows: Iterable[tuple[Any, ...]]
) -> list[Row]:
    """Executes a statement that takes one array a column; gives what it returns.

    Args:
        connection: Inside a transaction.
        statement: SQL with one array parameter a column.
        rows: At least one.
    """
    return await fetch(connection, statement, *map(list, zip(*rows, strict=True)))
