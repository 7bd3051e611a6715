"""Requests and answers of booking's routes. Answers name what a clinic named in its own way by both names."""

from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from booking.api.fields import Email, Moment, OwnId, Phone, Words, Zone
from booking.domain.appointment import CancelledBy
from booking.domain.visit import Kind, Outcome
from revisit_events.contracts.fields import Code, Country, Currency, Language, Minor
from revisit_events.intake_metrics import UNKNOWN_FIELDS

Modality = Literal["in_person", "telemedicine"]


class Request(BaseModel):
    """A body; fields that it does not know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        """Takes a null for a field left out, as the intake does, and counts what the body does not know."""
        if not isinstance(given, dict):
            return given
        if unknown := given.keys() - cls.model_fields.keys():
            UNKNOWN_FIELDS.labels("booking", cls.__name__).inc(len(unknown))
        return {name: value for name, value in given.items() if value is not None}


class ClinicBody(Request):
    """A clinic as its platform registers it."""

    name: Words
    time_zone: Zone
    language: Language
    country: Country
    currency: Currency
    live_from: Moment | None = None
    """Visits before it are imported history; the moment of registration when left out."""


class ClinicAnswer(BaseModel):
    """A clinic."""

    clinic_id: UUID
    name: str
    time_zone: str
    language: str
    country: str
    currency: str
    live_from: datetime


class NameBody(Request):
    """How a person is called."""

    family: Words | None = None
    given: Words | None = None
    middle: Words | None = None


class ContactsBody(Request):
    """Where a person can be reached."""

    phone: Phone | None = None
    email: Email | None = None
    messengers: Annotated[dict[Code, Words], Field(max_length=20)] = {}
    """Ids by messenger, such as `telegram`."""

    @model_validator(mode="after")
    def _messengers_are_no_phones(self) -> "ContactsBody":
        if self.messengers.keys() & {"phone", "email", "name"}:
            raise ValueError("messengers must not be called phone, email or name")
        return self


class AcquisitionBody(Request):
    """How a patient came to the clinic, and what that cost."""

    channel: Code | None = None
    cost_minor: Annotated[Minor, Field(ge=0)] | None = None
    currency: Currency | None = None


class PatientBody(Request):
    """A patient, whole: what is left out is unknown from now on."""

    name: NameBody = NameBody()
    birth_on: date | None = None
    sex: Code | None = None
    language: Language | None = None
    time_zone: Zone | None = None
    contacts: ContactsBody = ContactsBody()
    family_id: OwnId | None = None
    payer: Literal["self", "insurance", "corporate"] | None = None
    employer_id: OwnId | None = None
    chronic: bool = False
    acquisition: AcquisitionBody | None = None

    @model_validator(mode="after")
    def _birth_is_plausible(self) -> "PatientBody":
        if self.birth_on is not None and not 1850 <= self.birth_on.year < 2200:  # noqa: PLR2004
            raise ValueError("birth_on must lie between 1850 and 2199")
        return self


class PatientReference(BaseModel):
    """Which patient was written: by our id and by the clinic's."""

    patient_id: UUID
    patient_identifier: str | None


class PatientAnswer(BaseModel):
    """A patient, with name and contacts."""

    patient_id: UUID
    patient_identifier: str | None
    name: NameBody
    birth_on: date | None
    sex: str | None
    language: str | None
    time_zone: str | None
    contacts: ContactsBody
    family_id: UUID | None
    family_identifier: str | None
    payer: str | None
    employer_id: UUID | None
    employer_identifier: str | None
    chronic: bool
    acquisition: AcquisitionBody | None


class AppointmentBody(Request):
    """An appointment to be booked."""

    appointment_id: OwnId | None = None
    """The caller's id; one is made when left out."""
    patient_id: OwnId
    practitioner_id: OwnId | None = None
    service_code: Code | None = None
    specialty_code: Code | None = None
    starts_at: Moment
    ends_at: Moment | None = None
    booked_at: Moment | None = None
    """When the patient booked; now when left out."""
    channel: Code = "call_centre"
    modality: Modality = "in_person"


class ReschedulingBody(Request):
    """Another time for an appointment."""

    starts_at: Moment
    ends_at: Moment | None = None
    """The length stays when left out."""
    practitioner_id: OwnId | None = None


class CancellationBody(Request):
    """Who cancelled and why; staff ask the reason of every cancellation (mission B04)."""

    by: CancelledBy
    reason_code: Code


class NoShowBody(Request):
    """Why the patient did not come, where somebody has reached them (mission B05)."""

    reason_code: Code | None = None


class ReferralBody(Request):
    """Why the patient was sent elsewhere, and how urgent that is."""

    reason: Code
    urgency: Code


class CompletionBody(Request):
    """What the practitioner records at the end of a visit."""

    visit_id: OwnId | None = None
    """The caller's id; one is made when left out."""
    kind: Kind
    outcome: Outcome
    referral: ReferralBody | None = None
    next_visit_due_on: date | None = None
    charged_minor: Minor | None = None
    cost_minor: Minor | None = None
    currency: Currency | None = None


class CancellationAnswer(BaseModel):
    """How an appointment was called off."""

    by: CancelledBy
    reason_code: str | None
    late: bool


class AppointmentAnswer(BaseModel):
    """An appointment."""

    appointment_id: UUID
    appointment_identifier: str | None
    patient_id: UUID
    patient_identifier: str | None
    practitioner_id: UUID | None
    practitioner_identifier: str | None
    status: str | None
    """None for a stub: something referred to an appointment that nobody has reported yet."""
    service_code: str | None
    specialty_code: str | None
    starts_at: datetime | None
    ends_at: datetime | None
    booked_at: datetime | None
    channel: str | None
    modality: str | None
    arrived_at: datetime | None
    started_at: datetime | None
    cancellation: CancellationAnswer | None
    no_show_marked_by: str | None
    no_show_reason_code: str | None
    move_requested_at: datetime | None


class CompletionAnswer(BaseModel):
    """The visit that an appointment became."""

    visit_id: UUID
    visit_identifier: str | None
    completed_at: datetime
    appointment: AppointmentAnswer


class AppointmentPage(BaseModel):
    """Some appointments, and where the next ones begin."""

    items: list[AppointmentAnswer]
    next: str | None


class WaitingAnswer(BaseModel):
    """Waiting times of one group of visits."""

    n: int
    """Visits whose arrival and start are known."""
    mean_minutes: float | None
    share_under_15_minutes: float | None


class PractitionerWaitingAnswer(WaitingAnswer):
    """Waiting times at one practitioner."""

    practitioner_id: UUID | None
    practitioner_identifier: str | None


class WaitingTimesAnswer(WaitingAnswer):
    """Time from arrival to start over the visits of a period (mission B08)."""

    definition_version: str
    population: str
    excluded: int
    """Completed visits of the period without a usable arrival or start."""
    target_mean_minutes: int
    completed_from: datetime
    completed_before: datetime
    by_practitioner: list[PractitionerWaitingAnswer]
