"""Pauses: stop the messages of a clinic, a journey or a channel at once."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.dialects.postgresql import insert

from engagement.journeys.domain import FOLLOW_UP, REMINDER
from engagement.messages.domain import Channel
from engagement.pauses.tables import pause
from revisit_chassis.audit import record_audit
from revisit_chassis.http import ClinicConnection, ClinicId, CurrentPrincipal, Now, require
from revisit_events.contracts.fields import NO_NUL

router = APIRouter(tags=["pauses"])
# Only what exists: an emergency stop with a slip of the pen must not look as if it stopped something.
SCOPES = (
    "clinic",
    *(f"journey:{journey}" for journey in (FOLLOW_UP, REMINDER)),
    *(f"channel:{channel}" for channel in Channel),
)
Scope = Annotated[
    str, Path(pattern=f"^({'|'.join(SCOPES)})$", description="One of " + ", ".join(SCOPES))
]


class PauseRequest(BaseModel):
    """Why messages are stopped."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=NO_NUL)] = "paused by staff"


class Pause(BaseModel):
    """What is stopped since when, and by whom."""

    scope: str
    reason: str
    paused_at: datetime
    paused_by: str


@router.put("/v1/pauses/{scope}", dependencies=[Depends(require("pauses:write"))])
async def put_pause(
    scope: Scope,
    connection: ClinicConnection,
    clinic_id: ClinicId,
    caller: CurrentPrincipal,
    now: Now,
    body: PauseRequest | None = None,
) -> Pause:
    """Stops the messages of a scope; those that are due wait, or expire."""
    row = {
        "clinic_id": clinic_id,
        "scope": scope,
        "reason": (body or PauseRequest()).reason,
        "paused_at": now,
        "paused_by": caller.sub,
    }
    await connection.execute(
        insert(pause)
        .values(row)
        .on_conflict_do_update(
            index_elements=["clinic_id", "scope"],
            set_={name: row[name] for name in ("reason", "paused_at", "paused_by")},
        )
    )
    await _note(connection, clinic_id, caller, "pause.set", scope, now)
    return Pause(scope=scope, reason=str(row["reason"]), paused_at=now, paused_by=caller.sub)


@router.delete(
    "/v1/pauses/{scope}", status_code=204, dependencies=[Depends(require("pauses:write"))]
)
async def delete_pause(
    scope: Scope,
    connection: ClinicConnection,
    clinic_id: ClinicId,
    caller: CurrentPrincipal,
    now: Now,
) -> Response:
    """Lets messages of a scope go again; what was not paused is no error."""
    await connection.execute(
        pause.delete().where(pause.c.clinic_id == clinic_id, pause.c.scope == scope)
    )
    await _note(connection, clinic_id, caller, "pause.lift", scope, now)
    return Response(status_code=204)


async def _note(
    connection: ClinicConnection,
    clinic_id: ClinicId,
    caller: CurrentPrincipal,
    action: str,
    scope: str,
    now: datetime,
) -> None:
    await record_audit(
        connection,
        clinic_id=clinic_id,
        actor=caller.sub,
        action=action,
        record=f"pause:{scope}",
        at=now,
    )
