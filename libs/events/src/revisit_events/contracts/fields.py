"""The kinds of fields contracts are made of, and `EventData`, what all contracts have in common.

A kind fixes type, range and the words for what is expected, so that a rejected event is explained
without repeating what it held (it may be personal data). Times are RFC 3339 texts on the wire and
aware UTC values here; identifiers are UUIDs here, and intake turns a clinic's own into them.

A contract is a `msgspec.Struct`: every event is read by it in each service that it comes to, and that takes
less than half of what it took with a pydantic model. A kind says the same to both, because the bodies of our
HTTP APIs are pydantic models, and because pydantic finds all faults of an event where msgspec names the
first: `revisit_events.shapes`.

Word lists are closed (`Literal`) only where readers may rely on them for good: a new value of a closed list
breaks readers, so all other codes are texts with documented values.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from sys import float_info
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct
from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, SchemaValidator, core_schema

from revisit_chassis.identifiers import DriverUuid

EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
_FIRST_YEAR = EARLIEST.year
_LAST_YEAR = LATEST.year - 1

# PostgreSQL stores no NUL in a text, so no event may carry one.
NO_NUL = r"^[^\u0000]*$"
_RFC3339 = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)$"
_FULL_DATE = r"^\d{4}-\d\d-\d\d$"
# Ten thousand million roubles: no visit costs more, and millions of such amounts still add up in a
# bigint, so that no sum a reader makes can overflow.
_MINOR_MAX = 10**12


@dataclass(frozen=True, slots=True)
class Expected:
    """What a field must be, as the end of the sentence "data.x must be ..."."""

    text: str


class _IdSchema:
    """A UUID, read into the database driver's own class.

    An event's ids are turned into text and bytes about ten times each on their way, which took a
    tenth of the intake's time with the standard library's class.
    """

    def __get_pydantic_core_schema__(
        self, _source: object, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _read_id, serialization=core_schema.to_string_ser_schema()
        )

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "format": "uuid"}


def _read_id(given: object) -> UUID:
    if type(given) is str:
        read = DriverUuid(given)
        # The driver also reads hyphens that stand in odd places.
        if str(read) == given.lower():
            return read
    elif isinstance(given, DriverUuid):
        return given
    elif isinstance(given, UUID):
        return DriverUuid(given.bytes)
    raise ValueError("no UUID")


class _TimeSchema:
    """RFC 3339 text or an aware datetime, within 1900 to 2200, as a UTC datetime."""

    def __get_pydantic_core_schema__(
        self, _source: object, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(read_time)

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "format": "date-time"}


def read_time(given: object) -> datetime:
    """Gives a time in UTC.

    Args:
        given: RFC 3339 text with an offset, or a datetime with a zone.

    Raises:
        PydanticCustomError: It is neither, or lies outside 1900 to 2199.
    """
    if type(given) is str and _is_plain_time(given):
        try:
            read = _parse_time(given)
        except ValueError:
            pass  # looked at more closely below
        else:
            # In a bound's own year the offset may decide, and in the year 1 there is nothing before it.
            if _FIRST_YEAR < read.year < _LAST_YEAR:
                return read if read.tzinfo is UTC else read.astimezone(UTC)
    try:
        careful: datetime = _read_time_carefully(given)
    except ValidationError:
        raise PydanticCustomError(
            "time", "Input should be an RFC 3339 time with an offset, 1900 to 2199"
        ) from None
    return careful.astimezone(UTC)


def _is_plain_time(given: str) -> bool:
    """Tells whether a text has one of the forms in which nearly all times come.

    `2026-01-15T13:12:00Z` and `2026-01-15T16:12:00+03:00`, both also with microseconds. The standard
    library reads these in a fifth of the time, but it also reads texts that are no RFC 3339.
    """
    length = len(given)
    return (
        (length == 25 and given[22] == ":" and given[23] < "6")  # noqa: PLR2004
        or (length == 20 and given[19] == "Z")  # noqa: PLR2004
        or (length == 27 and given[26] == "Z" and given[19] == ".")  # noqa: PLR2004
        or (
            length == 32  # noqa: PLR2004
            and given[29] == ":"
            and given[30] < "6"
            and given[19] == "."
            and given[26] in "+-"
        )
    ) and (given[4] == "-" == given[7] and given[10] == "T" and given[13] == ":" == given[16])


_parse_time = datetime.fromisoformat
_bounds: dict[str, Any] = {"ge": EARLIEST, "lt": LATEST, "tz_constraint": "aware"}
_read_time_carefully = SchemaValidator(
    core_schema.union_schema(
        [
            core_schema.chain_schema(
                [
                    core_schema.str_schema(strict=True, pattern=_RFC3339),
                    core_schema.datetime_schema(microseconds_precision="truncate", **_bounds),
                ]
            ),
            core_schema.datetime_schema(strict=True, **_bounds),
        ],
        mode="left_to_right",
    )
).validate_python


class _DateSchema:
    """A date as `YYYY-MM-DD`, within 1900 to 2200."""

    def __get_pydantic_core_schema__(
        self, _source: object, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        bounds: dict[str, Any] = {"ge": EARLIEST.date(), "lt": LATEST.date()}
        return core_schema.union_schema(
            [
                core_schema.chain_schema(
                    [
                        core_schema.str_schema(strict=True, pattern=_FULL_DATE),
                        core_schema.date_schema(**bounds),
                    ]
                ),
                core_schema.date_schema(strict=True, **bounds),
            ],
            mode="left_to_right",
            custom_error_type="date",
            custom_error_message="Input should be a date as YYYY-MM-DD, 1900 to 2199",
        )

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "format": "date"}


if TYPE_CHECKING:
    _Uuid = UUID
else:
    # msgspec asks `read_special` for what is none of its own types.
    _Uuid = DriverUuid

Id = Annotated[
    _Uuid,
    _IdSchema(),
    Expected("a UUID or the clinic's own identifier, 1 to 64 characters"),
]
Time = Annotated[
    datetime,
    _TimeSchema(),
    Meta(tz=True),
    Expected("a time in RFC 3339 with an offset, such as 2026-01-15T16:12:00+03:00"),
]
Day = Annotated[date, _DateSchema(), Expected("a date, such as 2026-07-15")]
# That no text holds a NUL is looked for in the whole of an event, by `shapes`: a pattern a field is dear.
Code = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=100, pattern=NO_NUL),
    Meta(min_length=1, max_length=100),
    Expected("a text of 1 to 100 characters"),
]
Text = Annotated[
    str,
    StringConstraints(strict=True, max_length=10_000, pattern=NO_NUL),
    Meta(max_length=10_000),
    Expected("a text of at most 10,000 characters"),
]
Minor = Annotated[
    int,
    Field(strict=True, ge=-_MINOR_MAX, le=_MINOR_MAX),
    Meta(ge=-_MINOR_MAX, le=_MINOR_MAX),
    Expected("an integer, in minor units (kopecks), at most 10^12 either way"),
]
Currency = Annotated[
    str,
    StringConstraints(strict=True, pattern=r"^[A-Z]{3}$"),
    Meta(pattern=r"^[A-Z]{3}\Z"),
    Expected("an ISO 4217 code, such as RUB"),
]
Country = Annotated[
    str,
    StringConstraints(strict=True, pattern=r"^[A-Z]{2}$"),
    Meta(pattern=r"^[A-Z]{2}\Z"),
    Expected("an ISO 3166 code, such as RU"),
]
Language = Annotated[
    str,
    StringConstraints(strict=True, pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length=35),
    Meta(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*\Z", max_length=35),
    Expected("a BCP 47 language tag, such as ru"),
]
TimeZone = Annotated[
    str,
    StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_+\-/]{1,64}$"),
    Meta(pattern=r"^[A-Za-z0-9_+\-/]{1,64}\Z"),
    Expected("an IANA time zone, such as Europe/Moscow"),
]
Count = Annotated[
    int,
    Field(strict=True, ge=0, le=2**31 - 1),
    Meta(ge=0, le=2**31 - 1),
    Expected("a whole number, 0 or more"),
]
Flag = Annotated[bool, Field(strict=True), Expected("true or false")]
Number = Annotated[
    float,
    Field(strict=True, allow_inf_nan=False),
    Meta(ge=-float_info.max, le=float_info.max),
    Expected("a number, not infinite"),
]
Probability = Annotated[
    float,
    Field(strict=True, ge=0, le=1, allow_inf_nan=False),
    Meta(ge=0, le=1),
    Expected("a number from 0 to 1"),
]
Rating = Annotated[
    int,
    Field(strict=True, ge=1, le=5),
    Meta(ge=1, le=5),
    Expected("a whole number from 1 to 5"),
]
Year = Annotated[
    int,
    Field(strict=True, ge=1850, le=2199),
    Meta(ge=1850, le=2199),
    Expected("a year, such as 1984"),
]

LegalClass = Literal["service", "care", "advertising"]


class Part(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value inside an event's data."""


