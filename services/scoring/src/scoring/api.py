"""Scores, segments, key figures and targets over HTTP."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from revisit_chassis.http import ClinicConnection, ClinicId, Now, require
from revisit_chassis.identifiers import canonical_id
from revisit_chassis.pages import Cursor, Limit, Page, decode_cursor, encode_cursor
from revisit_chassis.problem import FieldError, Problem
from revisit_events.contracts.fields import NO_NUL, Time
from scoring import domain, store
from scoring.texts import reason_text

router = APIRouter(prefix="/v1")

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
]
EVER = (datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC))


class Reason(BaseModel):
    """Why a risk is what it is."""

    code: str
    text: dict[str, str]


class Score(BaseModel):
    """What scoring thinks of a patient."""

    patient_id: UUID
    visits: int
    first_visit_at: datetime
    last_visit_at: datetime
    charged_minor: int
    life_situation: str
    treatment_state: str
    probability: float = Field(description="Of not returning by themselves, 0 to 1")
    band: str
    horizon_days: int
    reasons: list[Reason]
    model_version: str
    scored_at: datetime


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

    profile: Annotated[str, Field(min_length=1, max_length=64, pattern=NO_NUL)] = "default"
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
    row = await store.score_of(connection, _patient(clinic_id, patient_id))
    if row is None:
        raise Problem(404, "not-found", "No completed visit of this patient is known.")
    return _score(row)


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
        definition_version=domain.DEFINITION_VERSION,
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
    if key not in {*domain.Group, *domain.Standing}:
        raise Problem(404, "not-found", "There is no such segment.")
    after = None if cursor is None else _uuid_of(decode_cursor(cursor, 1)[0])
    rows = await store.patients_of_segment(connection, clinic_id, key, after, limit + 1)
    following = encode_cursor([rows[limit - 1].patient_id]) if len(rows) > limit else None
    return Page(items=[_score(row) for row in rows[:limit]], next=following)


@router.get("/at-risk", dependencies=[Depends(require("scores:read"))])
async def list_at_risk(
    clinic_id: ClinicId, connection: ClinicConnection, limit: Limit = 10
) -> Page[Score]:
    """Gives the patients most likely to be lost."""
    rows = await store.most_at_risk(connection, clinic_id, limit)
    return Page(items=[_score(row) for row in rows])


@router.get("/kpis", dependencies=[Depends(require("kpis:read"))])
async def read_kpis(
    clinic_id: ClinicId,
    connection: ClinicConnection,
    now: Now,
    start: Annotated[Time | None, Query(alias="from")] = None,
    end: Annotated[Time | None, Query(alias="to")] = None,
    practitioner_id: Annotated[
        str | None, Query(min_length=1, max_length=64, pattern=NO_NUL)
    ] = None,
) -> Kpis:
    """Gives the key figures, each with its definition, population, exclusions and interval."""
    first, last = (start or EVER[0]), (end or EVER[1])
    who = (
        None if practitioner_id is None else _canonical(clinic_id, "practitioner", practitioner_id)
    )
    figures = await store.key_figures(connection, clinic_id, first, last, who, now)
    goals: dict[str, list[Target]] = {}
    for row in await store.targets(connection, clinic_id):
        goals.setdefault(row.kpi, []).append(_target(row))
    return Kpis(
        start=first,
        end=last,
        items=[
            KpiValue(
                kpi=figure.key,
                value=figure.found.value,
                unit=figure.unit,
                n=figure.found.n,
                interval_low=figure.found.low,
                interval_high=figure.found.high,
                definition_version=domain.DEFINITION_VERSION,
                population=figure.population,
                exclusions=figure.exclusions,
                targets=goals.get(figure.key, []),
            )
            for figure in figures
        ],
    )


@router.get("/interactions", dependencies=[Depends(require("kpis:read"))])
async def read_interactions(clinic_id: ClinicId, connection: ClinicConnection) -> Interactions:
    """Gives the number of messages, tasks, links, consents and so on, by what they were about."""
    rows = await store.interaction_counts(connection, clinic_id)
    return Interactions(
        items=[InteractionCount(kind=row.kind, code=row.code, count=row.count) for row in rows]
    )


@router.put("/targets/{kpi}", dependencies=[Depends(require("targets:write"))])
async def put_target(
    kpi: Kpi, body: TargetRequest, clinic_id: ClinicId, connection: ClinicConnection, now: Now
) -> Target:
    """Adds a version of the clinic's target for a key figure, under a named profile."""
    version = await store.set_target(
        connection,
        clinic_id,
        kpi=kpi,
        profile=body.profile,
        value=body.value,
        direction=body.direction,
        definition=body.definition,
        now=now,
    )
    return Target(kpi=kpi, version=version, **body.model_dump())


def _patient(clinic_id: UUID, identifier: str) -> UUID:
    return _canonical(clinic_id, "patient", identifier)


def _canonical(clinic_id: UUID, noun: str, identifier: str) -> UUID:
    try:
        return canonical_id(clinic_id, noun, identifier)
    except ValueError as error:
        raise Problem(422, "invalid-identifier", str(error)) from error


def _uuid_of(value: Any) -> UUID:
    try:
        return UUID(str(value))
    except ValueError as error:
        raise Problem(
            422,
            "invalid-cursor",
            "The cursor is not one that this list gave.",
            errors=[FieldError("/cursor", "not a cursor of this list")],
        ) from error


def _score(row: Any) -> Score:
    return Score(
        patient_id=row.patient_id,
        visits=row.visits,
        first_visit_at=row.first_visit_at,
        last_visit_at=row.last_visit_at,
        charged_minor=row.charged_minor,
        life_situation=row.segment_group,
        treatment_state=row.segment_standing,
        probability=row.probability,
        band=row.band,
        horizon_days=domain.HORIZON_DAYS,
        reasons=[Reason(code=code, text=reason_text(code)) for code in row.reasons],
        model_version=row.model_version,
        scored_at=row.scored_at,
    )


def _target(row: Any) -> Target:
    return Target(
        kpi=row.kpi,
        profile=row.profile,
        version=row.version,
        value=row.value,
        direction=row.direction,
        definition=row.definition,
    )
