"""What came of a replay: asked of the platform's own pages, counted, and put into words."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from standalone.demo.client import Client
from standalone.demo.timeline import Timeline
from standalone.demo.words import AXES, SEGMENTS, TASKS, words_for

PAGE = 200
WIDTH = 31


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
    ahead: int = 0
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

    async def report(
        self, timeline: Timeline, *, answers: int, events: dict[str, int], now: datetime
    ) -> Report:
        """Gives the report of a replay.

        Args:
            timeline: What was replayed.
            answers: Surveys that patients answered.
            events: How many of each type the services have published.
            now: Business time at its end.
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
            visits=int(kpis["visits"]["value"] or 0),
            no_show_rate=kpis["no_show_rate"]["value"],
            events=events,
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
                    # The clinic's own identifier: what its staff can look up.
                    "patient_id": timeline.identifier_of(item["patient_id"]),
                    "probability": item["probability"],
                    "reasons": [reason["text"]["en"] for reason in item["reasons"]],
                }
                for item in (await self._get("/scoring/v1/at-risk?limit=10"))["items"]
            ],
            kpis={name: {"value": item["value"], "n": item["n"]} for name, item in kpis.items()},
            answers=answers,
            ahead=timeline.ahead(now),
            reminders_for_past_or_cancelled=await self._pointless_reminders(timeline),
        )

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


def as_text(report: Report) -> str:
    """Gives the report in the words of a clinic's owner."""
    sent, two_z = report.messages, report.two_z
    lines = [
        "",
        "What came of it",
        "",
        _line("Patients", report.patients),
        _line("Appointments", report.appointments, f"{report.ahead:,} of them still ahead"),
        _line("Visits", report.visits),
        f"  {'No-show rate':<{WIDTH}}{_percent(report.no_show_rate):>8}",
        _line("Follow-ups sent", sent.get("follow-up", 0), f"answered {report.answers:,}"),
        _line(
            "Reminders sent",
            sent.get("reminder", 0),
            "for a past, cancelled or missed appointment "
            f"{report.reminders_for_past_or_cancelled:,}",
        ),
        "",
        _line("Open contact tasks", report.tasks["open"]),
        *_table(TASKS, report.tasks["by_reason"]),
        "",
        "  After each visit: a next appointment, a contact task, or a release (2Z)",
        _line("  patients in scope", two_z["in_scope"]),
        _line("  with a next appointment", two_z["booked"]),
        _line("  with an open contact task", two_z["task_open"]),
        _line("  released for a stated reason", two_z["released"]),
        _line("  violations", two_z["violations"]),
    ]
    for axis, counts in report.segments.items():
        lines += ["", f"  Patients by {words_for(AXES, axis)}", *_table(SEGMENTS, counts)]
    lines += ["", "  Most at risk of not coming back by themselves"]
    lines += [
        f"    {item['patient_id']:<20}{_risk(item['probability']):>8}  {', '.join(item['reasons'])}"
        for item in report.at_risk
    ]
    return "\n".join(lines)


def _table(names: Mapping[str, str], counts: Mapping[str, int]) -> list[str]:
    return [
        _line(f"  {words_for(names, code)}", count)
        for code, count in sorted(counts.items(), key=lambda found: -found[1])
        if count
    ]


def _line(name: str, count: int, note: str = "") -> str:
    return f"  {name:<{WIDTH}}{count:>8,}   {note}".rstrip()


def _percent(share: float | None) -> str:
    if share is None:
        return "none yet"
    return f"{share:.1%}"


def _risk(probability: float) -> str:
    # Nobody is lost for sure: what rounds to 100 % reads as more than 99.
    return "over 99%" if probability > 0.99 else f"{probability:.0%}"
