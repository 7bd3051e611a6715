"""Scores, segments, key figures and targets over HTTP."""

from dataclasses import asdict
from datetime import UTC, datetime, time, tzinfo
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from revisit_chassis.audit import record_audit
from revisit_chassis.etag import IfMatch, check_if_match, etag
from revisit_chassis.http import ClinicConnection, ClinicId, Now, require
from revisit_chassis.identifiers import canonical_id
from revisit_chassis.pages import Cursor, Limit, Page, encode_cursor, position_of
from revisit_chassis.problem import FieldError, Problem
from revisit_chassis.tokens import Principal
from revisit_events.contracts.fields import NO_NUL, Day, Time
from scoring import store
from scoring.domain.figures import DEFINITIONS
from scoring.domain.rfm import RFM_VERSION
from scoring.domain.segments import SEGMENTS_VERSION, LifeSituation, TreatmentState
from scoring.texts import reason_text

router = APIRouter(prefix="/v1")

_PATIENT = TypeAdapter(UUID)

Identifier = Annotated[str, Path(min_length=1, max_length=64, pattern=NO_NUL)]
Kpi = Literal[
    "no_show_rate",
    "visits",
    "waiting_minutes",
    "waiting_under_15_minutes",
    "return_6_months",
    "return_12_months",
    "csat",
    "nps",
    "survey_response_rate",
]
Profile = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_NUL)]
Moment = Day | Time
EVER = (datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC))


class Reason(BaseModel):
    """Why a risk is what it is."""

    code: str
    text: dict[str, str]


class RfmScores(BaseModel):
    """Recency, frequency and money, each from 1, the worst, to 5, the best."""

    recency: int = Field(ge=1, le=5, description="By days since the last visit")
    frequency: int = Field(ge=1, le=5, description="By visits of the last 24 months")
    monetary: int | None = Field(
        ge=1,
        le=5,
        description="By what was charged in the last 24 months, in average cheques of the clinic; "
        "null while the clinic has too few paid visits",
    )
    definition_version: str = RFM_VERSION


class Score(BaseModel):
    """What scoring thinks of a patient."""

    patient_id: UUID
    visits: int
    first_visit_at: datetime
    last_visit_at: datetime
    charged_minor: int = Field(description="For all visits charged in the clinic's currency")
    currency: str | None = Field(description="Of the clinic; null while the clinic is unknown")
    life_situation: str
    treatment_state: str
    rfm: RfmScores
    probability: float = Field(description="Of not returning by themselves, 0 to 0.99")
    band: str
    horizon_days: int = Field(
        description="Days after which half of those like the patient have returned"
    )
    reasons: list[Reason]
    model_version: str
    scored_at: datetime

    @classmethod
    def of(cls, score: store.Score) -> Self:
        """Gives a stored score as it is shown."""
        return cls.model_validate(
            asdict(score)
            | {
                "rfm": {
                    "recency": score.recency,
                    "frequency": score.frequency,
                    "monetary": score.monetary,
                },
                "reasons": [{"code": code, "text": reason_text(code)} for code in score.reasons],
            }
        )


class SegmentCount(BaseModel):
    """Patients in a segment."""

    axis: str
    key: str
    patients: int


class Segments(BaseModel):
    """Patients by segment, on both axes."""

    items: list[SegmentCount]
    definition_version: str


class KpiValue(BaseModel):
    """A key figure, with all that is needed to argue about it."""

    kpi: str
    value: float | None
    unit: str
    n: int
    interval_low: float | None
    interval_high: float | None
    definition_version: str
    population: str
    exclusions: str
    targets: list["Target"] = []


class Kpis(BaseModel):
    """Key figures of a span of time."""

    start: datetime = Field(serialization_alias="from")
    end: datetime = Field(serialization_alias="to")
    as_of: datetime = Field(description="Up to when returns and answers could be observed")
    items: list[KpiValue]


