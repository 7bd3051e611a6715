"""The clinic (tenant) and the tokens of its callers."""

from typing import ClassVar

from revisit_events.contracts.fields import (
    Code,
    Country,
    Currency,
    EventData,
    Id,
    Language,
    Text,
    Time,
    TimeZone,
)

_ALL = ("engagement", "feedback", "scoring")


class ClinicRegistered(EventData, frozen=True, kw_only=True):
    """A clinic was registered or its particulars changed; the newest one holds all of them."""

    TYPE: ClassVar[str] = "clinic.registered.v1"
    OWNER: ClassVar[str] = "booking"
    CONSUMERS: ClassVar[tuple[str, ...]] = _ALL
    AGGREGATE_ID: ClassVar[str] = "clinic_id"

    clinic_id: Id
    """The clinic; the same as the envelope's `clinicid`."""
    name: Text
    """Name as patients know it."""
    time_zone: TimeZone
    """IANA zone of the clinic; a patient without one lives in it."""
    language: Language
    """Language of messages to patients who have not named one."""
    currency: Currency
    """ISO 4217 code for money without one."""
    country: Country
    """ISO 3166 code; decides the profile of legal rules."""
    live_from: Time | None = None
    """Visits before it are imported history: no message, no task, outside the 2Z rule."""


class TokenRevoked(EventData, frozen=True, kw_only=True):
    """A token must not be accepted any more, although it has not expired.

    A platform token belongs to no clinic: its event has the nil UUID as `clinicid`.
    """

    TYPE: ClassVar[str] = "token.revoked.v1"
    OWNER: ClassVar[str] = "booking"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("booking", *_ALL)
    AGGREGATE_ID: ClassVar[str] = "jti"

    jti: Code
    """Id of the token."""
    expires_at: Time
    """When the token expires by itself and may be forgotten."""
