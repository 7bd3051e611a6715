"""The clinic's contact policy as data: quiet hours, cap, and which consent each legal class needs.

One profile a country; `DEFAULT` stands for the rest. The gate reads a policy and knows no country.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from enum import StrEnum

from engagement.messages.domain import LegalClass
from engagement.messages.windows import QuietHours


class ConsentRule(StrEnum):
    """What a legal class needs for a channel."""

    UNTIL_REFUSED = "until_refused"
    NEEDS_GRANT = "needs_grant"


_RULES: Mapping[LegalClass, ConsentRule] = {
    LegalClass.SERVICE: ConsentRule.UNTIL_REFUSED,
    LegalClass.CARE: ConsentRule.UNTIL_REFUSED,
    LegalClass.ADVERTISING: ConsentRule.NEEDS_GRANT,
}


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of contact.

    Args:
        quiet: Daily window without messages, in the patient's zone.
        messages_per_day: Most messages of a capped class to one patient in a calendar day of
            theirs.
        capped: Legal classes that count towards the cap; service messages are exempt.
        consent: The rule of each legal class.
    """

    quiet: QuietHours = QuietHours(time(21), time(9))  # noqa: RUF009
    messages_per_day: int = 1
    capped: frozenset[LegalClass] = frozenset({LegalClass.CARE, LegalClass.ADVERTISING})
    consent: Mapping[LegalClass, ConsentRule] = field(default_factory=lambda: _RULES)


DEFAULT = Policy()
# Russia: 38-FZ art. 18 (advertising by prior consent) is the default rule; others differ in data
# only.
PROFILES: Mapping[str, Policy] = {"RU": DEFAULT}


def policy_of(country: str) -> Policy:
    """The profile of a country code (ISO 3166 alpha-2)."""
    return PROFILES.get(country, DEFAULT)