class InteractionCount(BaseModel):
    """How often something happened between clinic and patients."""

    kind: str = Field(description="Event name, such as message.sent")
    code: str | None = Field(description="Journey, reason, outcome, ... by kind")
    count: int


class Interactions(BaseModel):
    """Interactions by kind and code."""

    items: list[InteractionCount]


class TargetRequest(BaseModel):
    """A target as a clinic sets it."""

    model_config = ConfigDict(extra="forbid")

    profile: Profile = "default"
    value: Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]
    direction: Literal["at_least", "at_most"]
    definition: Annotated[str, Field(max_length=500, pattern=NO_NUL)] = ""


class Target(BaseModel):
    """A version of a target."""

    kpi: str
    profile: str
    version: int
    value: float
    direction: str
    definition: str


@router.get("/patients/{patient_id}/score", dependencies=[Depends(require("scores:read"))])
async def read_score(
    patient_id: Identifier, clinic_id: ClinicId, connection: ClinicConnection
) -> Score:
    """Gives a patient's segments and churn risk."""
    found = await store.score_of(
        connection, clinic_id, _canonical(clinic_id, "patient", patient_id)
    )
    if found is None:
        raise Problem(404, "not-found", "No completed visit of this patient is known.")
    return Score.of(found)


@router.get("/segments", dependencies=[Depends(require("scores:read"))])
async def read_segments(clinic_id: ClinicId, connection: ClinicConnection) -> Segments:
    """Gives the number of patients in each segment of both axes."""
    counts = await store.segment_counts(connection, clinic_id)
    return Segments(
        items=[
            SegmentCount(axis=axis, key=key, patients=patients)
            for axis, by_key in counts.items()
            for key, patients in by_key.items()
        ],
        definition_version=SEGMENTS_VERSION,
    )


@router.get("/segments/{key}/patients", dependencies=[Depends(require("scores:read"))])
async def list_segment_patients(
    key: Annotated[str, Path(max_length=64)],
    clinic_id: ClinicId,
    connection: ClinicConnection,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Score]:
    """Gives the patients of a segment, page by page."""
    if key not in {*LifeSituation, *TreatmentState}:
        raise Problem(404, "not-found", "There is no such segment.")
    after = None if cursor is None else position_of(cursor, 1, _PATIENT)
    rows = await store.patients_of_segment(connection, clinic_id, key, after, limit + 1)
    following = encode_cursor([rows[limit - 1].patient_id]) if len(rows) > limit else None
    return Page(items=[Score.of(row) for row in rows[:limit]], next=following)


@router.get("/at-risk", dependencies=[Depends(require("scores:read"))])
async def list_at_risk(
    clinic_id: ClinicId, connection: ClinicConnection, limit: Limit = 10
) -> Page[Score]:
    """Gives the patients most likely to be lost; of equal risk those with more visits, then more money."""
    rows = await store.most_at_risk(connection, clinic_id, limit)
    return Page(items=[Score.of(row) for row in rows])


