"""HTTP resources of contact tasks: the list, the next best one, attempts, the outcome."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.tasks import store, usecases
from engagement.tasks.domain import (
    SNOOZE_LIMIT,
    AttemptResult,
    InvalidSnoozeError,
    Outcome,
    ReleaseReasonMissingError,
    SnoozeLimitReachedError,
    Task,
    TaskClosedError,
    TaskNotFoundError,
)
from engagement.tasks.scripts import Script, script_for
from engagement.two_z.domain import ReleaseReason
from engagement.two_z.usecases import Release, release_by_task
from revisit_chassis.audit import record_audit
from revisit_chassis.http import ChassisDep, ClinicConnection, ClinicId, Now, require
from revisit_chassis.idempotency import IdempotencyKey, once
from revisit_chassis.identifiers import canonical_id
from revisit_chassis.pages import Cursor, Limit, Page, encode_cursor, position_of
from revisit_chassis.problem import DomainError, Problem
from revisit_chassis.tokens import Principal
from revisit_events.contracts.fields import NO_NUL, Time

PROBLEMS: Mapping[type[DomainError], tuple[int, str]] = {
    TaskNotFoundError: (404, "There is no such task"),
    TaskClosedError: (409, "The task is closed"),
    SnoozeLimitReachedError: (409, "The task cannot be put off again"),
    InvalidSnoozeError: (422, "The task cannot be put off to this moment"),
    ReleaseReasonMissingError: (422, "The outcome and the release do not fit"),
}

router = APIRouter(tags=["tasks"])
Reader = Annotated[Principal, Depends(require("tasks:read"))]
Writer = Annotated[Principal, Depends(require("tasks:write"))]
Minutes = Annotated[int, Field(ge=0, le=24 * 60, description="Working time it took, minutes")]
Word = Annotated[str, Query(min_length=1, max_length=100, pattern=NO_NUL)]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)]
RELEASES_SCOPE = "releases:write"


class ScriptView(BaseModel):
    """What to say, in the patient's language."""

    language: str
    goal: str
    opening: str
    question: str
    closing: str

    @classmethod
    def of(cls, script: Script) -> Self:
        """The script as it is answered."""
        return cls(
            language=script.language,
            goal=script.goal,
            opening=script.opening,
            question=script.question,
            closing=script.closing,
        )


class TaskView(BaseModel):
    """A contact task."""

    task_id: UUID
    patient_id: UUID
    reason: str
    subject_id: UUID
    state: Literal["open", "closed"]
    escalation: int
    opened_at: datetime
    due_at: datetime
    next_at: datetime
    expires_at: datetime
    attempts: int
    snoozes: int
    snoozes_left: int
    minutes: int
    outcome: str | None
    closed_at: datetime | None
    closed_by: str | None
    script: ScriptView


class ClaimRequest(BaseModel):
    """Which task the caller wants."""

    model_config = ConfigDict(extra="forbid")

    reasons: list[Name] = Field(
        default=[], max_length=20, description="Only of these reasons; of any when empty"
    )


class AttemptRequest(BaseModel):
    """How an attempt to reach the patient ended."""

    model_config = ConfigDict(extra="forbid")

    result: AttemptResult
    minutes: Minutes = 0
    next_at: Time | None = Field(None, description="Puts the task off, three times at most")


class OutcomeRequest(BaseModel):
    """What came of the task."""

    model_config = ConfigDict(extra="forbid")

    outcome: Outcome
    minutes: Minutes = 0
    call_back_at: Time | None = Field(None, description="With `call_back`; else tomorrow")
    release_reason: ReleaseReason | None = Field(None, description="Needed with `released`")
    approved_by: Name | None = Field(
        None, description="Who approved the release; the caller when left out"
    )


