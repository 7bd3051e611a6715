"""The envelope of an event, the order in which events stand, and the canonical texts of both.

`Event` is what every part of the platform handles; `kafka` and `http` turn it into messages and
back. `precedence` is the only rule that decides which of two events stands.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

from revisit_chassis.trace import current_traceparent
from revisit_events.catalog import PUBLISHED, topic_of
from revisit_events.contracts import EventData
from revisit_events.shapes import checked, encode, with_fields_of

D = TypeVar("D", bound=EventData)
D_co = TypeVar("D_co", bound=EventData, covariant=True)

PLATFORM = UUID(int=0)
"""The `clinicid` of events that belong to no clinic, such as the revocation of a platform token."""

SEPARATOR = "\x1f"
"""Stands in no id and no source: intake takes no control characters, and `kafka` not this one."""
_CANONICAL_LENGTH = 27


class InvalidEvent(ValueError):  # a state of the message, as in "InvalidEvent: ..."
    """A message is no valid event.

    The text never repeats values of the message: they may be personal data.

    Args:
        detail: What is wrong, as a sentence.
        errors: Each fault as (JSON pointer, detail).
    """

    def __init__(self, detail: str, errors: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors


@dataclass(slots=True)
class Event(Generic[D_co]):
    """One fact: CloudEvents attributes and the data of a contract, in its current version.

    Nothing changes an event. It is not frozen all the same: that would make its construction, which
    happens for each event on the intake's path, three times as dear.
    """

    id: str
    source: str
    time: datetime
    clinic_id: UUID
    data: D_co
    subject: str
    sequence: int | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    # Made once: the digest, the outbox, the inbox and the state all need them.
    _encoded: bytes | None = field(default=None, compare=False, repr=False)
    _time_text: str | None = field(default=None, compare=False, repr=False)

    @property
    def type(self) -> str:
        """Name and major version, such as `visit.completed.v1`."""
        return self.data.TYPE

    @property
    def topic(self) -> str:
        """Kafka topic: the name without the version."""
        return topic_of(self.data.TYPE)

    @property
    def key(self) -> str:
        """Kafka key: clinic and patient, without a patient clinic and aggregate."""
        about = getattr(self.data, "patient_id", None) or self.subject
        # Without "!s" each id is asked how to format itself, which costs as much again.
        return f"{self.clinic_id!s}:{about!s}"

    @property
    def time_text(self) -> str:
        """The time in UTC with microseconds."""
        if self._time_text is None:
            self._time_text = time_text(self.time)
        return self._time_text

    @property
    def precedence(self) -> str:
        """Sortable text: of two events about the same thing, the greater stands."""
        # Two sources may use the same id: the source keeps the order total. Between them stands what
        # neither may hold.
        return precedence_of(
            self.time_text,
            self.sequence,
            self.data.LIFECYCLE_RANK,
            f"{self.id}{SEPARATOR}{self.source}",
        )

    def data_json(self) -> bytes:
        """Gives the data as JSON, with the published fields of its contract only."""
        if self._encoded is None:
            self._encoded = encode(published(self.data))
        return self._encoded


AnyEvent = Event[EventData]


def published(data: EventData) -> EventData:
    """Gives data as everybody may read it: without the fields that only its owner knows.

    Args:
        data: Of a published contract, or of one with further fields.
    """
    contract = PUBLISHED[data.TYPE]
    return data if type(data) is contract else with_fields_of(contract, data)


def new_event(
    data: D,
    *,
    source: str,
    clinic_id: UUID,
    time: datetime,
    sequence: int | None = None,
    cause: Event[Any] | None = None,
    correlation_id: str | None = None,
    id: str | None = None,  # noqa: A002  # the attribute's name in CloudEvents
) -> Event[D]:
    """Makes an event of a service's own.

    Args:
        data: What happened.
        source: The service, such as `/booking`.
        clinic_id: The tenant.
        time: When the fact happened, with a time zone.
        sequence: Version of the aggregate after the fact.
        cause: The event that led to this one; its correlation and trace go on. Without one the trace
            is the request's.
        correlation_id: Business flow, where there is no cause.
        id: Given where the same fact must always have the same id; else random.

    Raises:
        ValueError: The data holds what its contract does not allow.
    """
    told, encoded = checked(published(data))
    return Event(
        id=id or uuid4().hex,
        source=source,
        time=time.astimezone(UTC),
        clinic_id=clinic_id,
        data=told if isinstance(told, type(data)) else data,
        subject=data.aggregate_id,
        sequence=sequence,
        correlation_id=correlation_id or (cause.correlation_id or cause.id if cause else None),
        causation_id=cause.id if cause else None,
        traceparent=cause.traceparent if cause else current_traceparent(),
        _encoded=encoded,
    )


def precedence(time: datetime, sequence: int | None, rank: int, id: str) -> str:  # noqa: A002
    """Gives the place of an event in the one order that decides what stands.

    By time, then sequence, then rank in the life cycle, then id: all fixed in width but the last,
    so that comparing the texts byte by byte (PostgreSQL: COLLATE "C") compares the tuples.

    Args:
        time: When the fact happened, with a time zone.
        sequence: Version of the aggregate, none counts as 0.
        rank: Rank of the event's type in the life cycle, 0 to 999.
        id: Id of the event.

    >>> precedence(datetime(2026, 1, 15, 13, 12, tzinfo=UTC), None, 100, "mis-7-000004")
    '2026-01-15T13:12:00.000000Z 00000000000000000000 100 mis-7-000004'
    """
    return precedence_of(time_text(time), sequence, rank, id)


def precedence_of(at: str, sequence: int | None, rank: int, id: str) -> str:  # noqa: A002
    """Gives the same from a time that is a text already.

    Args:
        at: Text of `time_text`.
        sequence: Version of the aggregate, none counts as 0.
        rank: Rank of the event's type in the life cycle.
        id: Id of the event.
    """
    return f"{at} {_between(sequence or 0, rank)} {id}"


@lru_cache(maxsize=1024)
def _between(sequence: int, rank: int) -> str:
    # Nearly all events of a type have none, and spelling the numbers out is half of the work.
    return f"{sequence:020d} {rank:03d}"


def time_text(time: datetime) -> str:
    """Gives a time in UTC with microseconds: always 27 characters, so texts sort like times."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    # Half as dear as isoformat(), which asks the time zone.
    return "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ" % (  # noqa: UP031
        time.year,
        time.month,
        time.day,
        time.hour,
        time.minute,
        time.second,
        time.microsecond,
    )


def time_text_as_given(given: str) -> str | None:
    """Gives the text of a valid time where that is a matter of cutting: it came in UTC.

    Args:
        given: The time as RFC 3339, checked.

    >>> time_text_as_given("2026-01-15T13:12:00Z")
    '2026-01-15T13:12:00.000000Z'
    """
    length = len(given)
    if length == _CANONICAL_LENGTH and given[26] == "Z" and given[10] == "T":
        return given
    if length == 32 and given[26:] == "+00:00" and given[10] == "T":  # noqa: PLR2004
        return f"{given[:26]}Z"
    if (length == 20 and given[19] == "Z") or (length == 25 and given[19:] == "+00:00"):  # noqa: PLR2004
        return f"{given[:10]}T{given[11:19]}.000000Z"
    return None


def sequence_text(sequence: int) -> str:
    """Gives a sequence as CloudEvents compares it: 20 digits."""
    return f"{sequence:020d}"
