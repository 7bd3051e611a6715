"""A service's consumer alone under a group of its own: `python -m bench.worker SERVICE GROUP`."""

import asyncio
import importlib
import sys

from revisit_chassis.clock import SystemClock
from revisit_chassis.process import run_until_signal


def main(service: str, group: str) -> None:
    """Consumes until SIGTERM, in a process like a worker's; no relay, no schedule."""
    app = importlib.import_module(f"{service}.app")
    settings = importlib.import_module(f"{service}.settings").Settings()
    worker = app.build_worker(settings, clock=SystemClock())
    worker.consumer.group = group

    async def work(stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.watch.run(stop))
            tasks.create_task(worker.consumer.run(stop))

    run_until_signal(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
