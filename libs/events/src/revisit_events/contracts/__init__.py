"""Every event of the platform, a file for each noun or service. `revisit_events.catalog` lists them."""

from revisit_events.contracts.appointment import (
    AppointmentAnswered,
    AppointmentBooked,
    AppointmentCancelled,
    AppointmentConfirmed,
    AppointmentNoShow,
    AppointmentNoShowReversed,
    AppointmentNoShowRiskScored,
    AppointmentRescheduled,
    SlotFreed,
)
from revisit_events.contracts.clinic import ClinicRegistered, TokenRevoked
from revisit_events.contracts.engagement import (
    ConsentChanged,
    JourneyEnrolled,
    LinkIssued,
    MessageDelivered,
    MessageFailed,
    MessageSent,
    TaskClosed,
    TaskOpened,
)
from revisit_events.contracts.feedback import (
    ActionVerified,
    ComplaintOpened,
    ComplaintResolved,
    ReviewPosted,
    ReviewSubmitted,
    SurveyAnswered,
    SurveyAnsweredV1,
)
from revisit_events.contracts.fields import EventData
from revisit_events.contracts.patient import (
    Acquisition,
    EncryptedContact,
    PatientContactChanged,
    PatientErased,
    PatientRegistered,
    PatientUpdated,
)
from revisit_events.contracts.scoring import PatientChurnRiskChanged, PatientSegmentChanged
from revisit_events.contracts.visit import LeadLost, Referral, VisitCompleted

__all__ = [
    "Acquisition",
    "ActionVerified",
    "AppointmentAnswered",
    "AppointmentBooked",
    "AppointmentCancelled",
    "AppointmentConfirmed",
    "AppointmentNoShow",
    "AppointmentNoShowReversed",
    "AppointmentNoShowRiskScored",
    "AppointmentRescheduled",
    "ClinicRegistered",
    "ComplaintOpened",
    "ComplaintResolved",
    "ConsentChanged",
    "EncryptedContact",
    "EventData",
    "JourneyEnrolled",
    "LeadLost",
    "LinkIssued",
    "MessageDelivered",
    "MessageFailed",
    "MessageSent",
    "PatientChurnRiskChanged",
    "PatientContactChanged",
    "PatientErased",
    "PatientRegistered",
    "PatientSegmentChanged",
    "PatientUpdated",
    "Referral",
    "ReviewPosted",
    "ReviewSubmitted",
    "SlotFreed",
    "SurveyAnswered",
    "SurveyAnsweredV1",
    "TaskClosed",
    "TaskOpened",
    "TokenRevoked",
    "VisitCompleted",
]
