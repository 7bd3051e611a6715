"""HTTP resource of a clinic's survey: its wording and the rule that opens cases."""

from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.surveys import usecases
from feedback.surveys.domain import POST_VISIT, CaseRule, Survey, Wording
from revisit_chassis.audit import record_audit
from revisit_chassis.etag import IfMatch, check_if_match, etag
from revisit_chassis.http import ClinicConnection, ClinicId, Now, require
from revisit_chassis.problem import Problem
from revisit_chassis.tokens import Principal
from revisit_events.contracts.fields import NO_NUL

router = APIRouter(tags=["surveys"])
Reader = Annotated[Principal, Depends(require("surveys:read"))]
Writer = Annotated[Principal, Depends(require("surveys:write"))]
Key = Annotated[
    str, Path(min_length=1, max_length=64, pattern=NO_NUL, description=f"`{POST_VISIT}`")
]
Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")]


class WordingView(BaseModel):
    """The questions in one language."""

    model_config = ConfigDict(extra="forbid")

    title: Line
    csat_question: Line
    nps_question: Line
    comment_label: Line


class CaseRuleView(BaseModel):
    """Which answers open a case: one of the two is enough; 0 or -1 switches a limit off."""

    model_config = ConfigDict(extra="forbid")

    csat_at_most: Annotated[int, Field(ge=0, le=5)] = 2
    nps_at_most: Annotated[int, Field(ge=-1, le=10)] = 6


class SurveyDefinition(BaseModel):
    """A survey as a clinic defines it."""

    model_config = ConfigDict(extra="forbid")

    wording: dict[Literal["ru", "en"], WordingView] = Field(min_length=1)
    case_rule: CaseRuleView = CaseRuleView()

    def as_survey(self, key: str) -> Survey:
        """The definition as the domain knows it."""
        return Survey(
            key=key,
            wording={
                language: Wording(**wording.model_dump())
                for language, wording in sorted(self.wording.items())
            },
            case_rule=CaseRule(**self.case_rule.model_dump()),
        )


class SurveyView(SurveyDefinition):
    """A survey with its version; version 0 is the one every clinic starts with."""

    key: str
    version: int

    @classmethod
    def of(cls, survey: Survey) -> Self:
        """The survey as it is answered."""
        return cls.model_validate(
            {
                "key": survey.key,
                "version": survey.version,
                "wording": {
                    language: {
                        "title": wording.title,
                        "csat_question": wording.csat_question,
                        "nps_question": wording.nps_question,
                        "comment_label": wording.comment_label,
                    }
                    for language, wording in survey.wording.items()
                },
                "case_rule": {
                    "csat_at_most": survey.case_rule.csat_at_most,
                    "nps_at_most": survey.case_rule.nps_at_most,
                },
            }
        )


@router.get("/v1/surveys/{key}")
async def get_survey(
    *, response: Response, connection: ClinicConnection, clinic_id: ClinicId, _: Reader, key: Key
) -> SurveyView:
    """A survey of the clinic as it stands."""
    survey = await usecases.current_survey(connection, clinic_id, key)
    response.headers["ETag"] = etag(survey.version)
    return SurveyView.of(survey)


@router.put("/v1/surveys/{key}")
async def put_survey(
    *,
    request: Request,
    response: Response,
    connection: ClinicConnection,
    clinic_id: ClinicId,
    caller: Writer,
    now: Now,
    key: Key,
    body: SurveyDefinition,
    if_match: IfMatch = None,
) -> SurveyView:
    """Makes a new version of the survey; links that are out already show it from now on."""
    current = await usecases.current_survey(connection, clinic_id, key)
    check_if_match(if_match, current.version)
    changed = await usecases.change_survey(
        connection, clinic_id, current, body.as_survey(key), by=caller.sub, now=now
    )
    if changed is None:
        raise Problem(412, "changed-meanwhile", "It was changed by somebody else; read it again.")
    await _audit(connection, request, caller, clinic_id, changed, now=now)
    response.headers["ETag"] = etag(changed.version)
    return SurveyView.of(changed)


async def _audit(
    connection: AsyncConnection,
    request: Request,
    caller: Principal,
    clinic_id: UUID,
    changed: Survey,
    *,
    now: Now,
) -> None:
    await record_audit(
        connection,
        clinic_id=clinic_id,
        actor=caller.sub,
        action="survey.change",
        record=f"survey:{changed.key}:{changed.version}",
        at=now,
        correlation_id=request.scope.get("correlation_id"),
    )
