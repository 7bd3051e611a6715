"""What a fault works with: the platform, a load, the trial that judges, and how processes die."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import asyncpg
import httpx

from revisit_chassis.failpoint import KILLED
from tests.chaos.checks import Trial
from tests.chaos.ledger import Clinic, Load
from tests.chaos.process import SESSION_MS
from tests.chaos.providers import Misbehaviour
from tests.chaos.rig import POLL_SECONDS, SERVICES, Platform

DEATH_TIMEOUT_SECONDS = 60
INSIST_SECONDS = 60
POSTS = 12
WORKERS = ("booking-worker", "engagement-worker", "feedback-worker", "scoring-worker")
PROCESSES = tuple(sorted(f"{service}-{kind}" for service in SERVICES for kind in ("api", "worker")))


@dataclass(slots=True)
class Scene:
    """What a fault works with."""

    platform: Platform
    load: Load
    trial: Trial
    random: Random
    mutant: tuple[str, str] = ("", "")

    async def register_ahead(self, count: int) -> None:
        """Registers patients until there are so many who have had no visit yet."""
        clinics, registered = self.trial.clinics, self.load.registered or 0
        wanted = count + max(self.load.next_number(clinic) for clinic in clinics)
        if wanted > registered:
            await self.platform.register_patients(clinics, range(registered + 1, wanted + 1))
            self.load.registered = wanted

    async def restart(
        self,
        name: str,
        *,
        failpoint: str = "",
        session_ms: int = SESSION_MS,
        may_die: bool = False,
    ) -> None:
        """Starts a process again, with its mutant where it has one, and waits until it is ready.

        Args:
            name: Of the process.
            failpoint: Where it is to die.
            session_ms: After which its group takes it for dead.
            may_die: Whether it may be dead before it was ever ready.
        """
        process, mutant = self.mutant
        await asyncio.to_thread(
            self.platform.launch,
            name,
            failpoint=failpoint,
            mutant=mutant if name == process else "",
            session_ms=session_ms,
        )
        if failpoint or may_die:
            await self._ready_or_dead(name)
        else:
            await self.platform.ready(name)

    async def crash(
        self, places: Mapping[str, str], posts: int = POSTS, load: Awaitable[None] | None = None
    ) -> None:
        """Lets processes die at named places under load, and starts them again."""
        await asyncio.gather(
            *(self.restart(name, failpoint=failpoint) for name, failpoint in places.items())
        )
        running = asyncio.ensure_future(load or self.load.run(posts))
        await asyncio.gather(*(self._come_back(*place) for place in places.items()))
        await running

    async def mend(self) -> None:
        """Puts right what a fault that broke off may have left behind."""
        self.platform.providers.misbehaviour = Misbehaviour()
        for name in [*self.platform.processes]:
            process = self.platform.processes[name]
            process.send(signal.SIGCONT)
            if name.endswith("-b"):
                await asyncio.to_thread(process.stop)
            elif process.poll() is not None:
                await self.restart(name)

    async def insist(
        self, service: str, method: str, path: str, clinic: Clinic | None, **request: Any
    ) -> httpx.Response:
        """Asks again until there is an answer, as a client does whose connection broke."""
        headers = request.pop("headers", {})
        if clinic is not None:
            headers["Authorization"] = f"Bearer {clinic.token}"
        deadline = time.monotonic() + INSIST_SECONDS
        async with httpx.AsyncClient(timeout=10, base_url=self.platform.url(service)) as client:
            while True:
                answer = None
                with contextlib.suppress(httpx.TransportError):
                    answer = await client.request(method, path, headers=headers, **request)
                if answer is not None and answer.status_code < 300:
                    return answer
                if answer is not None and answer.status_code >= 500:
                    self.load.ledger.server_errors[answer.status_code] += 1
                if time.monotonic() > deadline:
                    raise AssertionError(f"{method} {path}: {answer and answer.text}")
                await asyncio.sleep(0.1)

    async def published(self, service: str, topic: str) -> int:
        """Counts the events of the trial's clinics in a service's outbox."""
        query = "SELECT count(*) FROM outbox WHERE topic = $2 AND clinic_id = ANY ($1::uuid[])"
        return int(await self.value(service, query, topic))

    async def value(self, service: str, query: str, *arguments: object) -> Any:
        """Asks a service's database, past its users; $1 is the trial's clinics."""
        connection = await asyncpg.connect(self.platform.superuser_url(service))
        try:
            clinics = [clinic.id for clinic in self.trial.clinics]
            return await connection.fetchval(query, clinics, *arguments)
        finally:
            await connection.close()

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Waits for something that must come."""
        deadline = time.monotonic() + DEATH_TIMEOUT_SECONDS
        while not await condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} never came")
            await asyncio.sleep(0.1)

    async def _come_back(self, name: str, failpoint: str) -> None:
        await self.death(name, failpoint)
        await self.restart(name)

    async def _ready_or_dead(self, name: str) -> None:
        process = self.platform.processes[name]
        while process.poll() is None and not await self.platform.is_ready(name):
            await asyncio.sleep(POLL_SECONDS)

    async def death(self, name: str, place: str) -> None:
        """Waits until a process has died at a place."""
        deadline = time.monotonic() + DEATH_TIMEOUT_SECONDS
        while (code := self.platform.processes[name].poll()) is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} never came to {place}")
            await asyncio.sleep(0.05)
        assert code == KILLED, f"{name} ended with {code} and not at {place}"


Fault = Callable[[Scene], Awaitable[None]]