@router.get("/kpis", dependencies=[Depends(require("kpis:read"))])
async def read_kpis(
    clinic_id: ClinicId,
    connection: ClinicConnection,
    now: Now,
    start: Annotated[
        Moment | None,
        Query(alias="from", description="A day of the clinic's calendar, or a time; inclusive"),
    ] = None,
    end: Annotated[
        Moment | None,
        Query(alias="to", description="The same; exclusive, so a day is itself left out"),
    ] = None,
    practitioner_id: Annotated[
        str | None, Query(min_length=1, max_length=64, pattern=NO_NUL)
    ] = None,
) -> Kpis:
    """Gives the key figures, each with its definition, population, exclusions and interval."""
    zone = await store.zone_of_clinic(connection, clinic_id)
    first, last = _moment(start, zone, EVER[0]), _moment(end, zone, EVER[1])
    if first > last:
        raise Problem(
            422,
            "invalid-span",
            "The span ends before it begins.",
            errors=[FieldError("/to", "must not be before from")],
        )
    who = (
        None if practitioner_id is None else _canonical(clinic_id, "practitioner", practitioner_id)
    )
    found = await store.key_figures(connection, clinic_id, first, last, who, now=now, zone=zone)
    goals: dict[str, list[Target]] = {}
    for target in await store.targets(connection, clinic_id):
        goals.setdefault(target.kpi, []).append(Target(**asdict(target)))
    return Kpis(
        start=first,
        end=last,
        as_of=now,
        items=[
            KpiValue(
                kpi=kpi,
                value=figure.value,
                unit=DEFINITIONS[kpi].unit,
                n=figure.n,
                interval_low=figure.low,
                interval_high=figure.high,
                definition_version=DEFINITIONS[kpi].version,
                population=DEFINITIONS[kpi].population,
                exclusions=DEFINITIONS[kpi].exclusions,
                targets=goals.get(kpi, []),
            )
            for kpi, figure in found.items()
        ],
    )


@router.get("/interactions", dependencies=[Depends(require("kpis:read"))])
async def read_interactions(clinic_id: ClinicId, connection: ClinicConnection) -> Interactions:
    """Gives the number of messages, tasks, links, consents and so on, by what they were about."""
    rows = await store.interaction_counts(connection, clinic_id)
    return Interactions(
        items=[InteractionCount(kind=row.kind, code=row.code, count=row.count) for row in rows]
    )


@router.get("/targets/{kpi}", dependencies=[Depends(require("kpis:read"))])
async def read_target(
    kpi: Kpi,
    response: Response,
    clinic_id: ClinicId,
    connection: ClinicConnection,
    profile: Annotated[str, Query(min_length=1, max_length=64, pattern=NO_NUL)] = "default",
) -> Target:
    """Gives the target that stands for a key figure, under a named profile."""
    found = await store.target_of(connection, clinic_id, kpi, profile)
    if found is None:
        raise Problem(404, "not-found", "No such target was set.")
    response.headers["ETag"] = etag(found.version)
    return Target(**asdict(found))


@router.put("/targets/{kpi}")
async def put_target(
    *,
    request: Request,
    response: Response,
    kpi: Kpi,
    body: TargetRequest,
    clinic_id: ClinicId,
    connection: ClinicConnection,
    caller: Annotated[Principal, Depends(require("targets:write"))],
    now: Now,
    if_match: IfMatch = None,
) -> Target:
    """Adds a version of the clinic's target for a key figure; one that says the same adds none."""
    before = await store.lock_target(connection, clinic_id, kpi, body.profile)
    version = 0 if before is None else before.version
    check_if_match(if_match, version)
    wanted = Target(kpi=kpi, version=version, **body.model_dump())
    if before is None or Target(**asdict(before)) != wanted:
        wanted = wanted.model_copy(update={"version": version + 1})
        await store.add_target(connection, clinic_id, store.Target(**wanted.model_dump()), now)
        await record_audit(
            connection,
            clinic_id=clinic_id,
            actor=caller.sub,
            action="target.change",
            record=f"target:{kpi}:{body.profile}:{wanted.version}",
            at=now,
            correlation_id=request.scope.get("correlation_id"),
        )
    response.headers["ETag"] = etag(wanted.version)
    return wanted


def _moment(given: Moment | None, zone: tzinfo, otherwise: datetime) -> datetime:
    """Gives a time as UTC; a day begins at the clinic's midnight."""
    if given is None:
        return otherwise
    if isinstance(given, datetime):
        return given.astimezone(UTC)
    return datetime.combine(given, time(), zone).astimezone(UTC)


def _canonical(clinic_id: UUID, noun: str, identifier: str) -> UUID:
    try:
        return canonical_id(clinic_id, noun, identifier)
    except ValueError as error:
        raise Problem(422, "invalid-identifier", str(error)) from error
