"""`/v1/waiting-times`: how long patients wait from arrival to start (mission B08)."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from booking.api.calls import Call, answer_of, call_with
from booking.api.fields import Moment, OwnId
from booking.api.models import PractitionerWaitingAnswer, WaitingAnswer, WaitingTimesAnswer
from booking.domain.visit import WAITING_DEFINITION, WAITING_TARGET_MINUTES
from booking.store import clinics
from booking.store.waiting import Waiting, waiting_times
from revisit_chassis.http import ClinicConnection

PERIOD = timedelta(days=30)
POPULATION = "completed visits whose arrival and start are recorded, start not before arrival"

router = APIRouter()

Reading = Annotated[Call, Depends(call_with("kpis:read"))]


@router.get("/v1/waiting-times", response_model=WaitingTimesAnswer)
async def get_waiting_times(
    call: Reading,
    connection: ClinicConnection,
    completed_from: Annotated[Moment | None, Query()] = None,
    completed_before: Annotated[Moment | None, Query()] = None,
    practitioner_id: Annotated[OwnId | None, Query()] = None,
) -> Response:
    """Mean wait and share under 15 minutes, overall and by practitioner; the last 30 days if not said."""
    before = completed_before or call.now
    begin = completed_from or before - PERIOD
    only = call.names.optional_id_of("practitioner", practitioner_id)
    found = await waiting_times(
        connection, call.clinic_id, begin, before, WAITING_TARGET_MINUTES, only
    )
    ids = [
        ("practitioner", each.practitioner_id)
        for each in found.by_practitioner
        if each.practitioner_id
    ]
    named = await clinics.identifiers(connection, call.clinic_id, ids)
    answer = WaitingTimesAnswer(
        **_numbers(found.overall),
        definition_version=WAITING_DEFINITION,
        population=POPULATION,
        excluded=found.excluded,
        target_mean_minutes=WAITING_TARGET_MINUTES,
        completed_from=begin,
        completed_before=before,
        by_practitioner=[
            PractitionerWaitingAnswer(
                **_numbers(each),
                practitioner_id=each.practitioner_id,
                practitioner_identifier=named.get(("practitioner", each.practitioner_id))
                if each.practitioner_id
                else None,
            )
            for each in found.by_practitioner
        ],
    )
    return answer_of(answer)


def _numbers(waiting: Waiting | None) -> dict[str, object]:
    if waiting is None:
        return WaitingAnswer(n=0, mean_minutes=None, share_under_15_minutes=None).model_dump()
    return {
        "n": waiting.n,
        "mean_minutes": waiting.mean_minutes,
        "share_under_15_minutes": waiting.share_under_target,
    }
