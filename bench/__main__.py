"""`make bench ARGS="--json FILE [--only NAME]"`: measures, prints a table, writes JSON.

Floors are ratios to the bare script of the same run; absolute figures of one machine say little.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench.measure import MEASUREMENTS, Bench, Size
from bench.rig import Rig

FLOORS = {
    "ingest_batch": 0.50,
    "ingest_single": 1.0,
    "pipeline": 0.60,
    "pipeline_all": 0.25,
    "consumer_engagement": 0.40,
    "consumer_feedback": 0.40,
    "consumer_scoring": 0.40,
}
CEILINGS = {
    ("latency_ms", "p99"): 100.0,
    ("recovery_s", "api"): 2.0,
    ("recovery_s", "relay"): 2.0,
    ("recovery_s", "consumer"): 14.0,
    ("memory_mib", "idle_largest"): 120.0,
    ("memory_mib", "saturated_largest"): 200.0,
    ("memory_mib", "standalone"): 1024.0,
}


def main() -> int:
    """Runs what was asked for; gives 1 when a figure is beyond its floor or ceiling."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--only", action="append", choices=sorted(MEASUREMENTS), metavar="NAME")
    parser.add_argument(
        "--pairs",
        type=int,
        default=5,
        help="pairs, of ingest three times as many",
    )
    parser.add_argument("--events", type=int, default=60_000, help="events a run")
    parser.add_argument("--memory-events", type=int, default=1_000_000)
    arguments = parser.parse_args()
    size = Size(
        pairs=arguments.pairs,
        events=arguments.events,
        memory_events=arguments.memory_events,
    )
    figures: dict[str, dict[str, Any]] = {}
    started = time.monotonic()
    with Rig() as rig:
        for name in arguments.only or MEASUREMENTS:
            bench = Bench(rig, size, partial(_progress, started, name))
            figures[name] = MEASUREMENTS[name](bench)
            _print_row(name, figures[name])
            if arguments.json is not None:
                # After each one: a run that is broken off leaves what it measured.
                arguments.json.write_text(json.dumps(figures, indent=2))
    missed = list(_missed(figures))
    for text in missed:
        print(f"BELOW ITS FLOOR  {text}")
    return 1 if missed else 0


def _progress(started: float, name: str, text: str) -> None:
    print(f"  [{time.monotonic() - started:6.0f} s] {name}: {text}", file=sys.stderr, flush=True)


def _print_row(name: str, row: dict[str, Any]) -> None:
    if "ratio" in row:
        floor = FLOORS.get(name)
        wanted = f"floor {floor:.2f}" if floor else ""
        print(
            f"{name:22} bare {row['bare']:>10,.1f}  revisit {row['revisit']:>10,.1f} {row['unit']:9}"
            f" ratio {row['ratio']:.2f}  {wanted}"
        )
    figures = {
        key: value
        for key, value in row.items()
        if isinstance(value, int | float) and key not in {"bare", "revisit", "ratio", "pairs"}
    }
    if figures:
        text = "  ".join(f"{key} {value:,.1f}" for key, value in figures.items())
        print(f"{name:22} {text}")


def _missed(figures: dict[str, dict[str, Any]]) -> list[str]:
    missed = [
        f"{name}: {figures[name]['ratio']:.2f} < {floor:.2f}"
        for name, floor in FLOORS.items()
        if name in figures and figures[name]["ratio"] < floor
    ]
    missed += [
        f"{name}.{key}: {figures[name][key]:.1f} > {ceiling:.1f}"
        for (name, key), ceiling in CEILINGS.items()
        if name in figures and figures[name][key] > ceiling
    ]
    return missed


if __name__ == "__main__":
    sys.exit(main())
