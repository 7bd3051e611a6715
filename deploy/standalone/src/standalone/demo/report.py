"""What came of a replay: asked of the platform's own pages, counted, and put into words."""

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from revisit_events.catalog import TOPICS, current_type
from standalone.demo.client import Client
from standalone.demo.happenings import Timeline

SENT = re.compile(r'^relay_sent_total\{service="[^"]+",topic="(?P<topic>[^"]+)"\} (?P<count>\S+)$')
PAGE = 200


@dataclass(slots=True)
class Report:
    """The summary, as `--report` writes it. Rates are shares from 0 to 1, unrounded."""

    patients: int
    appointments: int
    visits: int
    no_show_rate: float | None
    events: dict[str, int]
    messages: dict[str, int]
    tasks: dict[str, Any]
    two_z: dict[str, int]
    segments: dict[str, dict[str, int]]
    at_risk: list[dict[str, Any]]
    kpis: dict[str, Any] = field(default_factory=dict)
    answers: int = 0
    reminders_for_past_or_cancelled: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Gives it as JSON can hold it."""
        return asdict(self)


class Reader:
    """Asks the platform.

    Args:
        client: To its origin.
        token: Of the clinic.
    """

    def __init__(self, client: Client, token: str) -> None:
        self._client = client
        self._token = token

    async def report(self, timeline: Timeline, answers: int) -> Report:
        """Gives the report of a replay.

        Args:
            timeline: What was replayed.
            answers: Surveys that patients answered.
        """
        kpis = {item["kpi"]: item for item in (await self._get("/scoring/v1/kpis"))["items"]}
        interactions = (await self._get("/scoring/v1/interactions"))["items"]
        segments: dict[str, dict[str, int]] = {}
        for item in (await self._get("/scoring/v1/segments"))["items"]:
            segments.setdefault(item["axis"], {})[item["key"]] = item["patients"]
        two_z = await self._get("/engagement/v1/two-z")
        return Report(
            patients=timeline.patients,
            appointments=timeline.appointments,
            visits=int(kpis["visits"]["value"]),
            no_show_rate=kpis["no_show_rate"]["value"],
            events=await self._events(),
            messages={
                item["code"]: item["count"]
                for item in interactions
                if item["kind"] == "message.sent"
            },
            tasks=await self._tasks(),
            two_z={
                name: two_z[name]
                for name in ("in_scope", "booked", "task_open", "released", "violations")
            },
            segments=segments,
            at_risk=[
                {
                    "patient_id": item["patient_id"],
                    "probability": item["probability"],
                    "reasons": [reason["code"] for reason in item["reasons"]],
                }
                for item in (await self._get("/scoring/v1/at-risk?limit=10"))["items"]
            ],
            kpis={name: {"value": item["value"], "n": item["n"]} for name, item in kpis.items()},
            answers=answers,
            reminders_for_past_or_cancelled=await self._pointless_reminders(timeline),
        )

    async def _events(self) -> dict[str, int]:
        """Counts the events by type, from the relays' own metrics."""
        answer = await self._client.request("GET", "/metrics")
        counts: Counter[str] = Counter()
        for line in answer.body.decode().splitlines():
            if (found := SENT.match(line)) is not None:
                counts[_type_of(found["topic"])] += int(float(found["count"]))
        return dict(sorted(counts.items()))

    async def _tasks(self) -> dict[str, Any]:
        reasons: Counter[str] = Counter()
        async for item in self._pages("/engagement/v1/tasks?state=open"):
            reasons[item["reason"]] += 1
        return {"open": reasons.total(), "by_reason": dict(sorted(reasons.items()))}

    async def _pointless_reminders(self, timeline: Timeline) -> int:
        """Counts reminders sent for an appointment that was over, cancelled or missed by then."""
        pointless = 0
        async for item in self._pages("/engagement/v1/messages?journey=reminder&status=sent"):
            if timeline.was_pointless(item["subject_id"], datetime.fromisoformat(item["sent_at"])):
                pointless += 1
        return pointless

    async def _pages(self, path: str) -> Any:
        cursor = ""
        while True:
            page = await self._get(f"{path}&limit={PAGE}{cursor}")
            for item in page["items"]:
                yield item
            if page["next"] is None:
                return
            cursor = f"&cursor={page['next']}"

    async def _get(self, path: str) -> Any:
        answer = await self._client.request("GET", path, token=self._token)
        if answer.status != 200:
            raise RuntimeError(f"GET {path} answered {answer.status}: {answer.body.decode()}")
        return answer.json()


def _type_of(topic: str) -> str:
    return current_type(topic) if topic in TOPICS else topic


def as_text(report: Report) -> str:
    """Gives the report in the words of a clinic's owner."""
    messages = sum(report.messages.values())
    lines = [
        "",
        "What came of it",
        "",
        f"  Patients                 {report.patients:>8,}",
        f"  Appointments             {report.appointments:>8,}",
        f"  Visits                   {report.visits:>8,}",
        f"  No-show rate             {_percent(report.no_show_rate):>8}",
        f"  Follow-ups sent          {report.messages.get('follow-up', 0):>8,}"  # noqa: ISC004
        f"   answered {report.answers:,}",
        f"  Reminders sent           {report.messages.get('reminder', 0):>8,}"  # noqa: ISC004
        f"   for a past, cancelled or missed appointment {report.reminders_for_past_or_cancelled:,}",
        f"  Messages in all          {messages:>8,}",
        "",
        f"  Open contact tasks       {report.tasks['open']:>8,}",
        *(f"    {reason:<23}{count:>8,}" for reason, count in report.tasks["by_reason"].items()),
        "",
        "  After each visit: a next appointment, a contact task, or a release (2Z)",
        f"    in scope               {report.two_z['in_scope']:>8,}",
        f"    next appointment       {report.two_z['booked']:>8,}",
        f"    open contact task      {report.two_z['task_open']:>8,}",
        f"    released               {report.two_z['released']:>8,}",
        f"    violations             {report.two_z['violations']:>8,}",
    ]
    for axis, counts in report.segments.items():
        lines += ["", f"  Patients by {axis}"]
        lines += [f"    {key:<23}{count:>8,}" for key, count in counts.items() if count]
    lines += ["", "  Most at risk of not coming back"]
    lines += [
        f"    {item['patient_id']}  {_percent(item['probability'])}  {', '.join(item['reasons'])}"
        for item in report.at_risk
    ]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "none yet" if share is None else f"{share:.1%}"
