"""A trial: a fault on clinics of its own, and the verdict."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.chaos.checks import Trial
from tests.chaos.ledger import Load
from tests.chaos.rig import Platform
from tests.chaos.scenarios import CAUGHT_BY, SCENARIOS, Scene

CLINICS = 2
PATIENTS = 70
VERDICT_SECONDS = 60.0
MUTANT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended."""

    name: str
    passed: bool
    seconds: float
    detail: str


async def try_faults(
    platform: Platform, names: Sequence[str], seed: int, *, patients: int = PATIENTS
) -> list[str]:
    """Runs faults one after another on the same clinics; gives what does not hold at the end."""
    scene = await _scene(platform, seed, patients)
    for name in names:
        started = time.monotonic()
        await SCENARIOS[name](scene)
        print(f"  {name}: {time.monotonic() - started:.1f} s", flush=True)
    return await scene.trial.verdict(VERDICT_SECONDS)


async def try_one(platform: Platform, name: str, seed: int) -> Outcome:
    """Runs one fault and judges it."""
    started = time.monotonic()
    try:
        found = await try_faults(platform, [name], seed)
    except Exception as error:
        found = [f"{type(error).__name__}: {error}"]
    return Outcome(name, not found, time.monotonic() - started, "; ".join(found[:3]))


async def try_mutant(platform: Platform, mutant: str, seed: int) -> Outcome:
    """Runs a mutant under its fault; passes when the suite finds something."""
    started = time.monotonic()
    process, fault = CAUGHT_BY[mutant]
    scene = await _scene(platform, seed, PATIENTS)
    scene.mutant = (process, mutant)
    await scene.restart(process)
    await fault(scene)
    found = await scene.trial.verdict(MUTANT_SECONDS)
    scene.mutant = ("", "")
    await scene.restart(process)
    detail = f"caught: {found[0]}" if found else "not caught"
    return Outcome(f"mutant {mutant}", bool(found), time.monotonic() - started, detail)


async def _scene(platform: Platform, seed: int, patients: int) -> Scene:
    clinics = await platform.register_clinics(CLINICS, patients)
    load = Load(platform.url("booking"), clinics, seed)
    return Scene(platform, load, Trial(platform, clinics, load.ledger), Random(seed))
