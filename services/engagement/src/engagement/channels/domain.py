"""What a channel is given to send."""

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from engagement.rendering.render import Content

# Deliberately narrower than RFC 5321: no quoting, no white space, no control characters, ASCII
# only.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way out.

    Args:
        message_id: Also the key under which a provider recognises a repeat.
        to: Address or phone; never logged.
        content: What it says.
        sender_name: Name of the clinic.
        preferences_url: Where the patient can stop such messages.
        at: The moment it leaves, business time.
    """

    message_id: UUID
    to: str
    content: Content
    sender_name: str
    preferences_url: str
    at: datetime


def is_address(text: str) -> bool:
    """Whether a text is an e-mail address that can be handed to a server as it is."""
    return _ADDRESS.fullmatch(text) is not None


def is_phone(text: str) -> bool:
    """Whether a text is a phone number in E.164."""
    return _PHONE.fullmatch(text) is not None
