"""The long set: `python -m tests.chaos [--rounds N] [--seed S] [--only embedded|kafka] [--match PATTERN]`.

Every fault, then every mutant, on the embedded broker and on Apache Kafka. The seed is printed; the same
one gives the same choices again. Faults of a letter are judged together, unless a pattern picks some: then
each alone. A mutant's control is the same fault without it, in the same run.
"""

import argparse
import asyncio
import itertools
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from deploy.kafka.apache_kafka import KafkaUnavailable, fetch_jars

from tests.chaos.rig import Platform
from tests.chaos.scenarios import MUTANTS, ONLY_ON_KAFKA, SCENARIOS
from tests.chaos.trials import Outcome, try_mutant, try_set

KINDS = ("embedded", "kafka")


async def run_all(
    kinds: Sequence[str], rounds: int, seed: int, match: str, logs: Path | None
) -> list[Outcome]:
    """Runs the set on each kind of broker, at the same time: a trial waits more than it works."""
    if (whole := asyncio.current_task()) is not None:
        # Whoever ends the run ends its processes, too.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, whole.cancel)
    found = await asyncio.gather(*(run(kind, rounds, seed, match, logs) for kind in kinds))
    return [outcome for outcomes in found for outcome in outcomes]


async def run(kind: str, rounds: int, seed: int, match: str, logs: Path | None) -> list[Outcome]:
    """Runs the set on one kind of broker."""
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


def _report(path: Path, outcomes: Sequence[Outcome]) -> None:
    suite = ElementTree.Element(
        "testsuite",
        name="chaos",
        tests=str(len(outcomes)),
        failures=str(sum(not outcome.passed for outcome in outcomes)),
    )
    for outcome in outcomes:
        case = ElementTree.SubElement(
            suite, "testcase", name=outcome.name, time=f"{outcome.seconds:.1f}"
        )
        if not outcome.passed:
            ElementTree.SubElement(case, "failure", message=outcome.detail)
    ElementTree.ElementTree(suite).write(path, encoding="utf-8")


def main() -> int:
    """Gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="times through the faults")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--logs", type=Path, help="folder that keeps the processes' logs")
    parser.add_argument("--junitxml", type=Path, help="file that takes the outcomes as a report")
    parser.add_argument(
        "--match", default="", help="only faults and mutants that this pattern finds"
    )
    arguments = parser.parse_args()
    kinds = (arguments.only,) if arguments.only else KINDS
    if "kafka" in kinds:
        # Before the first half: half an answer after minutes helps nobody.
        try:
            fetch_jars()
        except KafkaUnavailable as error:
            print(f"make chaos cannot run: {error}", file=sys.stderr)
            return 1
    print(f"seed {arguments.seed}", flush=True)
    started = time.monotonic()
    outcomes = asyncio.run(
        run_all(kinds, arguments.rounds, arguments.seed, arguments.match, arguments.logs)
    )
    failed = sum(not outcome.passed for outcome in outcomes)
    if arguments.junitxml is not None:
        _report(arguments.junitxml, outcomes)
    print(f"{time.monotonic() - started:.0f} s, seed {arguments.seed}")
    print(f"{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
