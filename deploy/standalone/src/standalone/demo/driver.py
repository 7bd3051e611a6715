"""Replays a clinic's life through the public HTTP API on the simulated clock.

Registers the clinic, tells of patients and events in batches, lets patients answer what reached them, and
moves the clock chunk by chunk. A clock that is further already (the data folder was used before) stays.
"""

import asyncio
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import IO, Any
from uuid import UUID

from standalone.demo.client import Answer, Client
from standalone.demo.happenings import Person
from standalone.demo.progress import Progress
from standalone.demo.simulator import CSAT_SHARES
from standalone.demo.timeline import Happening, Timeline

BATCH = 200
BATCH_TYPE = "application/cloudevents-batch+json"
FORM_TYPE = "application/x-www-form-urlencoded"
CHUNK = timedelta(hours=12)
BUSY_ATTEMPTS = 20
BUSY_PAUSE_SECONDS = (0.1, 0.5)
AFTERMATH_STEP = timedelta(days=1)
TAKEN = frozenset({200, 303})
GONE = frozenset({404, 409, 410})
"""A link expires, and an appointment that was cancelled meanwhile cannot be confirmed."""
SURVEY_LINK = re.compile(r"/feedback/s/[\w-]+")
LINK = re.compile(r"https?://\S+")
CONFIRM_LINK = re.compile(r"/booking/a/[\w-]+")
SHOWN_START = re.compile(rb'name="starts_at" value="([^"]+)"')


class Refused(RuntimeError):
    """The platform refused what the demo sent."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a replay goes."""

    clinic_id: UUID
    clinic: dict[str, Any]
    answer_share: float
    confirm_share: float
    ends_at: datetime
    repeat: int = 1
    is_shuffled: bool = False


@dataclass(slots=True)
class Tally:
    """What the driver itself sent and saw."""

    events: int = 0
    duplicates: int = 0
    answers: int = 0


