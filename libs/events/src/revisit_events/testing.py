"""Builders of events for tests: valid by default, and each detail can be given.

`visit_completed(patient_id=anna, outcome="healthy")` is an event of a fresh visit; what is not
given has a plausible value, and ids are new with every call.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

from revisit_events import contracts
from revisit_events.contracts import EventData
from revisit_events.envelope import Event, new_event
from revisit_events.shapes import names_of, read

D = TypeVar("D", bound=EventData)

CLINIC_ID = UUID("7c1f0a52-6a1e-4d57-9a53-0f6a1c7c2b10")
NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)

_ONE_HOUR = timedelta(hours=1)
_PLAN: dict[str, Any] = {
    "practitioner_id": uuid4,
    "service_code": "dental.filling",
    "specialty_code": "dentistry",
    "starts_at": NOON + timedelta(days=3),
    "ends_at": NOON + timedelta(days=3, minutes=45),
    "booked_at": NOON,
    "channel": "call_centre",
}
_PATIENT: dict[str, Any] = {"birth_year": 1984, "sex": "female", "language": "ru", "payer": "self"}
_MESSAGE: dict[str, Any] = {
    "journey": "follow-up",
    "step": "csat",
    "channel": "email",
    "legal_class": "care",
    "cost_minor": 0,
    "currency": "RUB",
}
_ANSWER: dict[str, Any] = {
    "patient_id": uuid4,
    "visit_id": uuid4,
    "practitioner_id": uuid4,
    "kind": "csat",
    "score": 5,
}


class EventBuilder(Generic[D]):
    """Builds events of one contract.

    Args:
        contract: The contract.
        defaults: Data where the caller gives none; a callable gives a fresh value each time.
    """

    def __init__(self, contract: type[D], **defaults: Any) -> None:
        self.contract = contract
        self._defaults = {contract.AGGREGATE_ID: uuid4, **defaults}
        if "patient_id" in names_of(contract):
            self._defaults.setdefault("patient_id", uuid4)

    def __call__(
        self,
        *,
        clinic_id: UUID = CLINIC_ID,
        time: datetime = NOON,
        source: str | None = None,
        sequence: int | None = None,
        id: str | None = None,  # noqa: A002  # the attribute's name in CloudEvents
        **data: Any,
    ) -> Event[D]:
        """Gives an event.

        Args:
            clinic_id: The tenant.
            time: When the fact happened.
            source: The producer; the owner of the type when left out.
            sequence: Version of the aggregate.
            id: Id of the event; random when left out.
            data: Fields of the contract.
        """
        fresh = {
            name: default() if callable(default) else default
            for name, default in self._defaults.items()
            if name not in data
        }
        return new_event(
            read(
                self.contract,
                {name.rstrip("_"): value for name, value in {**fresh, **data}.items()},
            )[0],
            source=source or f"/{self.contract.OWNER}",
            clinic_id=clinic_id,
            time=time,
            sequence=sequence,
            id=id,
        )


clinic_registered = EventBuilder(
    contracts.ClinicRegistered,
    clinic_id=CLINIC_ID,
    name="Клиника на Лесной",
    time_zone="Europe/Moscow",
    language="ru",
    currency="RUB",
    country="RU",
    live_from=NOON - timedelta(days=3),
)
patient_registered = EventBuilder(contracts.PatientRegistered, **_PATIENT)
patient_updated = EventBuilder(contracts.PatientUpdated, **_PATIENT)
patient_contact_changed = EventBuilder(
    contracts.PatientContactChanged, contact={"key_id": "2026-01", "ciphertext": "bm90IHJlYWw="}
)
patient_erased = EventBuilder(contracts.PatientErased)
appointment_booked = EventBuilder(contracts.AppointmentBooked, **_PLAN)
appointment_rescheduled = EventBuilder(contracts.AppointmentRescheduled, **_PLAN)
appointment_confirmed = EventBuilder(contracts.AppointmentConfirmed, channel="online")
appointment_cancelled = EventBuilder(
    contracts.AppointmentCancelled, by="patient", reason_code="illness"
)
appointment_no_show = EventBuilder(
    contracts.AppointmentNoShow, marked_by="system", grace_minutes=30, definition_version="1"
)
appointment_no_show_reversed = EventBuilder(
    contracts.AppointmentNoShowReversed, marked_by="reception"
)
appointment_answered = EventBuilder(
    contracts.AppointmentAnswered, answer="confirm", message_id=uuid4
)
appointment_no_show_risk_scored = EventBuilder(
    contracts.AppointmentNoShowRiskScored, probability=0.12, band="low", model_version="baseline-1"
)
link_issued = EventBuilder(
    contracts.LinkIssued,
    purpose="survey",
    subject_id=uuid4,
    token_hash="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",  # noqa: S106
    expires_at=NOON + timedelta(days=14),
    language="ru",
    message_id=uuid4,
)
visit_completed = EventBuilder(
    contracts.VisitCompleted,
    appointment_id=uuid4,
    practitioner_id=uuid4,
    service_code="dental.filling",
    specialty_code="dentistry",
    kind="procedure",
    outcome="treated",
    arrived_at=NOON - _ONE_HOUR,
    started_at=NOON - timedelta(minutes=51),
    completed_at=NOON,
    charged_minor=780_000,
    cost_minor=310_000,
    currency="RUB",
)
lead_lost = EventBuilder(
    contracts.LeadLost, patient_id=None, channel="call_centre", reason_code="no_suitable_time"
)
slot_freed = EventBuilder(
    contracts.SlotFreed,
    appointment_id=uuid4,
    practitioner_id=uuid4,
    service_code="dental.filling",
    starts_at=NOON + _ONE_HOUR,
    ends_at=NOON + 2 * _ONE_HOUR,
)
journey_enrolled = EventBuilder(
    contracts.JourneyEnrolled, journey="follow-up", version=1, subject_id=uuid4
)
message_sent = EventBuilder(contracts.MessageSent, **_MESSAGE)
message_delivered = EventBuilder(contracts.MessageDelivered, **_MESSAGE)
message_failed = EventBuilder(contracts.MessageFailed, **_MESSAGE, reason_code="bounced")
task_opened = EventBuilder(
    contracts.TaskOpened,
    reason="no_next_appointment",
    subject_id=uuid4,
    due_at=NOON + timedelta(days=1),
)
task_closed = EventBuilder(
    contracts.TaskClosed, reason="no_next_appointment", outcome="booked", attempts=2, minutes=6.5
)
consent_changed = EventBuilder(
    contracts.ConsentChanged, purpose="care", channel="sms", state="granted"
)
survey_answered_v1 = EventBuilder(contracts.SurveyAnsweredV1, **_ANSWER)
survey_answered = EventBuilder(contracts.SurveyAnswered, **_ANSWER, scale_min=1, scale_max=5)
review_posted = EventBuilder(
    contracts.ReviewPosted,
    patient_id=None,
    platform="yandex_maps",
    rating_1_to_5=2,
    published_at=NOON - _ONE_HOUR,
    detected_at=NOON,
    sentiment="negative",
    topics=("waiting",),
)
complaint_opened = EventBuilder(
    contracts.ComplaintOpened, visit_id=uuid4, cause_code="low_score", severity="medium"
)
complaint_resolved = EventBuilder(
    contracts.ComplaintResolved,
    visit_id=uuid4,
    cause_code="low_score",
    severity="medium",
    hours_to_resolve=20.5,
)
action_verified = EventBuilder(contracts.ActionVerified, verdict="worked", measured_effect=-4.2)
patient_segment_changed = EventBuilder(
    contracts.PatientSegmentChanged, axis="treatment_state", from_="in_treatment", to="treated"
)
patient_churn_risk_changed = EventBuilder(
    contracts.PatientChurnRiskChanged,
    probability=0.81,
    band="high",
    horizon_days=365,
    main_reasons=("overdue_for_own_rhythm",),
    model_version="baseline-1",
)
token_revoked = EventBuilder(
    contracts.TokenRevoked, jti=lambda: uuid4().hex, expires_at=NOON + timedelta(days=30)
)

BUILDERS: dict[str, EventBuilder[Any]] = {
    builder.contract.TYPE: builder
    for builder in tuple(globals().values())
    if isinstance(builder, EventBuilder)
}
"""A builder for every published type."""
