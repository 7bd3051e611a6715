"""Contracts as booking takes them from outside, where it asks more than a reader needs."""

from typing import Annotated

from pydantic import AfterValidator

from booking.api.fields import known_zone
from revisit_events.contracts import ClinicRegistered
from revisit_events.contracts.fields import TimeZone


class ReportedClinic(ClinicRegistered, frozen=True, kw_only=True):
    """A clinic as its administration reports it: every moment shown to a patient depends on its zone."""

    time_zone: Annotated[TimeZone, AfterValidator(known_zone)]
    """IANA zone of the clinic; one that exists."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known_zone(self.time_zone)
