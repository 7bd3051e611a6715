"""Encrypting anew after a rotation: what booking keeps, and what it has told of contacts."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.store import patients
from booking.usecases.patients import contacts_told
from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database
from revisit_chassis.reencrypt import EncryptedColumn, reencrypt
from revisit_events import rejected
from revisit_events.outbox import publish


def _patient_column(name: str) -> EncryptedColumn:
    def context(row: Mapping[str, Any]) -> bytes:
        return patients.context_of(name, row["clinic_id"], row["patient_id"])

    return EncryptedColumn("patient", ("clinic_id", "patient_id"), f"{name}_encrypted", context)


IDENTITY, CONTACTS = _patient_column("identity"), _patient_column("contacts")
REFUSED = EncryptedColumn(
    "rejected_event",
    ("clinic_id", "rejected_event_id"),
    "body",
    lambda row: rejected.context_of(row["clinic_id"], row["rejected_event_id"]),
)


async def encrypt_anew(database: Database, keyring: Keyring) -> dict[str, int]:
    """Brings everything under the active key; gives how many texts of each column that took.

    Contacts are told again, for their compacted topic would keep the old blocks for ever.

    Args:
        database: Opened as the worker's role.
        keyring: Knows the old keys too.
    """

    async def tell(connection: AsyncConnection, keys: Sequence[tuple[UUID, UUID]]) -> None:
        await publish(connection, await contacts_told(connection, keyring, keys))

    return {
        "patient.identity": await reencrypt(database, keyring, IDENTITY),
        "patient.contacts": await reencrypt(database, keyring, CONTACTS, tell),
        "rejected_event.body": await reencrypt(database, keyring, REFUSED),
    }
