"""The digest of what an event says, by which a repeat is told from a conflict.

It covers type, time, sequence and data in canonical form: the order of keys, spaces, offsets of
times and fields that the contract does not know make no difference. A field added to a contract
later must therefore default to none, which is left out: else a repeat would look like a conflict.
"""

from hashlib import blake2b

from revisit_events.catalog import CATALOG
from revisit_events.envelope import AnyEvent
from revisit_events.shapes import encode

DIGEST_BYTES = 16


def body_digest(event: AnyEvent) -> bytes:
    """Gives the digest of an event as it came in, private fields included.

    Args:
        event: A received event; its data may have more fields than the published contract.
    """
    contract = type(event.data)
    if CATALOG.get(contract.TYPE) is contract:  # noqa: SIM108
        data = event.data_json()
    else:
        data = encode(event.data)
    head = f"{contract.TYPE} {event.time_text} {event.sequence!s} "
    return blake2b(head.encode() + data, digest_size=DIGEST_BYTES).digest()
