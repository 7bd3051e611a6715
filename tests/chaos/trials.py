"""A trial: a fault on clinics of its own, and the verdict."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.chaos.checks import Trial
from tests.chaos.ledger import Load
from tests.chaos.rig import Platform
from tests.chaos.scenarios import MUTANTS, SCENARIOS, visits_of
from tests.chaos.scene import Scene
from tests.chaos.unwanted import arrange

CLINICS = 2
VERDICT_SECONDS = 90.0
"""A client of Kafka gives a dead connection 40 s before it looks for another one."""
FEWEST_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended."""

    name: str
    passed: bool
    seconds: float
    detail: str
    verdict_seconds: float = 0.0


async def try_faults(platform: Platform, names: Sequence[str], seed: int) -> list[str]:
    """Runs faults one after another on the same clinics; gives what does not hold at the end."""
    scene = await _scene(platform, seed, names[0])
    for name in names:
        started = time.monotonic()
        await scene.register_ahead(visits_of(name))
        await SCENARIOS[name](scene)
        print(f"  {name}: {time.monotonic() - started:.1f} s", flush=True)
    return await scene.trial.verdict(VERDICT_SECONDS)


async def try_set(platform: Platform, names: Sequence[str], seed: int) -> Outcome:
    """Runs faults one after another on the same clinics and judges them once.

    What one of them loses or doubles stays lost or doubled, so nothing is weaker than judging each;
    which of them it was tells a run of each alone (`--match`).
    """
    started = time.monotonic()
    scene = await _scene(platform, seed, names[0])
    found: list[str] = []
    for name in names:
        begun = time.monotonic()
        try:
            await scene.register_ahead(visits_of(name))
            await SCENARIOS[name](scene)
        except Exception as error:
            found.append(f"{name}: {type(error).__name__}: {error}")
            # A fault that broke off may have left a process dead or a provider broken.
            await scene.mend()
        print(f"{platform.kind:<9}   {name}: {time.monotonic() - begun:.1f} s", flush=True)
    judged = time.monotonic()
    try:
        found += await scene.trial.verdict(VERDICT_SECONDS)
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
    ended = time.monotonic()
    name = names[0] if len(names) == 1 else f"{names[0].split()[0]}, {len(names)} faults"
    return Outcome(name, not found, ended - started, "; ".join(found[:6]), ended - judged)


async def try_mutant(platform: Platform, mutant: str, seed: int, control: Outcome) -> Outcome:
    """Runs a mutant under its fault; passes when the suite finds what that mutant must lead to.

    Args:
        platform: Runs.
        mutant: Its name.
        seed: Of the control.
        control: The same fault without the mutant. It must have passed, and the mutant gets twice the
            time that it took: a platform that is merely slow is no catch.
    """
    started = time.monotonic()
    wanted = MUTANTS[mutant]
    scene = await _scene(platform, seed, wanted.fault, (wanted.process, mutant))
    finding: str | None = None
    try:
        await SCENARIOS[wanted.fault](scene)
        limit = max(FEWEST_SECONDS, 2 * control.verdict_seconds)
        finding = await scene.trial.catches(wanted.finding, limit)
        detail = f"caught: {finding}" if finding else "not caught"
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
    finally:
        scene.mutant = ("", "")
        await scene.mend()
        await scene.restart(wanted.process)
    if not control.passed:
        detail = f"without the mutant it fails as well; {detail}"
    seconds = time.monotonic() - started
    return Outcome(f"mutant {mutant}", control.passed and bool(finding), seconds, detail)


async def _scene(
    platform: Platform, seed: int, first: str, mutant: tuple[str, str] = ("", "")
) -> Scene:
    """Clinics for a trial, with what its first fault needs; the defect is there before anything is due."""
    clinics = await platform.register_clinics(CLINICS, 0)
    load = Load(platform.url("booking"), clinics, seed)
    scene = Scene(platform, load, Trial(platform, clinics, load.ledger), Random(seed), mutant)
    await scene.register_ahead(visits_of(first))
    if mutant[0]:
        await scene.restart(mutant[0])
    scene.trial.unwanted = await arrange(platform, seed)
    return scene
