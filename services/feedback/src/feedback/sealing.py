"""Free texts of people, encrypted in their columns; each opens in its own record and field only."""

import uuid

from revisit_chassis.crypto import Keyring


def seal(
    keyring: Keyring, text: str | None, clinic_id: uuid.UUID, record_id: uuid.UUID, field: str
) -> bytes | None:
    """The text as it is stored; nothing stays nothing."""
    if not text:
        return None
    return keyring.encrypt(text.encode(), context_of(clinic_id, record_id, field))


def unseal(
    keyring: Keyring, sealed: bytes | None, clinic_id: uuid.UUID, record_id: uuid.UUID, field: str
) -> str | None:
    """The text of a stored one."""
    if sealed is None:
        return None
    return keyring.decrypt(sealed, context_of(clinic_id, record_id, field)).decode()


def context_of(clinic_id: uuid.UUID, record_id: uuid.UUID, field: str) -> bytes:
    """What a text is bound to."""
    return f"feedback:{clinic_id}:{record_id}:{field}".encode()
