"""Nothing early, unwanted or stale: patients to whom nothing may go, at the moment it would be due.

They are of a clinic of their own. Before the first fault one has refused, one is erased, the appointment of
one is cancelled and that of another moved, and engagement has applied all that; what they would have had
falls due amid the faults. Others, for whom the same falls due at the same moment, must get it: where nobody
gets anything, it proves nothing.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.chaos.findings import Findings
from tests.chaos.ledger import Clinic, Load, event_of, plan
from tests.chaos.rig import Platform

LEAD = timedelta(seconds=7)
"""From the registration to the moment at which everything falls due."""
MARGIN = timedelta(seconds=1)
"""Between the last thing applied and that moment."""
TURNS = 3
LIMIT_SECONDS = 30
DAY = timedelta(days=1)

# Odd numbers are reached by mail, even ones by text message. Those who must get something are: a letter
# that a fault interrupts may be lost and said to be uncertain, a text message is asked for again.
REFUSES_MAIL, ERASED, CANCELLED, EARLY, MOVED = 1, 3, 5, 7, 9
REFUSES_TEXT, VISITED, BOOKED = 2, 4, 6
PATIENTS = 9
VISITS = (REFUSES_MAIL, REFUSES_TEXT, ERASED, VISITED)
APPOINTMENTS = (CANCELLED, MOVED, BOOKED)
WHY = {
    REFUSES_MAIL: "refused",
    REFUSES_TEXT: "refused",
    ERASED: "is erased",
    CANCELLED: "has cancelled",
    MOVED: "has moved the appointment",
    EARLY: "is due only tomorrow",
}


@dataclass(frozen=True, slots=True)
class Unwanted:
    """The clinic, and the moment at which its messages fall due."""

    platform: Platform
    clinic: Clinic
    due: datetime

    def judge_deliveries(self, found: Findings) -> None:
        """Notes who has a message and must not, has it too early, or has none and must."""
        mine = [one for one in self.platform.providers.delivered() if self.clinic.owns(one.to)]
        for number, why in WHY.items():
            if any(one.to == self.clinic.recipient(number) for one in mine):
                found.wrong.append(f"{self.clinic.recipient(number)} has a message and {why}")
        for number in (VISITED, BOOKED):
            to = self.clinic.recipient(number)
            found.compare(f"messages of {to}", sum(one.to == to for one in mine), 1)
        if early := sum(one.at < self.due for one in mine):
            found.wrong.append(f"{early} messages left before they were due")

    async def judge_answers(self, client: httpx.AsyncClient, found: Findings) -> None:
        """Notes what was due and is not decided: its message could still come."""
        messages = await _messages(client, self.platform, self.clinic)
        open_ = [one for one in messages if one["status"] in {"scheduled", "sending"}]
        undecided = sum(datetime.fromisoformat(one["due_at"]) <= self.due for one in open_)
        if undecided:
            found.missing.append(f"{undecided} messages were due and are not decided")


async def arrange(platform: Platform, seed: int) -> Unwanted:
    """Registers the patients, and waits until engagement has applied what keeps messages from them.

    On a platform that is late a message may leave before its refusal: then another clinic is tried, with
    twice the time.
    """
    for turn in range(TURNS):
        (clinic,) = await platform.register_clinics(1, PATIENTS)
        unwanted = Unwanted(platform, clinic, datetime.now(UTC) + LEAD * 2**turn)
        await _arrange(unwanted, Load(platform.url("booking"), [clinic], seed))
        if datetime.now(UTC) < unwanted.due - MARGIN:
            return unwanted
    raise AssertionError(f"refusals are not applied within {LEAD * 2 ** (TURNS - 1)}")


async def _arrange(unwanted: Unwanted, load: Load) -> None:
    platform, clinic, due = unwanted.platform, unwanted.clinic, unwanted.due
    now = datetime.now(UTC)
    visits = [_visit(clinic, number, due - DAY) for number in VISITS]
    visits.append(_visit(clinic, EARLY, now))
    booked = [
        _appointment(clinic, number, "booked", now, plan(due + DAY, now)) for number in APPOINTMENTS
    ]
    await load.post_one(clinic, *visits, *booked)
    assert not load.ledger.refused, load.ledger.refused
    planned = len(visits) + len(booked)
    async with httpx.AsyncClient(timeout=10) as client:
        await _until(client, unwanted, lambda found: len(found) == planned, "the messages")
        later = now + timedelta(milliseconds=1)
        await load.post_one(
            clinic,
            _appointment(clinic, CANCELLED, "cancelled", later, {"by": "patient"}),
            _appointment(clinic, MOVED, "rescheduled", later, plan(due + 5 * DAY, now)),
        )
        erased = await client.delete(
            f"{platform.url('booking')}/v1/patients/P-{ERASED}", headers=_head(clinic)
        )
        erased.raise_for_status()
        for number, channel in ((REFUSES_MAIL, "email"), (REFUSES_TEXT, "sms")):
            refused = await client.put(
                f"{platform.url('engagement')}/v1/patients/P-{number}/consents",
                headers=_head(clinic),
                json={"consents": [_refusal(channel, now)]},
            )
            refused.raise_for_status()

        def is_applied(found: list[dict[str, Any]]) -> bool:
            moments = [datetime.fromisoformat(one["due_at"]) for one in found]
            is_erased = "patient_erased" in {one["reason"] for one in found}
            reminders = {one["due_at"] for one in found if one["journey"] == "reminder"}
            is_moved = any(moment > due + DAY for moment in moments)
            # That of the cancelled appointment is gone, that of the moved one stands elsewhere.
            return is_erased and is_moved and len(reminders) == len(APPOINTMENTS) - 1

        await _until(client, unwanted, is_applied, "the refusals")
    assert not load.ledger.refused, load.ledger.refused


async def _until(
    client: httpx.AsyncClient,
    unwanted: Unwanted,
    condition: Callable[[list[dict[str, Any]]], bool],
    what: str,
) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition(await _messages(client, unwanted.platform, unwanted.clinic)):
        if time.monotonic() > deadline:
            raise AssertionError(f"engagement never applied {what}")
        await asyncio.sleep(0.05)


async def _messages(
    client: httpx.AsyncClient, platform: Platform, clinic: Clinic
) -> list[dict[str, Any]]:
    answer = await client.get(
        f"{platform.url('engagement')}/v1/messages?limit=200", headers=_head(clinic)
    )
    answer.raise_for_status()
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def _head(clinic: Clinic) -> dict[str, str]:
    return {"Authorization": f"Bearer {clinic.token}"}


def _refusal(channel: str, now: datetime) -> dict[str, str]:
    return {
        "purpose": "care",
        "channel": channel,
        "state": "refused",
        "wording_version": "chaos-1",
        "source": "chaos",
        "given_at": now.isoformat(),
    }


def _visit(clinic: Clinic, number: int, completed_at: datetime) -> dict[str, Any]:
    data = {
        "visit_id": f"V-{number}",
        "patient_id": f"P-{number}",
        "kind": "consultation",
        "outcome": "treated",
        "completed_at": completed_at.isoformat(),
    }
    name = f"unwanted-visit-{number}"
    return event_of(clinic.id, name, "visit.completed", f"V-{number}", completed_at, data)


def _appointment(
    clinic: Clinic, number: int, what: str, at: datetime, data: dict[str, str]
) -> dict[str, Any]:
    ids = {"appointment_id": f"A-{number}", "patient_id": f"P-{number}"}
    name = f"unwanted-{what}-{number}"
    return event_of(clinic.id, name, f"appointment.{what}", f"A-{number}", at, ids | data)
