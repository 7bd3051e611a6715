"""What each role may do: the scopes that go into its tokens.

Staff who sign in through an OpenID provider get the same scopes for the role in their claims.
"""

from collections.abc import Mapping
from types import MappingProxyType

READS = frozenset(
    {
        "clinics:read",
        "patients:read",
        "appointments:read",
        "consents:read",
        "messages:read",
        "tasks:read",
        "two-z:read",
        "surveys:read",
        "reviews:read",
        "complaints:read",
        "scores:read",
        "kpis:read",
        "rejected-events:read",
    }
)
WRITES = frozenset(
    {
        "events:write",
        "patients:write",
        "appointments:write",
        "consents:write",
        "tasks:write",
        "releases:write",
        "pauses:write",
        "surveys:write",
        "complaints:write",
        "targets:write",
        "rejected-events:write",
    }
)
SCOPES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "clinic_system": READS
        | {"events:write", "patients:write", "appointments:write", "consents:write"},
        "call_centre": READS
        | {"appointments:write", "patients:write", "consents:write"}
        | {"tasks:write", "releases:write"},
        # Starts and completes visits.
        "doctor": READS | {"appointments:write", "releases:write"},
        "quality": READS | {"complaints:write", "surveys:write"},
        "manager": READS | WRITES,
        "admin": READS | WRITES | {"clinics:write"},
    }
)
"""Scopes of each role inside one clinic."""

PLATFORM_SCOPES = frozenset({"platform:clinics", "platform:clock", "clinics:read", "clinics:write"})
"""Scopes of an admin of no clinic: registers clinics and issues tokens, reads no patient."""


def scopes_of(role: str, *, is_platform: bool) -> frozenset[str]:
    """Gives the scopes of a token.

    Args:
        role: One of `SCOPES`.
        is_platform: Whether the token belongs to no clinic.

    Raises:
        ValueError: There is no such role, or it needs a clinic.
    """
    if role not in SCOPES:
        raise ValueError(f"role must be one of {', '.join(SCOPES)}")
    if not is_platform:
        return SCOPES[role]
    if role != "admin":
        raise ValueError("only admin may have a token without a clinic")
    return PLATFORM_SCOPES