@router.get("/v1/tasks")
async def list_tasks(
    *,
    connection: ClinicConnection,
    clinic_id: ClinicId,
    _: Reader,
    state: Literal["open", "closed", "all"] = "open",
    reason: Word | None = None,
    patient_id: Annotated[str, Query(min_length=1, max_length=64)] | None = None,
    due_before: Time | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[TaskView]:
    """Tasks by due time."""
    wanted = store.TaskFilter(
        is_open={"open": True, "closed": False}.get(state),
        reason=reason,
        patient_id=canonical_id(clinic_id, "patient", patient_id) if patient_id else None,
        due_before=due_before,
    )
    after = _position(cursor) if cursor else None
    tasks = await store.page(connection, clinic_id, wanted, after=after, limit=limit + 1)
    last = tasks[limit - 1] if len(tasks) > limit else None
    return Page(
        items=await _views(connection, clinic_id, tasks[:limit]),
        next=encode_cursor((last.due_at, last.task_id)) if last else None,
    )


@router.get("/v1/tasks/{task_id}")
async def get_task(
    connection: ClinicConnection, clinic_id: ClinicId, _: Reader, task_id: UUID
) -> TaskView:
    """One task with its script."""
    task = await store.load(connection, clinic_id, task_id)
    if task is None:
        raise TaskNotFoundError
    return (await _views(connection, clinic_id, [task]))[0]


@router.post(
    "/v1/task-claims",
    response_model=TaskView,
    responses={204: {"description": "No task is due and unclaimed"}},
)
async def claim_next_task(
    *,
    request: Request,
    state: ChassisDep,
    clinic_id: ClinicId,
    caller: Writer,
    now: Now,
    key: IdempotencyKey = None,
    wanted: ClaimRequest | None = None,
) -> Response:
    """The next best task, which nobody else gets for half an hour."""

    async def claim(connection: AsyncConnection) -> Response:
        task = await usecases.claim_task(
            connection,
            clinic_id,
            reasons=wanted.reasons if wanted else (),
            by=caller.sub,
            now=now,
            # A claim is a lease, and leases run in real time.
            real_now=datetime.now(UTC),
        )
        if task is None:
            return Response(status_code=status.HTTP_204_NO_CONTENT)
        return await _answer(connection, task)

    return await once(request, state.database, clinic_id, key, claim)


@router.post("/v1/tasks/{task_id}/attempts", status_code=201, response_model=TaskView)
async def record_attempt(
    *,
    request: Request,
    state: ChassisDep,
    clinic_id: ClinicId,
    caller: Writer,
    now: Now,
    task_id: UUID,
    attempt: AttemptRequest,
    key: IdempotencyKey = None,
) -> Response:
    """Records an attempt and, with `next_at`, puts the task off."""

    async def record(connection: AsyncConnection) -> Response:
        task = await usecases.record_attempt(
            connection,
            clinic_id,
            task_id,
            result=attempt.result,
            minutes=attempt.minutes,
            next_at=attempt.next_at,
            by=caller.sub,
            now=now,
        )
        return await _answer(connection, task, status.HTTP_201_CREATED)

    return await once(request, state.database, clinic_id, key, record)


@router.post("/v1/tasks/{task_id}/outcome", response_model=TaskView)
async def state_outcome(
    *,
    request: Request,
    state: ChassisDep,
    clinic_id: ClinicId,
    caller: Writer,
    now: Now,
    task_id: UUID,
    body: OutcomeRequest,
    key: IdempotencyKey = None,
) -> Response:
    """Closes the task with what came of it; `call_back` puts it off instead."""
    if (body.outcome is Outcome.RELEASED) != (body.release_reason is not None):
        raise ReleaseReasonMissingError
    if body.release_reason and RELEASES_SCOPE not in caller.scopes:
        raise Problem(403, "missing-scope", f"A release needs the scope {RELEASES_SCOPE}.")

    async def finish(connection: AsyncConnection) -> Response:
        task, is_changed = await _finish(connection, clinic_id, task_id, body, caller.sub, now=now)
        if is_changed:
            await record_audit(
                connection,
                clinic_id=clinic_id,
                actor=caller.sub,
                action=f"task.{body.outcome}",
                record=f"task:{task_id}",
                at=now,
                correlation_id=request.scope.get("correlation_id"),
            )
        return await _answer(connection, task)

    return await once(request, state.database, clinic_id, key, finish)


async def _finish(
    connection: AsyncConnection,
    clinic_id: UUID,
    task_id: UUID,
    body: OutcomeRequest,
    caller: str,
    *,
    now: datetime,
) -> tuple[Task, bool]:
    if body.release_reason is not None:
        release = Release(body.release_reason, body.approved_by or caller, caller)
        return await release_by_task(
            connection, clinic_id, task_id, release, minutes=body.minutes, now=now
        )
    return await usecases.finish_task(
        connection,
        clinic_id,
        task_id,
        outcome=body.outcome,
        minutes=body.minutes,
        call_back_at=body.call_back_at,
        by=caller,
        now=now,
    )


async def _answer(connection: AsyncConnection, task: Task, code: int = 200) -> Response:
    (view,) = await _views(connection, task.clinic_id, [task])
    return JSONResponse(view.model_dump(mode="json"), code)


async def _views(
    connection: AsyncConnection, clinic_id: UUID, tasks: Sequence[Task]
) -> list[TaskView]:
    clinic_language, languages = await store.languages(
        connection, clinic_id, {task.patient_id for task in tasks}
    )
    return [_view(task, languages.get(task.patient_id), clinic_language) for task in tasks]


def _view(task: Task, *languages: str | None) -> TaskView:
    return TaskView(
        task_id=task.task_id,
        patient_id=task.patient_id,
        reason=task.reason,
        subject_id=task.subject_id,
        state="open" if task.is_open else "closed",
        escalation=task.escalation,
        opened_at=task.opened_at,
        due_at=task.due_at,
        next_at=task.next_at,
        expires_at=task.expires_at,
        attempts=task.attempts,
        snoozes=task.snoozes,
        snoozes_left=SNOOZE_LIMIT - task.snoozes,
        minutes=task.minutes,
        outcome=task.outcome,
        closed_at=task.closed_at,
        closed_by=task.closed_by,
        script=ScriptView.of(script_for(task.reason, *languages)),
    )


_POSITION = TypeAdapter(tuple[Time, UUID])


def _position(cursor: str) -> tuple[datetime, UUID]:
    return position_of(cursor, 2, _POSITION)