class Mail:
    """Reads what the catchers append, from where it stopped.

    Args:
        folder: Of the catchers.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = (folder / "mails.jsonl", folder / "sms.jsonl")
        self._files: dict[Path, IO[str]] = {}

    def fresh(self) -> Iterable[dict[str, Any]]:
        """Gives the messages since the last time."""
        for path in self._paths:
            if path not in self._files and path.exists():
                self._files[path] = path.open(encoding="utf-8")
            if path in self._files:
                for line in self._files[path]:
                    yield json.loads(line)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


class Driver:
    """Drives one replay.

    Args:
        client: To the platform's origin.
        timeline: What happens.
        plan: How.
        platform_token: Registers the clinic and moves the clock.
        clinic_token: Of the clinic's system.
        mail: What patients received.
    """

    def __init__(
        self,
        client: Client,
        timeline: Timeline,
        plan: Plan,
        *,
        platform_token: str,
        clinic_token: str,
        mail: Mail,
    ) -> None:
        self.tally = Tally()
        self._client = client
        self._timeline = timeline
        self._plan = plan
        self._platform_token = platform_token
        self._token = clinic_token
        self._mail = mail
        self._random = Random()  # noqa: S311  (when to try again decides nothing)

    async def run(self) -> datetime:
        """Replays everything; gives the time at which it ends."""
        await self._put(
            f"/booking/v1/clinics/{self._plan.clinic_id}", self._plan.clinic, platform=True
        )
        now = await self._now()
        progress = Progress(self._timeline.happenings * self._plan.repeat, "events")
        for end, happenings in self._timeline.chunks(CHUNK):
            # The past of the chunk is empty: the clock may pass it at once.
            now = await self._advance(now, end - CHUNK)
            for _ in range(self._plan.repeat):
                await self._tell(happenings)
            now = await self._advance(now, min(end, self._plan.ends_at))
            await self._react()
            progress.add(len(happenings) * self._plan.repeat, f"{end:%d %b %Y}")
        await self._wait_for_the_end(now)
        return await self._now()

    async def _wait_for_the_end(self, now: datetime) -> None:
        """Lets the time pass in which messages of the last days are due."""
        left = max(0, math.ceil((self._plan.ends_at - now) / AFTERMATH_STEP))
        for _ in Progress(left, "days of the aftermath").over(range(left)):
            now = await self._advance(now, min(self._plan.ends_at, now + AFTERMATH_STEP))
            await self._react()

    async def _now(self) -> datetime:
        answer = await self._client.request("GET", "/clock")
        if answer.status != 200:
            raise Refused(f"the clock answered {answer.status}: {answer.body.decode()}")
        return datetime.fromisoformat(answer.json()["now"])

    async def _advance(self, now: datetime, to: datetime) -> datetime:
        seconds = int((to - now).total_seconds())
        if seconds <= 0:
            return now
        answer = await self._client.request(
            "POST",
            "/clock",
            token=self._platform_token,
            body={"advance": f"PT{seconds}S"},
        )
        if answer.status != 200:
            raise Refused(f"the clock answered {answer.status}: {answer.body.decode()}")
        return datetime.fromisoformat(answer.json()["now"])

    async def _patiently(self, method: str, path: str, **request: Any) -> Answer:
        """Sends a request again while the platform says that it is busy: 503 has changed nothing.

        Told out of order and all at once, events of the same patients wait for one another, and
        PostgreSQL ends a wait that goes round in a circle.
        """
        answer = await self._client.request(method, path, **request)
        for attempt in range(1, BUSY_ATTEMPTS):
            if answer.status != 503:
                break
            # Apart from one another, or they would meet again.
            await asyncio.sleep(attempt * self._random.uniform(*BUSY_PAUSE_SECONDS))
            answer = await self._client.request(method, path, **request)
        return answer

    async def _tell(self, happenings: Sequence[Happening]) -> None:
        """Posts what the clinic's software tells; shuffled, patients and events at once."""
        people = [found.person for found in happenings if found.person is not None]
        events = [found.event for found in happenings if found.event is not None]
        if self._plan.is_shuffled:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._post(events))
                group.create_task(self._register(people))
        else:
            await self._register(people)
            await self._post(events)

    async def _register(self, people: Sequence[Person]) -> None:
        async with asyncio.TaskGroup() as group:
            for person in people:
                path = f"/booking/v1/patients/{person.id}"
                group.create_task(self._put(path, person.as_request()))

    async def _put(self, path: str, body: dict[str, Any], *, platform: bool = False) -> None:
        token = self._platform_token if platform else self._token
        answer = await self._patiently("PUT", path, token=token, body=body)
        if answer.status not in {200, 201}:
            raise Refused(f"PUT {path} answered {answer.status}: {answer.body.decode()}")

    async def _post(self, events: Sequence[dict[str, Any]]) -> None:
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(events), BATCH):
                group.create_task(self._post_batch(events[start : start + BATCH]))

    async def _post_batch(self, events: Sequence[dict[str, Any]]) -> None:
        answer = await self._patiently(
            "POST",
            "/booking/v1/events",
            token=self._token,
            body=events,
            content_type=BATCH_TYPE,
        )
        if answer.status != 202:
            raise Refused(f"the intake answered {answer.status}: {answer.body.decode()}")
        found = answer.json()
        if found["rejected"]:
            raise Refused(f"an event was rejected: {found['rejected'][0]}")
        self.tally.events += found["accepted"]
        self.tally.duplicates += found["duplicate"]

    async def _react(self) -> None:
        """Lets some patients confirm their appointment or answer the survey."""
        async with asyncio.TaskGroup() as group:
            for message in self._mail.fresh():
                text = message["text"]
                # Whoever gets the same message decides the same, whatever the order of arrival.
                mood = Random(f"{message['to']} {LINK.sub('', text)}")  # noqa: S311
                if (survey := SURVEY_LINK.search(text)) is not None:
                    if mood.random() < self._plan.answer_share:
                        group.create_task(self._answer(survey.group(0), mood))
                elif (confirm := CONFIRM_LINK.search(text)) is not None:  # noqa: SIM102
                    if mood.random() < self._plan.confirm_share:
                        group.create_task(self._follow(confirm.group(0)))

    async def _answer(self, path: str, mood: Random) -> None:
        csat = mood.choices(*zip(*CSAT_SHARES, strict=True))[0]
        nps = min(10, max(0, round(mood.gauss(1.9 * csat, 1.2))))
        if await self._follow(path, f"csat={csat}&nps={nps}&comment=".encode()):
            self.tally.answers += 1

    async def _follow(self, path: str, form: bytes = b"") -> bool:
        """Opens a page and sends its form; gives whether the page was there and took it."""
        page = await self._client.request("GET", path)
        if page.status in GONE:
            return False
        if (shown := SHOWN_START.search(page.body)) is not None:
            form = b"starts_at=" + shown.group(1)
        answer = await self._client.request("POST", path, payload=form, content_type=FORM_TYPE)
        if answer.status in GONE:
            return False
        if answer.status not in TAKEN:
            raise Refused(f"a patient's page answered {answer.status}")
        return True


def say(text: str) -> None:
    """Prints a line for the person who watches."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