class EventData(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The data of one event type: what the fact is, without the envelope.

    A contract changes only by addition. Fields that it does not know are ignored, so an older
    reader accepts a newer writer. What is none is not written; any other default is (`written`).
    """

    TYPE: ClassVar[str]
    """Event name and major version, such as `visit.completed.v1`."""
    OWNER: ClassVar[str]
    """The service that publishes it."""
    CONSUMERS: ClassVar[tuple[str, ...]]
    """The services that have a handler for it."""
    AGGREGATE_ID: ClassVar[str]
    """The field that holds the aggregate's id: the event's subject."""
    LIFECYCLE_RANK: ClassVar[int] = 0
    """Order within the aggregate's life where time and sequence are equal; the higher stands."""
    COMPACTED: ClassVar[bool] = False
    """Whether the topic keeps only the newest event of a key."""

    def __post_init__(self) -> None:
        """Brings times to UTC.

        Raises:
            ValueError: A time has no zone; a time or a day lies outside 1900 to 2199.
        """
        times, days = _times_and_days_of(type(self))
        for name in times:
            time = getattr(self, name)
            # In a bound's own year the offset may decide.
            if time is None or (time.tzinfo is UTC and _FIRST_YEAR < time.year < _LAST_YEAR):
                continue
            if time.tzinfo is None or not EARLIEST <= time < LATEST:
                raise ValueError(name)
            msgspec.structs.force_setattr(self, name, time.astimezone(UTC))
        for name in days:
            day = getattr(self, name)
            if day is not None and not _FIRST_YEAR <= day.year <= _LAST_YEAR:
                raise ValueError(name)

    @property
    def aggregate_id(self) -> str:
        """Id of the aggregate the event is about."""
        return str(getattr(self, self.AGGREGATE_ID))


def written(*, default: Any) -> Any:
    """Gives a field a default that is written like any other value.

    Args:
        default: What a reader finds where a writer left the field out; it never changes.
    """
    # Only what a factory made is written, whatever it is equal to.
    return msgspec.field(default_factory=lambda: default)


def read_special(kind: type, given: object) -> object:
    """Reads a value of a type that msgspec does not know: an id.

    Args:
        kind: The type.
        given: The text, or an id.

    Raises:
        ValueError: This is none.
    """
    if kind is not DriverUuid:
        raise NotImplementedError(kind)
    # Nearly every id comes as the driver writes it: several of each event, so one call less counts.
    if type(given) is str and str(read := DriverUuid(given)) == given:
        return read
    return _read_id(given)


@cache
def times_of(contract: type[EventData]) -> tuple[str, ...]:
    """Gives the fields of a contract that hold times."""
    return _fields_of(contract, datetime)


@cache
def _times_and_days_of(contract: type[EventData]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return times_of(contract), _fields_of(contract, date)


def _fields_of(contract: type[EventData], kind: type) -> tuple[str, ...]:
    return tuple(
        field.name for field in msgspec.structs.fields(contract) if kind in parts_of(field.type)
    )


def parts_of(annotation: Any) -> tuple[Any, ...]:
    """Gives an annotation and all that it is made of, the metadata of `Annotated` as well."""
    inner = (*getattr(annotation, "__args__", ()), *getattr(annotation, "__metadata__", ()))
    return (annotation, *(part for one in inner for part in parts_of(one)))
