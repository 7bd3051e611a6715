"""Ids from a clinic's own identifiers."""

from functools import lru_cache
from uuid import UUID, uuid5

LONGEST_IDENTIFIER = 64


@lru_cache(maxsize=65_536)
def canonical_id(clinic_id: UUID, noun: str, value: str) -> UUID:
    """Gives the id of a thing: the UUID itself, or one made of the clinic's own identifier.

    Args:
        clinic_id: Whose identifier it is.
        noun: Kind of thing; two kinds may use the same identifier.
        value: A UUID in canonical form, or 1 to 64 characters.

    Raises:
        ValueError: The identifier is empty or too long.

    >>> canonical_id(UUID(int=1), "thing", "00000000-0000-0000-0000-00000000002a").int
    42
    """
    if is_uuid(value):
        return UUID(value)
    if not 1 <= len(value) <= LONGEST_IDENTIFIER:
        raise ValueError("an identifier has 1 to 64 characters")
    return uuid5(clinic_id, f"{noun}:{value}")


def is_uuid(value: str) -> bool:
    """Tells whether a text is a UUID in its usual form, with hyphens.

    >>> is_uuid("P-5512")
    False
    """
    if len(value) != 36 or value[8] != "-" or value[13] != "-":  # noqa: PLR2004
        return False
    try:
        UUID(value)
    except ValueError:
        return False
    return True
