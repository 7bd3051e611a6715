"""Requests to the APIs that the load leaves alone, while a fault happens, and what must have come of them."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.chaos.scene import Scene

PAUSE_SECONDS = 0.1


@dataclass(slots=True)
class Asked:
    """How much was acknowledged of what was asked for.

    Args:
        mark: In whatever is written. Its patient has no visit: what they say keeps no message from anybody.
        rounds: Statements of consent, and as many complaints.
    """

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    rounds: int = 0

    @property
    def consents(self) -> str:
        """Path of the patient's consents."""
        return f"/v1/patients/P-{self.mark}/consents"

    async def once(self, scene: Scene) -> None:
        """States a consent, opens a complaint, and reads tasks; insists on each."""
        clinic = scene.trial.clinics[0]
        consent = {
            "purpose": "care",
            "channel": "email",
            "state": "granted" if self.rounds % 2 else "refused",
            "wording_version": f"chaos-{self.rounds}",
            "source": "chaos",
            "given_at": datetime.now(UTC).isoformat(),
        }
        complaint = {"severity": "low", "cause_code": f"c{self.mark}"}
        await asyncio.gather(
            scene.insist("engagement", "PUT", self.consents, clinic, json={"consents": [consent]}),
            scene.insist("engagement", "GET", "/v1/tasks", clinic),
            scene.insist(
                "feedback",
                "POST",
                "/v1/complaints",
                clinic,
                json=complaint,
                headers={"Idempotency-Key": f"{self.mark}-{self.rounds}"},
            ),
        )
        self.rounds += 1

    async def check(self, scene: Scene) -> None:
        """Each statement and each complaint is there once."""
        assert self.rounds
        clinic = scene.trial.clinics[0]
        told = (await scene.insist("engagement", "GET", self.consents, clinic)).json()["ledger"]
        assert told["broken_at"] is None, told
        assert told["length"] == self.rounds, f"{told['length']} statements of {self.rounds}"
        query = (
            "SELECT count(*) FROM complaint WHERE clinic_id = ANY ($1::uuid[]) AND cause_code = $2"
        )
        opened = await scene.value("feedback", query, f"c{self.mark}")
        assert opened == self.rounds, f"{opened} complaints of {self.rounds}"


@contextlib.asynccontextmanager
async def asking(scene: Scene) -> AsyncIterator[None]:
    """Asks on until the fault is over, and checks what came of it."""
    asked, is_over = Asked(), asyncio.Event()

    async def ask_on() -> None:
        while not is_over.is_set():
            await asked.once(scene)
            await asyncio.sleep(PAUSE_SECONDS)

    task = asyncio.create_task(ask_on())
    try:
        yield
        is_over.set()
        await task
    finally:
        task.cancel()
    await asked.check(scene)
