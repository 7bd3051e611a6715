"""A service's consumer alone under a group of its own: `python -m bench.worker SERVICE GROUP`."""

import asyncio
import importlib
import signal
import sys

import uvloop

from revisit_chassis.clock import SystemClock


async def main(service: str, group: str) -> None:
    """Consumes until SIGTERM; no relay, no schedule."""
    app = importlib.import_module(f"{service}.app")
    settings = importlib.import_module(f"{service}.settings").Settings()
    worker = app.build_worker(settings, clock=SystemClock())
    worker.consumer.group = group
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.watch.run(stop))
        tasks.create_task(worker.consumer.run(stop))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
