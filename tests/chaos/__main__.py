"""The long set: `python -m tests.chaos [--rounds N] [--seed S] [--only embedded|kafka] [--match PATTERN]`.

Every fault, then every mutant, on the embedded broker and on Apache Kafka. The seed is printed; the same
one gives the same choices again. Faults of a letter are judged together, unless a pattern picks some: then
each alone. A mutant's control is the same fault without it, in the same run.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from deploy.kafka.apache_kafka import KafkaUnavailable, fetch_jars

from tests.chaos.longset import run_all
from tests.chaos.trials import Outcome

KINDS = ("embedded", "kafka")


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
    outcomes = run_all(kinds, arguments.rounds, arguments.seed, arguments.match, arguments.logs)
    failed = sum(not outcome.passed for outcome in outcomes)
    if arguments.junitxml is not None:
        _report(arguments.junitxml, outcomes)
    print(f"{time.monotonic() - started:.0f} s, seed {arguments.seed}")
    print(f"{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
