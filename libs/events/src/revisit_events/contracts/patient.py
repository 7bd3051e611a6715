"""The patient: never a name, a phone or an address in clear."""

from typing import ClassVar, Literal

from revisit_events.contracts.fields import (
    Code,
    Currency,
    EventData,
    Flag,
    Id,
    Language,
    Minor,
    Part,
    Text,
    TimeZone,
    Year,
    written,
)


class Acquisition(Part, frozen=True, kw_only=True):
    """How the patient came to the clinic, and what that cost."""

    channel: Code | None = None
    """Such as `search, map, social, referral, doctor, walk_in, insurance`."""
    cost_minor: Minor | None = None
    """Cost of acquiring this patient, minor units."""
    currency: Currency | None = None
    """ISO 4217 code of the cost; the clinic's when left out."""


class PatientRegistered(EventData, frozen=True, kw_only=True):
    """A patient became known."""

    TYPE: ClassVar[str] = "patient.registered.v1"
    OWNER: ClassVar[str] = "booking"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement", "scoring")
    AGGREGATE_ID: ClassVar[str] = "patient_id"
    LIFECYCLE_RANK: ClassVar[int] = 10

    patient_id: Id
    """The patient."""
    birth_year: Year | None = None
    """Year of birth."""
    sex: Code | None = None
    """Such as `female, male`."""
    language: Language | None = None
    """Language of messages; the clinic's when left out."""
    time_zone: TimeZone | None = None
    """IANA zone for quiet hours; the clinic's when left out."""
    family_id: Id | None = None
    """The same for all members of a family."""
    payer: Literal["self", "insurance", "corporate"] | None = None
    """Who pays."""
    employer_id: Id | None = None
    """The employer whose contract pays."""
    chronic: Flag = written(default=False)
    """Whether the patient is observed for a chronic condition."""
    acquisition: Acquisition | None = None
    """How the patient came."""


class PatientUpdated(PatientRegistered, frozen=True, kw_only=True):
    """A patient's particulars changed; the event holds all of them."""

    TYPE: ClassVar[str] = "patient.updated.v1"
    LIFECYCLE_RANK: ClassVar[int] = 20


class EncryptedContact(Part, frozen=True, kw_only=True):
    """A contact block (name, phone, e-mail, messenger ids) as ciphertext."""

    key_id: Code
    """Key of the key ring that encrypted it."""
    ciphertext: Text
    """AES-256-GCM over the JSON block, base64."""


class PatientContactChanged(EventData, frozen=True, kw_only=True):
    """The patient's contacts are now these; without `contact` they are gone (a tombstone)."""

    TYPE: ClassVar[str] = "patient.contact_changed.v1"
    OWNER: ClassVar[str] = "booking"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement",)
    AGGREGATE_ID: ClassVar[str] = "patient_id"
    LIFECYCLE_RANK: ClassVar[int] = 30
    COMPACTED: ClassVar[bool] = True

    patient_id: Id
    """The patient."""
    contact: EncryptedContact | None = None
    """The encrypted block; none is sent as a null value, so that compaction removes the last."""


class PatientErased(EventData, frozen=True, kw_only=True):
    """Everything that leads to the person is to be removed; anonymous facts stay."""

    TYPE: ClassVar[str] = "patient.erased.v1"
    OWNER: ClassVar[str] = "booking"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement", "feedback", "scoring")
    AGGREGATE_ID: ClassVar[str] = "patient_id"
    LIFECYCLE_RANK: ClassVar[int] = 100

    patient_id: Id
    """The patient."""
