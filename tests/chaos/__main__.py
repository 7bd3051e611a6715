"""The long set: `python -m tests.chaos [--rounds N] [--seed S] [--only embedded|kafka] [--match TEXT]`.

Every fault, then every mutant, on the embedded broker and on Apache Kafka. The seed is printed; the same
one gives the same choices again.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from deploy.kafka.apache_kafka import ApacheKafka

from tests.chaos.rig import Broker, EmbeddedLog, Platform
from tests.chaos.scenarios import CAUGHT_BY, SCENARIOS
from tests.chaos.trials import Outcome, try_mutant, try_one

KAFKA_PARTITIONS = 3


async def run(kind: str, rounds: int, seed: int, match: str, logs: Path | None) -> list[Outcome]:
    """Runs the set on one kind of broker."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="revisit-chaos-") as name:
        folder = Path(name)
        broker = _broker(kind, folder)
        await asyncio.to_thread(broker.start)
        platform = Platform(
            folder,
            broker,
            partitions=KAFKA_PARTITIONS if kind == "kafka" else 1,
            idempotent=kind == "kafka",
        )
        try:
            await platform.start()
            for turn in range(rounds):
                for fault in SCENARIOS:
                    if match in fault:
                        _show(outcomes, kind, await try_one(platform, fault, seed + turn))
            for mutant in CAUGHT_BY:
                if match in mutant:
                    _show(outcomes, kind, await try_mutant(platform, mutant, seed))
        finally:
            await platform.stop()
            await asyncio.to_thread(broker.stop)
            if logs is not None:
                logs.mkdir(parents=True, exist_ok=True)
                for log in folder.glob("*.log"):
                    shutil.copy(log, logs / f"{kind}-{log.name}")
    return outcomes


def _broker(kind: str, folder: Path) -> Broker:
    if kind == "kafka":
        return ApacheKafka(folder / "kafka")
    return EmbeddedLog(folder / "broker.log")


def _show(outcomes: list[Outcome], kind: str, outcome: Outcome) -> None:
    outcomes.append(outcome)
    mark = "passed" if outcome.passed else "FAILED"
    print(
        f"{kind:<9} {outcome.name:<34} {mark} {outcome.seconds:6.1f} s  {outcome.detail}",
        flush=True,
    )


def main() -> int:
    """Gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="times through the faults")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", choices=("embedded", "kafka"))
    parser.add_argument("--logs", type=Path, help="folder that keeps the processes' logs")
    parser.add_argument("--match", default="", help="only faults and mutants with this text")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    started = time.monotonic()
    outcomes: list[Outcome] = []
    for kind in (arguments.only,) if arguments.only else ("embedded", "kafka"):
        outcomes += asyncio.run(
            run(kind, arguments.rounds, arguments.seed, arguments.match, arguments.logs)
        )
    failed = sum(not outcome.passed for outcome in outcomes)
    print(f"{time.monotonic() - started:.0f} s, seed {arguments.seed}")
    print(f"{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
