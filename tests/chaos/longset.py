"""The long set on each kind of broker, in a process of its own: one's work is not the other's delay."""

import asyncio
import itertools
import multiprocessing
import re
import shutil
import signal
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from tests.chaos.rig import Platform
from tests.chaos.scenarios import MUTANTS, ONLY_ON_KAFKA, SCENARIOS
from tests.chaos.trials import Outcome, try_mutant, try_set


def run_all(
    kinds: Sequence[str], rounds: int, seed: int, match: str, logs: Path | None
) -> list[Outcome]:
    """Runs the set on each kind of broker, at the same time: a trial waits more than it works."""
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    processes = []
    for kind in kinds:
        ends[kind], end = context.Pipe(duplex=False)
        arguments = (end, kind, rounds, seed, match, logs)
        processes.append(context.Process(target=_run_alone, args=arguments))
        processes[-1].start()
        end.close()

    def end_all(*_: object) -> None:
        for process in processes:
            process.terminate()

    signal.signal(signal.SIGTERM, end_all)
    outcomes: list[Outcome] = []
    for kind, heard in ends.items():
        try:
            outcomes += heard.recv()
        except EOFError:
            outcomes.append(Outcome(kind, False, 0.0, "broke off"))
    for process in processes:
        process.join()
    return outcomes


def _run_alone(
    end: Connection, kind: str, rounds: int, seed: int, match: str, logs: Path | None
) -> None:
    end.send(asyncio.run(_run(kind, rounds, seed, match, logs)))


async def _run(kind: str, rounds: int, seed: int, match: str, logs: Path | None) -> list[Outcome]:
    if (whole := asyncio.current_task()) is not None:
        # Whoever ends the run ends its processes, too.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, whole.cancel)
    outcomes: list[Outcome] = []
    controls: dict[str, Outcome] = {}
    here = [one for one in SCENARIOS if kind == "kafka" or one not in ONLY_ON_KAFKA]
    faults = [fault for fault in here if re.search(match, fault)]
    mutants = [mutant for mutant in MUTANTS if re.search(match, f"mutant {mutant}")]
    with tempfile.TemporaryDirectory(prefix="revisit-chaos-") as name:
        folder = Path(name)
        platform = Platform(folder, kind)

        async def attempt(names: Sequence[str], turn: int) -> Outcome:
            outcome = await try_set(platform, names, seed + turn)
            _show(outcomes, kind, outcome)
            return outcome

        try:
            await platform.start()
            for turn, names in itertools.product(range(rounds), _sets(faults, alone=bool(match))):
                controls[names[0]] = await attempt(names, turn)
            for mutant in mutants:
                fault = MUTANTS[mutant].fault
                control = controls.get(fault) or await attempt([fault], 0)
                controls[fault] = control
                _show(outcomes, kind, await try_mutant(platform, mutant, seed, control))
        finally:
            await platform.stop()
            if logs is not None:
                logs.mkdir(parents=True, exist_ok=True)
                for log in folder.glob("*.log"):
                    shutil.copy(log, logs / f"{kind}-{log.name}")
    return outcomes


def _sets(faults: Sequence[str], *, alone: bool) -> list[list[str]]:
    """Faults that are judged together: those of a letter, and each mutant's control by itself."""
    controls = {wanted.fault for wanted in MUTANTS.values()}
    sets = [[fault] for fault in faults if alone or fault in controls]
    rest = [fault for fault in faults if not alone and fault not in controls]
    return [*sets, *(list(group) for _, group in itertools.groupby(rest, lambda f: f.split()[0]))]


def _show(outcomes: list[Outcome], kind: str, outcome: Outcome) -> None:
    outcomes.append(outcome)
    mark = "passed" if outcome.passed else "FAILED"
    print(
        f"{kind:<9} {outcome.name:<34} {mark} {outcome.seconds:6.1f} s  {outcome.detail}",
        flush=True,
    )
