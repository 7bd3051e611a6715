"""Public links: a random token that only the patient holds, and its digest. Pure but for the randomness."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

PREFERENCES = "preferences"
_TOKEN_BYTES = 16


@dataclass(frozen=True, slots=True)
class Link:
    """A link that engagement serves.

    Args:
        purpose: Legal class of the message that carried it.
        channel: Channel of that message.
    """

    clinic_id: UUID
    token_hash: str
    patient_id: UUID
    message_id: UUID
    purpose: str
    channel: str
    language: str
    expires_at: datetime


def new_token() -> str:
    """A random token, 22 characters fit for a URL."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def token_hash(token: str) -> str:
    """SHA-256 of a token, hexadecimal: what is stored and published."""
    return hashlib.sha256(token.encode()).hexdigest()
