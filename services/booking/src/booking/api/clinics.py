"""`/v1/clinics`: a platform registers its clinics, a clinic's admin changes its own."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from booking.api.calls import answer_of
from booking.api.models import ClinicAnswer, ClinicBody
from booking.domain.errors import NotFound
from booking.domain.patient import Clinic
from booking.store import clinics
from booking.usecases.clinics import put_clinic as register
from revisit_chassis.audit import record_audit
from revisit_chassis.etag import IfMatch, check_if_match
from revisit_chassis.http import ChassisDep, Now, require
from revisit_chassis.problem import Problem
from revisit_chassis.tokens import Principal

router = APIRouter()

_may_write = require("platform:clinics", "clinics:write")
_may_read = require("platform:clinics", "clinics:read")


@router.put("/v1/clinics/{clinic_id}", response_model=ClinicAnswer)
async def put_clinic(
    clinic_id: UUID,
    body: ClinicBody,
    request: Request,
    state: ChassisDep,
    now: Now,
    if_match: IfMatch = None,
) -> Response:
    """Registers a clinic (201) or changes its particulars (200)."""
    principal = _check(await _may_write(request), clinic_id)
    async with state.database.transaction([clinic_id]) as connection:
        if if_match is not None:
            before = await clinics.clinic(connection, clinic_id, for_update=True)
            check_if_match(if_match, before.version if before else None)
        clinic, is_new = await register(connection, clinic_id, **body.model_dump(), now=now)
        await record_audit(
            connection,
            clinic_id=clinic_id,
            actor=principal.sub,
            action="clinic.put",
            record=f"clinic:{clinic_id}",
            at=now,
            correlation_id=request.scope.get("correlation_id"),
        )
    status = 201 if is_new else 200
    return answer_of(_clinic_answer(clinic), status=status, version=clinic.version)


@router.get("/v1/clinics/{clinic_id}", response_model=ClinicAnswer)
async def get_clinic(clinic_id: UUID, request: Request, state: ChassisDep) -> Response:
    """A clinic as it is registered."""
    _check(await _may_read(request), clinic_id)
    async with state.database.transaction([clinic_id]) as connection:
        clinic = await clinics.clinic(connection, clinic_id)
    if clinic is None:
        raise NotFound("clinic")
    return answer_of(_clinic_answer(clinic), version=clinic.version)


def _check(principal: Principal, clinic_id: UUID) -> Principal:
    """Lets a platform token act on any clinic and a clinic's token on its own."""
    if principal.clinic_id == clinic_id:
        return principal
    if principal.clinic_id is None and "platform:clinics" in principal.scopes:
        return principal
    raise Problem(403, "other-clinic", "The token belongs to another clinic.")


def _clinic_answer(clinic: Clinic) -> ClinicAnswer:
    return ClinicAnswer(
        clinic_id=clinic.clinic_id,
        name=clinic.name,
        time_zone=clinic.time_zone,
        language=clinic.language,
        country=clinic.country,
        currency=clinic.currency,
        live_from=clinic.live_from,
    )
