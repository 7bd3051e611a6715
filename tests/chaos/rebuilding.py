"""Projections made again from the event log: they are what was added up event by event amid kills."""

import asyncio
from typing import Any

from tests.chaos.scene import POSTS, Scene

REBUILT = ("engagement", "scoring")
STATES = ("in_scope", "booked", "task_open", "released", "violations")


async def rebuild(scene: Scene) -> None:
    """Workers are killed under load; what they have made of it is made again from their logs."""
    workers = [f"{service}-worker" for service in REBUILT]
    processes = scene.platform.processes
    load = asyncio.create_task(scene.load.run(POSTS))
    for name in workers:
        await asyncio.sleep(scene.random.uniform(0.1, 0.8))
        await asyncio.to_thread(processes[name].kill)
        await scene.restart(name)
    await load

    async def is_applied() -> bool:
        wanted = [len(scene.load.ledger.visits(clinic.id)) for clinic in scene.trial.clinics]
        found = await _figures(scene)
        return [one["visits"][0] for one in found] == wanted == [one["in_scope"] for one in found]

    await scene.until(is_applied, "the figures of all visits")
    for name in workers:
        await asyncio.to_thread(processes[name].stop)
    before = await _figures(scene)
    for service in REBUILT:
        clinics = [f"--clinic={clinic.id}" for clinic in scene.trial.clinics]
        await scene.platform.command(service, "rebuild", *clinics)
    after = await _figures(scene)
    assert after == before, f"made again: {after}, added up: {before}"
    await asyncio.gather(*(scene.restart(name) for name in workers))


async def _figures(scene: Scene) -> list[dict[str, Any]]:
    """Key figures with their numbers of cases, and the 2Z statement, of each clinic."""
    found = []
    for clinic in scene.trial.clinics:
        kpis = (await scene.insist("scoring", "GET", "/v1/kpis", clinic)).json()["items"]
        statement = (await scene.insist("engagement", "GET", "/v1/two-z", clinic)).json()
        figures: dict[str, Any] = {one["kpi"]: (one["value"], one["n"]) for one in kpis}
        found.append(figures | {state: statement[state] for state in STATES})
    return found
