"""What a rotation of the key ring has to bring under the active key: every encrypted column."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.store import patients
from booking.tables import patient
from booking.usecases.patients import contacts_told
from revisit_chassis.crypto import Keyring
from revisit_chassis.reencrypt import IDEMPOTENT_ANSWERS, EncryptedColumn
from revisit_events.outbox import publish
from revisit_events.rejected import REFUSED_BODIES


async def _tell(
    connection: AsyncConnection, keyring: Keyring, keys: Sequence[tuple[Any, ...]]
) -> None:
    """Tells contacts again, for their compacted topic would keep the old blocks for ever."""
    told = await contacts_told(connection, keyring, [(clinic, one) for clinic, one in keys])
    await publish(connection, told)


ENCRYPTED = (
    EncryptedColumn(patient, "identity_encrypted", partial(patients.context_of, "identity")),
    EncryptedColumn(patient, "contacts_encrypted", partial(patients.context_of, "contacts"), _tell),
    REFUSED_BODIES,
    IDEMPOTENT_ANSWERS,
)
